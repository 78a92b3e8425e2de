"""Power follows its target through a meter that lags and loads that burst: exactly, no second above, and still."""

from datetime import timedelta

import pytest

from adapters.hall import SimulatedHall
from adapters.hall_cooling import Overhead as Cooling
from adapters.hall_noise import Bursts
from adapters.hall_state import HallPhysics
from adapters.ports import EventTarget
from benchmarks.support.course import message, pieces, read_signal, regulation
from benchmarks.support.track import reversals
from optimizer.domain import CurvePoint, GpuPool, PowerCurve, Work
from optimizer.envelope import event_limit_kw
from scheduler.clock import VirtualClock
from scheduler.meterline import MeterLine, Overhead
from scheduler.service import OperatorOrder
from scheduler.surprise import Surprises
from scheduler.targets import INF, careful
from tests.support.loops import START, lab, order

MINUTE = timedelta(minutes=1)
LAGGING = "\npower: {type: simulated, cooling_settle: 5m, seed: 3}\n"
BURSTY = "\npower: {type: simulated, load_bursts: 0.3, load_noise: 0.01, noise: 0.003, seed: 3}\n"


# ---------------------------------------------------------------- the twin
def test_cooling_follows_heat_and_in_the_end_obeys_pue():
    cooling = Cooling(settle_s=300.0)
    assert cooling.run_kw("a", 1.2, 100.0, 10.0) == pytest.approx(20.0), "it begins settled"
    first = cooling.run_kw("a", 1.2, 50.0, 1.0)
    assert 19.8 < first < 20.0, "the meter loses IT at once and the cooling later"
    cooling.run_kw("a", 1.2, 50.0, 299.0)
    assert cooling.now_kw("a", 1.2, 50.0) == pytest.approx(10.0 + 0.05 * 10.0, rel=0.01)
    halves = Cooling(settle_s=300.0)
    halves.run_kw("a", 1.2, 100.0, 10.0)
    kwh = sum(halves.run_kw("a", 1.2, 50.0, 0.5) for _ in range(2)) / 2
    assert kwh == pytest.approx(first), "energy is the integral, whatever the step"
    assert Cooling().run_kw("a", 1.2, 50.0, 1.0) == Cooling().now_kw("a", 1.2, 50.0) == pytest.approx(10.0)


def test_the_hall_meters_its_cooling_with_the_lag():
    curve = PowerCurve("test", 60.0, (CurvePoint(100, 95, 0.4), CurvePoint(400, 330, 1.0)))
    pool = GpuPool("serve", "north", "A100", 10, Work.INTERACTIVE, curve, 2.0, 0.9, 100.0, 400.0)
    clock = VirtualClock(START)
    hall = SimulatedHall([pool], clock, pue={"north": lambda _at: 1.5}, physics=HallPhysics(cooling_s=60.0))
    clock.sleep(1)
    assert hall.reading().import_kw["north"] == pytest.approx(3.3 * 1.5)
    hall.set_limits(dict.fromkeys(hall.pool_of, 100.0))
    clock.sleep(1)
    assert hall.reading().import_kw["north"] == pytest.approx(0.95 + 1.65, abs=0.08)
    before = hall.counters().import_kwh["north"]
    clock.sleep(600)
    assert hall.reading().import_kw["north"] == pytest.approx(0.95 * 1.5, rel=1e-3)
    assert (hall.counters().import_kwh["north"] - before) * 6 > 0.95 * 1.5 + 0.02, "the heat was carried away meanwhile"


def test_bursts_keep_between_their_depth_and_the_load_and_come_from_the_seed():
    moments = [START + timedelta(seconds=second) for second in range(1200)]
    rows = [[Bursts(lambda _at: 0.9, 0.3, seed, "chat")(at) for at in moments] for seed in (1, 1, 2)]
    assert rows[0] == rows[1] != rows[2]
    assert 0.63 - 1e-9 <= min(rows[0]) < 0.68
    assert 0.86 < max(rows[0]) <= 0.9
    steps = [abs(b - a) for a, b in zip(rows[0], rows[0][1:], strict=False)]
    assert max(steps) <= 0.9 * 0.3 / 5.0 + 1e-9, "batches fill in five seconds"
    assert sum(step < 1e-9 for step in steps) > 600, "most of the time a level holds"


# ---------------------------------------------------------------- the meter's line
def taught(share, noise=()):
    """What is known of a site with a PUE of 1.2 after two steps, of whose overhead `share` follows at once."""
    beside, it, over = Overhead(), 100.0, 20.0
    for number, target in enumerate((100.0, 100.0, 80.0, 80.0, 95.0, 95.0)):
        over += share * 0.2 * (target - it)
        it = target
        shift = noise[number] if noise else 0.0
        beside.see(it, over + shift, 0.2 * it, 1.2, 15.0)
    return beside


def test_how_much_of_the_overhead_follows_at_once_is_learned_from_steps():
    assert Overhead().shares == (0.0, 1.0), "not known: a fall counts without it, a rise with all of it"
    least, most = taught(0.0).shares
    assert (least, most) == (0.0, pytest.approx(0.1))
    least, most = taught(1.0).shares
    assert (least, most) == (pytest.approx(0.9), 1.0)
    assert taught(0.0, noise=(0, 0, 90.0, 0, 0, 0)).shares[1] >= 0.1, "nonsense teaches nothing"


def test_a_broken_meter_moves_the_line_by_its_bound_and_no_further():
    beside = Overhead()
    for _ in range(50):
        beside.see(100.0, 120.0, 20.0, 1.2, 15.0)
    assert beside.kw == pytest.approx(35.0)
    beside.lose()
    assert not beside.fresh


def test_what_a_pool_that_nobody_measured_was_taken_for_is_gone_when_it_is_measured_again():
    """A machine that is down was counted as if it drew 20 of 100 kW, so that too little seemed to lie beside IT. When
    it is back, what was really measured counts at once, and the step from one to the other teaches nothing."""
    beside = Overhead()
    for _ in range(20):
        beside.see(100.0, 18.0, 20.0, 1.2, 30.0, frozenset({"chat"}))
    beside.see(80.0, 20.0, 16.0, 1.2, 30.0)
    assert (beside.it_kw, beside.kw) == (80.0, 20.0)
    beside.see(79.0, 19.0, 16.0, 1.2, 30.0)
    assert beside.kw == pytest.approx(19.7), "noise is smoothed as ever"
    beside.see(100.0, 21.0, 20.0, 1.2, 30.0, frozenset({"chat"}))
    beside.see(90.0, 20.0, 18.0, 1.2, 30.0, frozenset({"train"}))
    assert (beside.it_kw, beside.kw) == (90.0, 20.0), "another guess is another line"
    beside.see(70.0, 18.0, 14.0, 1.2, 30.0)
    beside.see(90.0, 20.0, 18.0, 1.2, 30.0, frozenset({"chat"}))
    beside.see(70.0, 18.0, 14.0, 1.2, 30.0, frozenset({"chat"}))
    assert beside.shares == (0.0, 1.0), "no guess teaches anything"


def test_the_line_goes_both_ways_through_the_present():
    line = MeterLine(100.0, 122.0, falling=1.0, rising=1.2)
    assert [line.import_of(kw) for kw in (90.0, 100.0, 110.0)] == [112.0, 122.0, 134.0]
    assert [line.it_of(line.import_of(kw)) for kw in (90.0, 100.0, 110.0)] == pytest.approx([90.0, 100.0, 110.0])


# ---------------------------------------------------------------- room
def test_the_margin_is_what_surprised_lately_and_never_more_than_a_hundredth():
    loads = Surprises()
    assert loads.margin_kw(100.0, 0.003) == pytest.approx(0.3)
    for drawn_kw, margin_kw in ((99.0, 0.3), (99.9, 0.56), (140.0, 1.0)):
        loads.aim(99.5, 99.4, 99.3)
        loads.see(drawn_kw)
        assert loads.margin_kw(100.0, 0.003) == pytest.approx(margin_kw)
    stepped = Surprises()
    stepped.aim(80.0, 80.0, 99.3)
    stepped.see(81.0)
    assert stepped.margin_kw(100.0, 0.003) == pytest.approx(0.3), "a step off its curve is no restless load"


def test_a_surge_counts_twice_and_what_stays_as_far_as_the_model_may_lag():
    loads = Surprises()
    assert [loads.surge_kw(kw, 100.0) for kw in (100.0, 99.0, 101.0)] == [0.0, 0.0, 2.0]
    for drawn_kw, stays_kw in ((101.0, 1.0), (105.0, 2.1), (98.0, 0.0)):
        for _ in range(12):
            allowed_kw = loads.surge_kw(drawn_kw, 100.0)
        assert allowed_kw == pytest.approx(stays_kw), "as it is, a fiftieth of the draw at most, and no room below"
    assert loads.surge_kw(None, 100.0) == 0.0


def test_a_long_way_is_gone_carefully_and_the_end_of_it_exactly():
    assert [careful(100.0, drawn_kw) for drawn_kw in (100.0, 120.0, 80.0)] == [100.0, 99.0, 99.0]
    assert careful(INF, 80.0) == INF


# ---------------------------------------------------------------- the loops
def stairs(start, *percents):
    """An event with one step a minute."""
    cuts = [start + k * MINUTE for k in range(len(percents) + 1)]
    targets = tuple(EventTarget(cuts[k], cuts[k + 1], reduce_percent=percent) for k, percent in enumerate(percents))
    return order(start, cuts[-1], targets=targets, ramp_in_s=30.0, ramp_out_s=60.0)


def test_a_limit_is_kept_in_every_second_while_the_cooling_still_carries_old_heat(tmp_path):
    with lab(tmp_path, lambda text: text + LAGGING) as made:
        made.run(6 * MINUTE, step_s=5)
        made.facade.order(OperatorOrder("limit", site="lab", limit_kw=38.0, by="me"))
        made.tick()
        made.clock.sleep(1)
        ticks = made.run(2 * MINUTE)
        assert max(tick.import_kw["lab"] for tick in ticks) <= 38.0
        assert max(tick.import_kw["lab"] for tick in ticks[60:]) > 37.5, "and the room that the cooling frees is used"


def test_steps_are_followed_within_a_second_both_ways(tmp_path):
    with lab(tmp_path, lambda text: text.replace("up: 10, down: 40", "up: 9000, down: 9000") + LAGGING) as made:
        made.run(5 * MINUTE, step_s=5)
        start = made.clock.now() + 5 * MINUTE
        made.facade.accept(stairs(start, 20.0, 8.0, 18.0, 10.0, 20.0))
        made.run(start - made.clock.now(), step_s=5)
        (event,) = made.ctx.ledger.active(made.clock.now())
        off = {}
        for tick in made.run(5 * MINUTE):
            share = tick.import_kw["lab"] / event_limit_kw(event, tick.at - timedelta(seconds=0.5))
            off[int((tick.at - start).total_seconds())] = share
        assert max(share for second, share in off.items() if second > 31) <= 1.0
        late = [
            second for second, share in off.items() if second > 31 and share < 0.98 and second % 60 not in {0, 1, 2}
        ]
        assert not late, "a rising ceiling is known, and followed at once"


def test_bursts_of_users_leave_no_second_above_and_little_below(tmp_path):
    with lab(tmp_path, lambda text: text.split("jobs:")[0] + BURSTY) as made:
        made.run(6 * MINUTE, step_s=2)
        made.facade.order(OperatorOrder("limit", site="lab", limit_kw=33.0, by="me"))
        made.run(MINUTE)
        shares = [tick.import_kw["lab"] / 33.0 for tick in made.run(6 * MINUTE)]
        assert sum(share > 1.0 for share in shares) <= 4
        assert max(shares) < 1.015
        assert sum(shares) / len(shares) > 0.975


def test_caps_stand_still_under_a_standing_limit_though_sensors_are_noisy(tmp_path):
    noisy = "\npower: {type: simulated, load_noise: 0.005, noise: 0.01, seed: 3}\n"
    with lab(tmp_path, lambda text: text.split("jobs:")[0] + noisy) as made:
        made.run(6 * MINUTE, step_s=5)
        made.facade.order(OperatorOrder("limit", site="lab", limit_kw=33.0, by="me"))
        made.run(MINUTE)
        ticks = made.run(5 * MINUTE)
        assert max(tick.import_kw["lab"] for tick in ticks) <= 33.0
        for pool in ("chat", "train"):
            assert reversals([tick.cap_w[pool] for tick in ticks]) == 0
        assert sum(tick.orders for tick in ticks) < 90, "not an order for every flicker"


def test_a_cap_that_turns_is_counted_and_one_that_drifts_or_jitters_is_not():
    assert reversals([400, 380, 400, 380]) == 2
    assert reversals([400, 398, 400, 398, 400]) == 0
    assert reversals([300, 310, 320, 330]) == 0
    assert reversals([]) == 0


def test_the_course_of_the_benchmark_can_be_your_own(tmp_path):
    assert read_signal(tmp_path) is None
    (tmp_path / "regulation.csv").write_text("seconds,signal\n0,0.5\n6,-1\n8,1\n")
    assert read_signal(tmp_path) == [0.5, 0.5, 1.0]
    (tmp_path / "regulation.csv").write_text("seconds,signal\n0,1.5\n")
    with pytest.raises(ValueError, match="-1 to 1"):
        read_signal(tmp_path)
    stairs_ = pieces(10_800.0, 1, [0.5, 0.5, 1.0])
    assert sum(seconds for seconds, _ in stairs_) == 10_800.0
    assert {percent for seconds, percent in stairs_ if seconds == 4.0} == {22.5, 25.0}
    asked = message(START, stairs_)
    assert asked.targets[-1].end == asked.end == START + timedelta(hours=3)
    assert regulation(50, 7) == regulation(50, 7) != regulation(50, 8)
