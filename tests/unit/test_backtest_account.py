"""The account of a backtest by hand: what is late, what a peak is, what two events at once are worth."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from adapters.hall_state import HallCounters
from optimizer.assets import ReserveOffer
from optimizer.domain import BatchJob, DemandCharge, GridEvent, Span, Work
from optimizer.timegrid import TimeGrid, uniform_grid
from scheduler.backtest.account import settle
from scheduler.backtest.commitments import commitments, deliveries
from scheduler.backtest.foresight import perfect_foresight
from scheduler.backtest.no_control import no_control
from scheduler.backtest.outcome import Outcome, Recorder
from scheduler.backtest.recorded import settlement_grid
from scheduler.config.runtime import NoControl
from tests.support.problems import HOUR, START, inputs, pool, problem, site

QUARTER = timedelta(minutes=15)


def outcome(grid, import_kw, work=0.0, jobs=None):
    def spread(value):
        return np.full(len(grid), value) if np.isscalar(value) else np.array(value, dtype=float)

    rates = {name: spread(rate) for name, rate in (jobs or {}).items()}
    return Outcome(grid, {"dc": spread(import_kw)}, {"chat": spread(work), "tune": spread(work)}, rates)


def event(name, start, end, target, **more):
    return GridEvent(name, 1, "dc", start, end, (Span(start, end, target),), 1000.0, program="elrp",
                     rebound_kw=1000.0, penalty_per_kwh=5.0, credit_per_kwh=2.0, **more)  # fmt: skip


def test_energy_is_import_times_price_and_lost_work_has_its_value():
    grid = uniform_grid(START, START + 2 * HOUR, HOUR)
    truth = problem(grid, [site(2, price=[100, -20])], [inputs(pool(value=3.0), 2, load=0.5)])
    costs = settle(truth, outcome(grid, [1000.0, 500.0], work=[500.0, 400.0])).costs
    assert costs.energy == pytest.approx(100 - 10)
    assert costs.lost_value == pytest.approx(100 * 3.0)
    assert costs.net == pytest.approx(390.0)


def test_late_work_pays_by_the_hour_and_undone_work_its_penalty_and_value():
    grid = uniform_grid(START, START + 3 * HOUR, HOUR)
    job = BatchJob("job", ("tune",), START, START + timedelta(minutes=90), 10.0, 4, value_per_gpu_h=1.0,
                   late_penalty=0.5, undone_penalty=7.0)  # fmt: skip
    truth = problem(grid, [site(3)], [inputs(pool("tune", Work.BATCH), 3)], [job])
    account = settle(truth, outcome(grid, 0.0, jobs={"job": [4.0, 4.0, 1.0]}))
    # In time: 4 in the first hour, 4 GPUs for half of the second. Late: 2 a quarter of an hour late, 1 an hour.
    assert account.costs.late == pytest.approx(0.5 * (2 * 0.25 + 1 * 1.0))
    assert account.costs.undone == pytest.approx(8.0 * 1.0)
    assert account.jobs[0].late_gpu_h == pytest.approx(3.0)
    assert account.missed == ("job",)


def test_a_peak_is_the_mean_of_a_whole_metering_interval_above_the_month_so_far():
    edges = (START, START + timedelta(minutes=5), START + QUARTER, START + 2 * QUARTER)
    grid = TimeGrid(edges)
    charge = DemandCharge("peak", 10.0, 500.0, (True, True, False))
    truth = problem(grid, [site(3, price=0.0, demand_charges=(charge,))], [inputs(pool(value=0.0), 3)])
    # 900 kW for five minutes and 600 for ten is a mean of 700; the 5,000 afterwards are outside the charge's hours.
    assert settle(truth, outcome(grid, [900.0, 600.0, 5000.0])).costs.demand_charge == pytest.approx(10 * 200)


def test_two_events_of_a_program_at_once_are_paid_and_fined_once():
    outer = event("outer", START + HOUR, START + 4 * HOUR, 800.0, ramp_in_s=0.0, ramp_out_s=0.0)
    inner = event("inner", START + 2 * HOUR, START + 3 * HOUR, 700.0, ramp_in_s=0.0, ramp_out_s=0.0)
    grid = settlement_grid(START, START + 6 * HOUR, HOUR, (outer, inner))
    truth = problem(grid, [site(6, price=0.0)], [inputs(pool(value=0.0), 6)], events=(outer, inner))
    (held,) = commitments(truth)
    assert held.cap_kw.tolist() == [float("inf"), 800, 700, 800, 1000, float("inf")]
    costs = settle(truth, outcome(grid, [1000, 800, 800, 800, 1100, 1200])).costs
    assert costs.event_penalty == pytest.approx(5.0 * (100 + 100)), "over the inner target, and the rebound"
    assert costs.event_credit == pytest.approx(2.0 * (700 - 200))
    first, second = deliveries(truth, outcome(grid, [1000, 800, 800, 800, 1100, 1200]))
    assert (first.id, first.worst_over_kw, first.rebound_kw, first.delivered_kwh) == ("outer", 0.0, 100.0, 600.0)
    assert (second.id, second.worst_over_kw) == ("inner", 100.0)


def test_a_voluntary_event_is_settled_only_for_who_took_part_and_foresight_takes_what_pays():
    """450 GPUs give 0.35 of their throughput for 67.5 kW: 157.50 USD less 67.5 kWh at 50 USD/MWh. At 2 USD/kWh an hour
    of it pays 135 and is declined, at 4 it pays 270 and is taken; both together would be taken for the sum."""
    terms = {"ramp_in_s": 0.0, "ramp_out_s": 0.0, "voluntary": True, "rebound_s": 0.0}
    made = [
        replace(event(name, START + at * HOUR, START + (at + 1) * HOUR, 112.5, **terms), baseline_kw=180.0,
                rebound_kw=None, credit_per_kwh=credit)
        for name, at, credit in (("poor", 1, 2.0), ("rich", 3, 4.0))
    ]  # fmt: skip
    grid = settlement_grid(START, START + 5 * HOUR, HOUR, made)
    truth = problem(grid, [site(5, price=50.0)], [inputs(pool(value=1.0, count=450), 5)], events=made)
    idle = outcome(grid, 180.0, work=450.0)
    assert settle(truth, idle).costs.event_credit == settle(truth, idle).costs.event_penalty == 0.0
    assert deliveries(truth, idle) == ()
    for_poor = replace(outcome(grid, [180, 122.5, 180, 112.5, 180]), took_part=frozenset({"poor"}))
    costs = settle(truth, for_poor).costs
    assert (costs.event_penalty, costs.event_credit) == (pytest.approx(5 * 10.0), pytest.approx(2 * (67.5 - 10)))
    assert [one.id for one in deliveries(truth, for_poor)] == ["poor"]
    best = perfect_foresight(truth, idle)
    assert best.took_part == {"rich"}
    bound = settle(truth, best).costs
    assert bound.event_credit == pytest.approx(4 * 67.5)
    assert bound.net == pytest.approx(settle(truth, idle).costs.net - (270 - 157.5 + 67.5 * 0.05))


def test_a_pause_costs_its_price_and_the_work_that_a_restart_loses():
    """Two pauses of 3 USD, and 0.5 GPU-hours each: at 2 USD of value and 400 W * 1.5 at 100 USD/MWh, 0.06 an hour."""
    job = BatchJob("job", ("tune",), START, START + 2 * HOUR, 4.0, 4, value_per_gpu_h=2.0, pause_cost=3.0,
                   checkpoint_gpu_h=0.2, restart_gpu_h=0.3)  # fmt: skip
    grid = uniform_grid(START, START + 2 * HOUR, HOUR)
    truth = problem(grid, [site(2, price=100.0, pue=1.5)], [inputs(pool("tune", Work.BATCH), 2)], [job])
    done = replace(outcome(grid, 0.0, jobs={"job": [2.0, 2.0]}), pauses={"job": 2})
    assert settle(truth, done).costs.pauses == pytest.approx(2 * (3.0 + 0.5 * (2.0 + 0.06)))
    assert settle(truth, perfect_foresight(truth, done)).costs.pauses == 0.0


def test_a_tier_is_judged_by_when_a_job_began_and_was_done():
    """Four GPU-hours on four GPUs at full power take an hour; this one took 80 minutes and rested in between."""
    recorder = Recorder(START)
    for minute, done in ((0, 0.0), (30, 0.0), (60, 2.0), (80, 2.0), (110, 4.0), (120, 4.0)):
        none = {"dc": 0.0}
        counters = HallCounters(START + timedelta(minutes=minute), none, none, {"tune": done}, {"tune": done}, none)
        recorder.read(counters, {"job": BatchJob("job", ("tune",), START, START + HOUR, 4.0, 4, done_gpu_h=done)})
    grid = uniform_grid(START, START + 2 * HOUR, HOUR)
    seen = recorder.outcome(grid)
    assert seen.lives == {"job": (1800.0, 6600.0)}
    jobs = [BatchJob("job", ("tune",), START, START + 2 * HOUR, 4.0, 4, tier=tier) for tier in (2, 1)]
    for job, kept in zip(jobs, (True, False), strict=True):
        truth = problem(grid, [site(2)], [inputs(pool("tune", Work.BATCH), 2)], [job])
        account = settle(truth, seen)
        assert account.jobs[0].reduction == pytest.approx(0.25)
        assert (account.jobs[0].kept, account.tiers[str(job.tier)]["kept"]) == (kept, int(kept))
        assert account.tiers[str(job.tier)]["highest_reduction"] == pytest.approx(0.25)
    half = settle(problem(grid, [site(2)], [inputs(pool("tune", Work.BATCH), 2)], [replace(job, work_gpu_h=9.0)]), seen)
    assert (half.jobs[0].kept, half.tiers) == (None, {}), "one that is not done can't be judged"


def test_a_job_that_rests_with_work_left_was_paused_and_one_that_begins_or_ends_was_not():
    recorder, gpus = Recorder(START), iter([0, 4, 4, 0, 0, 2, 0, 1, 0])
    for count in gpus:
        recorder._count_pauses({"job": BatchJob("job", ("tune",), START, START + HOUR, 4.0, 4, gpus=count)})
    assert recorder.pauses == {"job": 2}


def test_reserve_is_paid_for_what_was_held_ready_and_foresight_holds_all_of_it():
    grid = uniform_grid(START, START + 2 * HOUR, HOUR)
    offer = ReserveOffer("spin", (0.1, 0.2), 50.0, 60.0, 600.0)
    truth = problem(grid, [site(2, reserves=(offer,))], [inputs(pool(value=0.0), 2)])
    recorder = Recorder(START)
    for minutes, kw in ((0, 30.0), (30, 10.0), (120, 10.0)):
        recorder.offer(START + timedelta(minutes=minutes), {"spin": kw})
    times, held = recorder.offered["spin"]
    assert (times, held) == ([0.0, 0.0, 1800.0, 7200.0], [0.0, 0.0, 15.0, 30.0])
    done = replace(outcome(grid, 0.0), offered_kw={"spin": np.array([20.0, 10.0])})
    costs = settle(truth, done).costs
    assert costs.reserve == pytest.approx(-(0.1 * 20 + 0.2 * 10))
    assert costs.net == pytest.approx(costs.lost_value + costs.reserve)
    assert settle(truth, perfect_foresight(truth, done)).costs.reserve == pytest.approx(-50 * 0.3)


def test_the_settlement_grid_is_cut_where_a_cap_bends():
    late = event("late", START + timedelta(minutes=17), START + HOUR, 800.0)
    grid = settlement_grid(START, START + 2 * HOUR, QUARTER, (late,))
    cuts = {(edge - START).total_seconds() / 60 for edge in grid.edges}
    assert {17, 22, 60, 65} <= cuts
    assert grid.end == START + 2 * HOUR


@pytest.mark.parametrize(("how", "expected"), [(NoControl.ASAP, [8.0, 8.0, 4.0, 0.0]), (NoControl.EVEN, [5.0] * 4)])
def test_without_control_jobs_run_at_once_or_evenly(how, expected):
    grid = uniform_grid(START, START + 4 * HOUR, HOUR)
    jobs = [BatchJob(name, ("tune",), START, START + 4 * HOUR, 10.0, 6) for name in ("a", "b")]
    tune = pool("tune", Work.BATCH, count=8)
    done = no_control(problem(grid, [site(4, pue=1.5)], [inputs(tune, 4)], jobs), how)
    assert done.work_gpus["tune"].tolist() == pytest.approx(expected)
    assert done.import_kw["dc"].tolist() == pytest.approx([1.5 * (8 * 0.1 + busy * 0.3) for busy in expected])
