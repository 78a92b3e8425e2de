"""The twin of a fleet on a real bus: caps lower measured power as cards answer, and its faults come from a seed."""

import asyncio
import time
from contextlib import suppress

import numpy as np
import pytest

from adapters.bus_settings import BusSettings
from adapters.ports import AdapterError, Lease
from adapters.power.fleet import FleetPower
from benchmarks.support.twin_fleet import Rates, twin_nodes
from optimizer.reasons import Reason
from scheduler.agent.bus import Ear
from scheduler.agent.core import AgentCore, AgentSettings
from scheduler.agent.process import answer
from scheduler.config.load import shipped_curves
from scheduler.fleet.twin import CURVE, TwinFiles, main
from scheduler.fleet.twin_hall import TwinHall, TwinModel
from tests.support.power_worlds import wait_until

FAST = Rates(0.2, 0.1)
CARD = shipped_curves()[CURVE]


def draw_at(cap_w, load):
    caps, draws = zip(*((point.cap_w, point.draw_w) for point in CARD.points), strict=True)
    return CARD.idle_w + load * (float(np.interp(cap_w, caps, draws)) - CARD.idle_w)


class Second:
    """Seconds that a test moves."""

    def __init__(self):
        self.at = 0.0

    def __call__(self):
        return self.at


def made(seed, **behaviour):
    clock = Second()
    return TwinHall([f"n{number}" for number in range(40)], 2, TwinModel(CARD, seed=seed, **behaviour), clock), clock


@pytest.mark.timeout(120)
def test_a_cap_lowers_the_power_that_nodes_tell_to_what_the_measured_curve_says(tmp_path):
    with twin_nodes(tmp_path / "bus", 6, 2, FAST, ("--load", "0.8", "--seed", "3", "--losses", "0.2")) as nodes:
        power = FleetPower(BusSettings((nodes.url,), "daemon"), 2.0)
        try:
            gpus = set()
            wait_until(lambda: gpus.update(found(power)) or len(gpus) == 12)

            def drawn(cap_w):
                draws = [watts for state in power.states().values() for watts in state.draw_w.values()]
                return len(draws) == 12 and draws == pytest.approx([draw_at(cap_w, 0.8)] * 12, rel=0.01)

            wait_until(lambda: drawn(400))
            sequence, left = 0, set(gpus)
            while left:  # a node whose cards can't be read refuses, as a real one does
                sequence += 1
                receipt = power.apply(dict.fromkeys(left, 250), Lease(1, sequence, 60.0))
                assert set(receipt.failures.values()) <= {Reason.NODE_LOST}
                left -= receipt.enforced_w.keys()
                time.sleep(0.3)
            wait_until(lambda: drawn(250))
            assert draw_at(250, 0.8) < 0.85 * draw_at(400, 0.8)
        finally:
            power.close()


def found(power):
    with suppress(AdapterError):
        return power.discover()
    return {}


def test_power_falls_within_a_tenth_of_a_second_and_rises_within_half_of_one():
    hall, clock = made(1)
    cards = hall.cards[7]

    def drawn(after_s):
        clock.at += after_s
        return next(iter(cards.discover().values())).draw_w

    free_w, capped_w = draw_at(400, 0.9), draw_at(200, 0.9)
    assert drawn(1.0) == pytest.approx(free_w, abs=0.05), "to a tenth of a watt"
    clock.at = 1.05
    assert cards.apply(dict.fromkeys(cards.places, 200), Lease(1, 1, 60.0)).enforced_w == dict.fromkeys(
        cards.places, 200.0
    )
    assert drawn(0.0) == pytest.approx(free_w, abs=0.05), "never sooner than written"
    assert drawn(0.17) == pytest.approx(capped_w, rel=0.01), "95 % in 50 ms"
    cards.apply(dict.fromkeys(cards.places, 400), Lease(1, 2, 60.0))
    halfway_w = drawn(0.2)
    assert capped_w * 1.1 < halfway_w < free_w * 0.99, "a higher cap takes longer"
    assert drawn(0.6) == pytest.approx(free_w, rel=0.01)
    others = [info.draw_w for info in hall.cards[8].discover().values()]
    assert others == pytest.approx([free_w] * 2, abs=0.05), "nobody else was ordered about"


def lived(hall, clock, step_s):
    """Which nodes can't be read, which cards are lost and which limits are reset, second by second."""
    story = []
    for second in range(1, 61):
        while clock.at < second - 1e-9:
            clock.at += step_s
            hall.look()
        story.append((hall.silent, tuple(hall.live), tuple(hall.limit_w)))
    return story


def test_the_faults_of_a_seed_are_the_same_ones_however_often_anybody_looks():
    behaviour = {"losses": 0.05, "gpu_loss_per_h": 20.0, "cap_reset_per_h": 60.0, "bursts": 0.3, "load_noise": 0.01}
    stories = {}
    for name, seed, step_s in (("often", 5, 0.1), ("seldom", 5, 0.5), ("other", 6, 0.5)):
        hall, clock = made(seed, **behaviour)
        for cards in hall.cards:
            cards.apply(dict.fromkeys(cards.places, 300), Lease(1, 1, 60.0))
        stories[name] = (lived(hall, clock, step_s), tuple(hall.told()[0]))
    assert stories["often"] == stories["seldom"]
    assert stories["often"] != stories["other"]
    silent, live, limits = zip(*stories["often"][0], strict=True)
    assert any(silent)
    assert not all(live[-1])
    assert 400.0 in limits[-1]


def test_cards_are_described_anew_as_soon_as_anything_of_them_changes():
    hall, clock = made(7, cap_reset_per_h=200.0, gpu_loss_per_h=50.0, bursts=0.4)
    rng, same, new, before = np.random.default_rng(7), 0, 0, {}
    for _ in range(600):
        clock.at += 0.1
        hall.look()
        for number in range(8):
            cards, caps_w = hall.cards[number], float(rng.integers(150, 450))
            if rng.random() < 0.05:
                cards.apply({gpu: caps_w for gpu in cards.places if rng.random() < 0.7}, Lease(1, 1, 60.0))
            draws, busy = hall.told()
            held = {gpu: (hall.limit_w[at], draws[at], busy[at]) for gpu, at in cards.places.items() if hall.live[at]}
            found = cards.discover()
            assert {gpu: (one.enforced_w, one.draw_w, one.utilisation) for gpu, one in found.items()} == held
            assert cards.enforced(tuple(cards.places)) == {gpu: limit_w for gpu, (limit_w, _, _) in held.items()}
            kept = found is before.get(number)
            same, new, before[number] = same + kept, new + (not kept), found
    assert same > 500, "what stays as it is is not described again"
    assert new > 500


def test_what_can_not_be_read_is_reported_as_an_agent_reports_it():
    hall, clock = made(2, losses=0.5)
    told, node = {}, 0

    class Client:
        async def publish(self, subject, data):
            told.setdefault(subject, []).append(data)

    async def do(work):
        return work()

    core = AgentCore(hall.cards[node], TwinFiles(), AgentSettings(), clock)
    ear = Ear(core, hall.names[node], answer, 1.0, do)
    read = {True: 0, False: 0}
    for second in range(1, 41):
        clock.at = second + 0.05
        hall.look()
        before = sum(map(len, told.values()))
        if node in hall.silent:
            with pytest.raises(AdapterError, match="can't be read"):
                core.discover()
            asked = answer(
                core,
                {
                    "op": "apply",
                    "caps_w": {"GPU-n0-0": 300},
                    "lease": {"epoch": 1, "sequence": second, "expires_in_s": 60.0},
                },
                True,
            )
            assert (asked["ok"], asked["code"]) == (False, "failed")
        ear._news._told = None
        asyncio.run(ear.tell(Client()))
        said = sum(map(len, told.values())) - before
        assert said == (node not in hall.silent), "a node that can't read its cards says nothing"
        read[said > 0] += 1
    assert min(read.values()) > 5
    at = hall.cards[3].places["GPU-n3-1"]
    hall._hall.fail(hall._ids[at], Reason.GPU_LOST)
    hall.silent, hall.model = frozenset(), TwinModel(CARD)
    clock.at += 1.0
    assert list(hall.cards[3].discover()) == ["GPU-n3-0"]
    receipt = AgentCore(hall.cards[3], TwinFiles(), AgentSettings(), clock).apply(
        {"GPU-n3-0": 300, "GPU-n3-1": 300}, Lease(1, 1, 60.0)
    )
    assert receipt.enforced_w == {"GPU-n3-0": 300.0}
    assert receipt.failures.keys() == {"GPU-n3-1"}


def test_a_curve_that_nobody_measured_is_an_error(capsys):
    with pytest.raises(SystemExit):
        main(["--fleet", "nats://127.0.0.1:1", "--curve", "none"])
    assert "A100-400W" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--count", "--gpus"])
def test_a_twin_without_nodes_or_cards_is_refused_in_one_line(option, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--fleet", "nats://127.0.0.1:1", option, "0"])
    assert ended.value.code == 2
    assert "must be at least 1" in capsys.readouterr().err
