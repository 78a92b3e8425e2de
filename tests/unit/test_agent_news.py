"""A node tells what is new at once, and what isn't just often enough not to count as lost."""

import asyncio
from contextlib import suppress
from dataclasses import replace

import pytest

from adapters.ports import GpuInfo
from adapters.power.fleet_roll import STALE_S
from scheduler.agent.bus import Ear, share_of
from scheduler.agent.news import QUIET_S, News

CARD = GpuInfo("GPU-1", "A100", 100.0, 400.0, 400.0, 400.0, 400.0, 300.0)
STATUS = {"phase": "free", "sequence": 1, "lease_left_s": 10.0, "found_w": {}}


def test_small_changes_wait_and_everything_else_is_told_at_once():
    at = [100.0]
    news = News(lambda: at[0])

    def worth(status=STATUS, **card):
        return news.worth({"GPU-1": replace(CARD, **card)}, status)

    assert worth()
    assert not worth(draw_w=301.9), "less than 2 W"
    assert not worth(status={**STATUS, "lease_left_s": 9.0}), "a lease that runs is no news"
    assert worth(draw_w=303.0)
    assert not worth(draw_w=301.5), "against what was told last"
    assert worth(draw_w=303.0, enforced_w=390.0)
    assert worth(draw_w=303.0, enforced_w=390.0, status={**STATUS, "phase": "leased"})
    at[0] += QUIET_S - 0.1
    assert not worth(draw_w=303.0, enforced_w=390.0, status={**STATUS, "phase": "leased"})
    at[0] += 0.1
    assert worth(draw_w=303.0, enforced_w=390.0, status={**STATUS, "phase": "leased"})


def test_slow_drift_is_told_when_it_adds_up():
    news = News(lambda: 0.0)
    told = [news.worth({"GPU-1": replace(CARD, draw_w=300.0 + step)}, STATUS) for step in range(7)]
    assert told == [True, False, True, False, True, False, True]


def test_a_quiet_node_is_heard_twice_before_it_counts_as_lost():
    assert 2 * QUIET_S < STALE_S


class _Deaf:
    """A connection on which nothing is heard."""

    is_connected = True

    async def subscribe(self, *_, **__):
        """Nobody speaks."""

    def jetstream(self, **_):
        raise OSError("no streams here")


def test_nodes_that_are_switched_on_together_do_not_speak_together(monkeypatch):
    """Ten thousand that did would keep orders waiting, again and again in the same moment."""
    pauses, sleep = [], asyncio.sleep

    async def asleep(seconds):
        pauses.append(seconds)
        await asyncio.Future()

    async def begun():
        for number in range(400):
            await Ear(None, f"n{number}", None, 1.0, None).begin(_Deaf())
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", asleep)
    asyncio.run(begun())
    first_words = [at for at in pauses if at <= 1.0]  # who can't ask for its trajectory tries again after more
    assert len(first_words) == 400
    assert all(20 <= sum(tenth <= 10 * at < tenth + 1 for at in first_words) <= 60 for tenth in range(10))


def test_nodes_of_one_process_share_moments_and_use_all_of_them(monkeypatch):
    """A process with thousands of them wakes up twenty times a second, and not thousands of times."""
    first_words, sleep = [], asyncio.sleep

    async def asleep(seconds):
        first_words.append(100.03 + seconds)
        await asyncio.Future()

    async def begun():
        asyncio.get_running_loop().time = lambda: 100.03
        ears = [Ear(None, f"n{number}", None, 1.0, None, grain_s=0.05) for number in range(400)]
        telling = [asyncio.create_task(ear._tell(_Deaf())) for ear in ears]
        await sleep(0)
        for task in telling:
            task.cancel()

    monkeypatch.setattr(asyncio, "sleep", asleep)
    asyncio.run(begun())
    assert len(first_words) == 400
    assert first_words == pytest.approx([round(20 * at) / 20 for at in first_words])
    assert {round(20 * at) for at in first_words} == set(range(2001, 2022)), "none early, no moment unused"


def test_a_node_that_was_late_keeps_its_moments(monkeypatch):
    """Thousands that were all late once, on a machine that was busy, would speak together ever after."""
    at, told, busy_s, sleep = [100.0], [], [0.0, 3.5, 0.2, 0.0], asyncio.sleep

    async def asleep(seconds):
        at[0] += max(0.0, seconds)
        await sleep(0)

    async def tell(_client):
        told.append(at[0])
        at[0] += busy_s.pop(0)
        if not busy_s:
            await asyncio.Future()

    async def begun():
        asyncio.get_running_loop().time = lambda: at[0]
        ear = Ear(None, "n1", None, 1.0, None)
        ear.tell = tell
        with suppress(TimeoutError):
            await asyncio.gather(ear._tell(_Deaf()), ended())

    async def ended():
        while busy_s:
            await sleep(0)
        raise TimeoutError

    monkeypatch.setattr(asyncio, "sleep", asleep)
    asyncio.run(begun())
    first, *later = told
    assert first == pytest.approx(100.0 + share_of("n1"))
    assert later == pytest.approx([first + 1.0, first + 4.5, first + 5.0]), "once for those it missed, then as before"
