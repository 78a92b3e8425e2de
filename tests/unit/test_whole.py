"""Whole numbers: rounded, improved, never made worse; deadlines and event caps kept in closed loop; warm throughout."""

import random
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from optimizer import whole
from optimizer.check import check_plan
from optimizer.domain import JobState, Rung, Work
from optimizer.faults import SolveError, SolveFault
from optimizer.highs import Highs, solve_arrays
from optimizer.ladder import answer
from optimizer.model.arrays import Arrays, write_arrays
from optimizer.model.build import declare
from optimizer.reasons import Reason
from optimizer.search import searched
from optimizer.session import Session
from optimizer.solve import solve_problem
from optimizer.timegrid import planning_grid
from tests.support.problems import (
    HOUR,
    START,
    event,
    hourly,
    inputs,
    job,
    pool,
    problem,
    random_problem,
    site,
    typical_problem,
    with_promises,
    with_steps,
)

BATCH = pool("batch", Work.BATCH, 1000)
STEP = timedelta(minutes=15)


def relaxed(arrays):
    solver = Highs(arrays, integers=False)
    return solver.run(10.0)


def lp(made, seconds):
    return Highs(made, integers=False).run(seconds)


def test_two_runs_that_fit_under_an_event_one_by_one_are_not_rounded_into_it_together():
    called = event("e", (0, 4), 130.0, 400.0)  # idle 100 kW, a run of 100 GPUs takes 20 to 30 kW more
    jobs = [job(name, (0, 4), 200.0, 100, preemptible=False) for name in "ab"]
    made = problem(hourly(4), [site(4, price=[10, 10, 90, 90])], [inputs(BATCH, 4)], jobs, [called])
    plan = Session(improve_s=0.0).plan(made)
    assert sorted(np.argmax(np.array(plan.jobs[name].work_gpus) > 0) for name in "ab") == [0, 2]
    assert plan.sites["dc"].over_event_kw == (0.0,) * 4


@pytest.mark.parametrize("most", [0, 400])
def test_the_search_never_makes_the_rounded_plan_worse_and_fixes_every_whole_number(monkeypatch, most):
    monkeypatch.setattr(whole, "MOST_SEARCHED", most)
    seen = 0
    for seed in range(130):
        arrays = write_arrays(declare(random_problem(seed)))
        if not arrays.integer.any():
            continue
        start = relaxed(arrays)
        rounded = whole.rounded(arrays, start, lp, 10.0)
        found = whole.whole_numbers(arrays, start, lp, 10.0, 2.0)
        seen += 1
        assert found.answer.objective <= rounded.objective + 1e-6 * (1 + abs(rounded.objective))
        values = found.answer.point[arrays.integer > 0]
        assert np.abs(values - np.round(values)).max() < 1e-6
        exact = solve_arrays(arrays, 10.0)
        assert found.answer.objective >= exact.objective - 2e-4 * (1 + abs(exact.objective))
        if most:
            assert found.answer.objective == pytest.approx(exact.objective, rel=5e-4, abs=1e-3)
            assert found.proven
    assert seen > 10


def test_a_plan_that_is_not_proven_says_so_and_how_far_it_may_be_off():
    made = crowded(8, horizon_h=6)
    plan = Session(improve_s=0.0).plan(made)
    best = Session(improve_s=20.0).plan(made)
    assert (plan.rung, best.rung) == (Rung.INCUMBENT, Rung.OPTIMUM)
    note = next(note for note in plan.notes if note.code is Reason.SOLVER_INCUMBENT)
    assert "%" in note.text
    assert best.objective >= plan.objective - 1e-6 * abs(plan.objective)


def test_whole_numbers_leave_the_solver_warm_and_the_same_object():
    warm = cold = 0
    for seed in range(8, 12):
        made = crowded(seed, horizon_h=6)
        session = Session()
        session.plan(made)
        kept, pieces = session._solver, []
        dearer = replace(made, sites=tuple(replace(of, price_per_mwh=tuple(p * 1.01 for p in of.price_per_mwh))
                                           for of in made.sites))  # fmt: skip
        kept.run = lambda seconds, plain=kept.run, pieces=pieces: pieces.append(plain(seconds)) or pieces[-1]
        plan = session.plan(dearer)
        assert session._solver is kept
        assert check_plan(dearer, plan) == ()
        warm += pieces[0].iterations
        cold += relaxed(write_arrays(declare(dearer))).iterations
    assert warm < cold / 2


def by_hand(cost, rows, low, high, integer):
    """A model of dense rows of coefficients between `low` and `high`; columns from 0 to 1."""
    table = np.array(rows, dtype=float).T
    at = [np.flatnonzero(column) for column in table]
    starts = np.cumsum([0, *map(len, at)]).astype(np.int32)
    value = np.concatenate([column[n] for column, n in zip(table, at, strict=True)])
    bounds = (np.zeros(len(cost)), np.ones(len(cost)), np.array(low), np.array(high))
    index = np.concatenate(at).astype(np.int32)
    none = np.zeros(0, dtype=np.int64)
    return Arrays(np.array(cost), 0.0, *bounds, starts, index, value, np.array(integer, dtype=np.int32), {}, {},
                  (none, none, none, np.zeros(0)))  # fmt: skip


def test_what_was_rounded_up_is_taken_back_where_it_leaves_no_way_out():
    """a wants to be 0.8, and 1 costs next to nothing more; b is then a half, and can be neither 0 nor 1."""
    inf = float("inf")
    arrays = by_hand(
        cost=[-1.0, 1e-6, 1.0001],  # a, b, and what lets a rise above 0.8
        rows=[[1.0, 0.0, -1.0], [-0.5, 1.0, 0.0], [0.5, 1.0, 0.0]],
        low=[-inf, 0.0, -inf],
        high=[0.8, inf, 1.0],
        integer=[1, 1, 0],
    )
    start = relaxed(arrays)
    assert start.point[:2] == pytest.approx([0.8, 0.4])
    assert whole.rounded(arrays, start, lp, 10.0).point == pytest.approx([0.0, 0.0, 0.0])
    stuck = replace(arrays, row_low=np.array([0.8, 0.0, -inf]))  # nothing of it is no way either
    with pytest.raises(SolveError, match="neither rounded up nor down"):
        whole.rounded(stuck, relaxed(stuck), lp, 10.0)


@pytest.mark.parametrize("seed", [1021, 1116, 1520, 1763, 1903, 1920, 2053])
def test_problems_that_once_ended_in_rules_have_an_optimum(seed):
    """Least runs that a limit cuts, jobs that wait for others, promises, prices of what gives up to 1e11."""
    made = with_promises(with_steps(random_problem(seed), seed + 1), seed + 2)
    plan = answer(made, None, solve_problem)
    assert (plan.rung, check_plan(made, plan)) == (Rung.OPTIMUM, ()), [note.text for note in plan.notes]


INF = float("inf")
CANCELLED = {
    "cost": [1e-4, 0.0, 0.0, 0.0, 0.5, 0.5, -0.5, -0.2, -0.1],
    "rows": [
        [1.0, 0.0, -0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        [0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        [0.0, 1.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 1.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.0, -1.0, -1.0, 1.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 1.0, -1.0, 0.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0],
    ],
    "low": [0.0, 0.0, 0.0, 0.0, -INF, 0.0, -INF],
    "high": [INF, INF, INF, INF, 0.0, INF, 1.0],
    "integer": [0, 1, 0, 0, 0, 0, 0, 1, 1],
}
"""Starts of a run cost a half each (columns five and six), the first one nothing (seven); one of the last two pays."""

WORSE = np.array([0.0, 0.0, 0.0, 0.4, 0.0, 0.4, 0.4, 0.0, 1.0])
"""Costs -0.1, and the best -0.2. HiGHS hands it back as the best, and says that it costs -0.5."""


def test_a_start_that_the_solver_takes_for_cheaper_than_it_is_does_not_end_the_search():
    solver = Highs(by_hand(**CANCELLED))
    found, bound = searched(solver, WORSE, 5.0, 1e-6)
    assert found.point[7:] == pytest.approx([1.0, 0.0])
    assert (found.objective, bound) == (pytest.approx(-0.2), pytest.approx(-0.2))


def test_a_search_without_time_for_a_second_one_keeps_its_start_and_tells_what_it_costs(monkeypatch):
    solver = Highs(by_hand(**CANCELLED))
    said = solver.run(5.0)
    solver.forget()
    runs = [replace(said, point=WORSE, objective=-0.5), SolveError(SolveFault.TIMEOUT, "no time")]

    def run(_seconds):
        if isinstance(runs[0], SolveError):
            raise runs.pop(0)
        return runs.pop(0)

    monkeypatch.setattr(solver, "run", run)
    monkeypatch.setattr(solver, "bound_found", lambda: -0.5)
    found, bound = searched(solver, WORSE, 5.0, 1e-6)
    assert (found.objective, found.optimal, found.seconds, bound) == (pytest.approx(-0.1), False, 5.0, -0.5)
    assert found.point is WORSE
    assert runs == []


def test_pauses_that_cost_beside_a_first_start_that_is_none_have_an_optimum():
    """A start that the search took for 0.29 cheaper than it was: the best plan was called unproven, 4 % off."""
    made = with_promises(with_steps(random_problem(1329), 1330), 1330)
    plan = answer(made, None, solve_problem)
    assert (plan.rung, check_plan(made, plan)) == (Rung.OPTIMUM, ()), [note.text for note in plan.notes]


def test_the_search_is_measured_against_the_money_that_moves():
    """A constant of a million, as work of great value or an event that nothing can meet: a ten-thousandth of it is
    more than all that there is to win."""
    arrays = write_arrays(declare(crowded(8, horizon_h=6)))
    dear = replace(arrays, offset=arrays.offset + 1e6)
    start = relaxed(dear)
    rough = whole.whole_numbers(dear, start, lp, 10.0, 0.0)
    assert not rough.proven
    assert rough.answer.objective - start.objective < 1e-4 * start.objective, "by which it would be proven"
    found = whole.whole_numbers(dear, start, lp, 10.0, 5.0)
    best = solve_arrays(arrays, 20.0, 1e-9).objective + 1e6
    assert found.answer.objective - best < 2e-4 * whole.at_stake(dear, found.answer)
    assert rough.answer.objective - best > 10 * (found.answer.objective - best)


def crowded(jobs, horizon_h, start=START, seed=4):
    """Runs without a break that compete for a pool and fit around an event only one or two at a time."""
    rng = random.Random(seed)
    grid = planning_grid(start, timedelta(hours=horizon_h), STEP)
    count = len(grid)
    price = [40.0 + 60.0 * rng.random() for _ in range(count)]
    work = []
    for number in range(jobs):
        begin, gpus = rng.uniform(0, horizon_h / 3), rng.choice((150, 250, 400))
        hours = rng.choice((0.5, 1.0, 1.5))
        work.append(job(f"j{number}", (begin, begin + hours * rng.uniform(2.5, 4)), gpus * hours, gpus,
                        preemptible=False, undone_penalty=20.0))  # fmt: skip
    called = event("e", (2, 3), 200.0, 500.0)
    return problem(grid, [site(count, price=price, limit=380.0)], [inputs(BATCH, count)], work, [called])


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_deadlines_and_event_caps_are_kept_in_closed_loop(seed):
    """Six runs that leave each other little room, planned every quarter of an hour until all are done."""
    first = crowded(6, horizon_h=6, seed=seed)
    session, jobs, now = Session(improve_s=20.0), list(first.jobs), START
    while any(of.left_gpu_h > 1e-6 for of in jobs) and now < START + 6 * HOUR:
        at = first.grid.index(now)
        rest = replace(first.grid, edges=(now, *(edge for edge in first.grid.edges if edge > now)))
        names = ("price_per_mwh", "limit_kw", "pue", "other_it_kw", "carbon_g_per_kwh")
        here = replace(first.sites[0], **{name: getattr(first.sites[0], name)[at:] for name in names})
        pools = (replace(first.pools[0], load=first.pools[0].load[at:]),)
        made = replace(first, made_at=now, grid=rest, sites=(here,), pools=pools, jobs=tuple(jobs))
        plan = session.plan(made)
        assert check_plan(made, plan) == ()
        assert plan.sites["dc"].over_event_kw[0] == plan.sites["dc"].over_limit_kw[0] == 0.0
        hours = rest.hours[0]
        jobs = [advanced(of, plan.jobs[of.id].work_gpus[0], now, hours) for of in jobs]
        now = rest.edges[1]
    assert not any(now + HOUR * (of.left_gpu_h / of.max_gpus) > of.deadline for of in jobs if of.left_gpu_h > 1e-6)


def advanced(of, rate, now, hours):
    """A job after an interval; a run that may not be interrupted goes on from its first GPU-hour."""
    if rate <= 1e-9:
        return of
    done = min(of.work_gpu_h, of.done_gpu_h + rate * hours)
    ended = now + timedelta(hours=hours * min(1.0, rate / of.max_gpus))
    assert done < of.work_gpu_h - 1e-6 or ended <= of.deadline + timedelta(seconds=1), f"{of.id} is late"
    return replace(of, done_gpu_h=done, started_at=of.started_at or now, state=JobState.RUNNING, gpus=of.max_gpus)


@pytest.mark.parametrize("jobs", [60, 300])
def test_a_job_that_moves_while_others_are_confined_loses_no_work(jobs):
    """Jobs that may run in two pools: one pool for each costs next to nothing of the optimum that may split them."""
    made = typical_problem(jobs)
    best = -solve_arrays(write_arrays(declare(made)), 30.0).objective
    assert solve_problem(made).objective > best - 2e-3 * abs(best)
