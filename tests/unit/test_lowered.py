"""Cards that enforce less than was ordered: requested, enforced and measured power are told apart, everywhere."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from optimizer.curves import throughput_at_cap
from optimizer.reasons import Reason, Severity
from scheduler.cli import show
from scheduler.dispatch import Dispatcher
from scheduler.metrics import Metrics
from scheduler.orders import PoolOrder
from scheduler.pool_limits import PoolLimit, PoolLimits, Span
from scheduler.service import OperatorOrder
from scheduler.store.store import Store
from scheduler.web import tables
from scheduler.web.board import gather
from tests.support.loops import lab
from tests.support.power_worlds import power_world, wait_until
from tests.unit.test_odd_card import STUCK

NOW = datetime(2022, 9, 6, 21, tzinfo=UTC)
SAID = "32 GPUs of train enforce 150 W, less than the {} W ordered: a board's or another program's limit"


@contextmanager
def limited(folder, limit_kw=36.0, change=lambda text: text):
    """The lab, its pools capped by an operator's limit."""
    with lab(folder, change) as made:
        made.run(timedelta(seconds=30))
        made.facade.order(OperatorOrder("limit", site="lab", limit_kw=limit_kw, by="me"))
        made.run(timedelta(seconds=30))
        yield made


def hold(made, pool, watts, count=None):
    """A board controller holds the first `count` cards of a pool (None: all); None W: no more."""
    for gpu in made.hall.gpus_of[pool][:count]:
        made.hall.limit_out_of_band(gpu, watts)


def pool_of(made, pool="train"):
    return next(one for one in made.facade.report().pools if one.id == pool)


def told(notes):
    return [note for note in notes if note.code is Reason.BOARD_LIMIT]


# ---------------------------------------------------------------- a whole pool
def test_requested_enforced_and_measured_are_told_apart(tmp_path):
    with limited(tmp_path) as made:
        before = pool_of(made)
        assert before.enforced_w == before.cap_w > 160
        hold(made, "train", 150.0)
        made.run(timedelta(seconds=3))
        pool = pool_of(made)
        assert (pool.cap_w, pool.enforced_w) == (before.cap_w, 150.0)
        assert pool.draw_kw < 32 * 0.151
        curve = made.ctx.pools["train"].pool.curve
        assert pool.throughput == throughput_at_cap(curve, 150.0) < before.throughput
        assert made.ctx.dispatcher.limit("train") == PoolLimit(150.0, 32)
        text = made.facade.explain("train")
        assert f"{SAID.format(pool.cap_w)}; 150 W are {pool.throughput:.0%} throughput. Its power curve:" in text
        assert "enforce" not in made.facade.explain("chat")
        assert f"{pool.cap_w} W (150 W enforced)" in tables.pools(gather(made.facade, "lab"))
        metrics = Metrics()
        metrics.observe_tick(made.state.tick)
        said = metrics.render().decode()
        assert 'gridpace_pool_enforced_watts{pool="train"} 150.0' in said
        assert f'gridpace_pool_cap_watts{{pool="train"}} {float(pool.cap_w)}' in said
        hold(made, "train", None)
        made.run(timedelta(seconds=2))
        again = pool_of(made)
        assert again.enforced_w == again.cap_w
        assert "W enforced)" not in tables.pools(gather(made.facade, "lab"))


def test_it_is_said_once_a_change_stays_among_the_notes_and_goes_when_it_is_over(tmp_path):
    with limited(tmp_path) as made:
        hold(made, "train", 150.0)
        ticks = made.run(timedelta(seconds=20))
        (note,) = [note for tick in ticks for note in told(tick.notes)]
        assert (note.subject, note.severity) == ("train", Severity.WARNING)
        assert note.text == SAID.format(ticks[0].cap_w["train"])
        hold(made, "train", 120.0, count=12)
        (note,) = [note for tick in made.run(timedelta(seconds=20)) for note in told(tick.notes)]
        assert note.text.startswith("32 GPUs of train enforce 120 to 150 W, less than the ")
        assert (pool_of(made).enforced_w, made.ctx.dispatcher.limit("train")) == (None, None), "too few agree"
        assert "32 GPUs of train enforce 120 to 150 W" in made.facade.explain("train")
        made.state.notes.forget(made.clock.now() - timedelta(seconds=5))
        made.plan()
        assert [note.text for note in told(made.state.report.notes)] == [note.text]
        hold(made, "train", None)
        assert [note for tick in made.run(timedelta(seconds=5)) for note in told(tick.notes)] == []
        made.plan()
        assert told(made.state.report.notes) == []


def test_one_card_of_many_is_told_and_the_pools_limit_stays_that_of_the_others(tmp_path):
    with limited(tmp_path) as made:
        hold(made, "train", 150.0, count=1)
        (note,) = [note for tick in made.run(timedelta(seconds=5)) for note in told(tick.notes)]
        assert note.text.startswith("1 GPU of train enforces 150 W, less than the ")
        pool, gpu = pool_of(made), made.hall.gpus_of["train"][0]
        assert pool.enforced_w == pool.cap_w
        assert made.ctx.dispatcher.limit("train").odd == {gpu: Span(150.0, 150.0)}
        assert "1 GPU of train enforces 150 W" in made.facade.explain("train")


# ---------------------------------------------------------------- what is concluded from it
def test_curves_are_learned_from_what_boards_enforce(tmp_path):
    with limited(tmp_path) as made:
        hold(made, "train", 150.0)
        made.run(timedelta(seconds=20))
        samples = made.ctx.curves.status("train").samples
        made.run(timedelta(seconds=60))
        curve = made.ctx.curves.status("train")
        assert curve.samples > samples + 3
        assert "learns nothing now" not in curve.text


def test_limits_of_boards_that_move_nothing_are_an_alert_too(tmp_path):
    with limited(
        tmp_path, 24.0, lambda text: text.replace("load: 0.95", "load: 0.95, learn_curves: false") + STUCK
    ) as made:
        hold(made, "chat", 150.0)
        notes = [note for tick in made.run(timedelta(seconds=30))[15:] for note in tick.notes]
        texts = {note.text for note in notes if note.code is Reason.CAP_UNMOVED}
        assert texts
        assert all(text.startswith("the GPUs of chat enforce 150 W and draw ") for text in texts)


# ---------------------------------------------------------------- through the real binding, the agent and the bus
@pytest.mark.parametrize("kind", ["nvml", "agent", "fleet", "amdsmi"])
def test_what_boards_hold_is_read_back_whoever_drives_the_cards(kind, tmp_path, monkeypatch):
    with power_world(kind, tmp_path, monkeypatch) as world:
        hand = Dispatcher(
            Store.in_memory(), world.actuator, {"chat": tuple(world.gpus)}, writes=True, epoch=1, lease_s=60.0
        )
        hand.apply({"chat": PoolOrder(400, 8)}, 60.0, NOW)
        for gpu in world.gpus:
            world.board(gpu, 250.0)

        def look():
            hand.look(NOW)
            return hand.lowered()

        if kind == "amdsmi":  # its cap is the lower one at once
            world.write(world.gpus[0], 250.0)
        wait_until(look)
        wait_until(lambda: look()["chat"].count == 8)
        if kind in {"agent", "fleet"}:
            assert (
                hand.lowered()["chat"].text("chat").startswith("8 GPUs of chat enforce less than the 400 W ordered: ")
            )
            assert hand.limit("chat") is None, "nobody has read how much"
            wait_until(lambda: hand.verify(NOW) == () and hand.limit("chat") is not None)
        for _ in range(3):
            assert look()["chat"].text("chat").startswith("8 GPUs of chat enforce 250 W, less than the 400 W ordered: ")
            assert hand.limit("chat") == PoolLimit(250.0, 8)
        hand.release(NOW)
        assert (hand.lowered(), hand.limit("chat")) == ({}, None)


def test_cards_that_agents_call_lowered_are_odd_until_they_are_read():
    gpus = tuple(f"g{k}" for k in range(20))
    limits = PoolLimits({"p": gpus})
    limits.read(["p"], dict.fromkeys(gpus, 300.0))
    limits.lower({"g0"})
    assert limits.held["p"] == PoolLimit(300.0, 20, {"g0": Span(0.0, 300.0)})
    limits.settle({"g0"}, dict.fromkeys(gpus, 300.0) | {"g0": 150.0})
    limits.lower({"g0"})
    assert limits.held["p"] == PoolLimit(300.0, 20, {"g0": Span(150.0, 150.0)}), "it is known by now"
    limits.lower(())
    assert limits.held["p"].odd.keys() == {"g0"}, "its limit is another one now"
    assert limits.unsettled() == ["p"]
    wanted = dict.fromkeys(gpus, 300.0)
    assert limits.below(wanted) == {}
    limits.settle(gpus, dict.fromkeys(gpus, 150.0))
    assert limits.held["p"] == PoolLimit(150.0, 20)
    assert limits.below(wanted)["p"].count == 20
    assert limits.below(dict.fromkeys(gpus, 140.0)) == {}, "by the order of now it is not less"


# ---------------------------------------------------------------- a terminal
def test_the_terminal_shows_what_is_enforced_only_where_it_differs():
    row = {"cap_w": 195, "enforced_w": 150.0, "clock_mhz": None}
    assert show.enforced(row) == " (150 enforced)"
    for other in ({"enforced_w": 195.4}, {"enforced_w": None}, {"clock_mhz": 900}):
        assert show.enforced(row | other) == ""
    assert show.enforced({"cap_w": 195}) == "", "a daemon that tells none"


class Counted(str):
    """A card's name that counts how often it is compared."""

    compared = 0
    __hash__ = str.__hash__

    def __eq__(self, other):
        Counted.compared += 1
        return super().__eq__(other)


def test_half_of_a_large_fleet_comes_and_goes_without_comparing_each_card_with_all_others():
    """It took 20 s of a tick for 80,000 cards: nodes had followed an old trajectory and came back from it."""
    gpus = tuple(Counted(f"g{k}") for k in range(2000))
    half = {Counted(gpu) for gpu in gpus[:1000]}
    limits = PoolLimits({"p": gpus})
    limits.read(["p"], dict.fromkeys(gpus, 300.0))
    limits.lower(half)
    limits.read(["p"], dict.fromkeys(gpus, 300.0))
    limits.lower(())
    assert len(limits.lowered) == 0
    assert Counted.compared < 20 * len(gpus)
