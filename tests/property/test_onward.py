"""Who runs goes on: no plan stops a job to run another like it, and the bill can't tell the difference."""

import random
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.check import check_plan
from optimizer.domain import DemandCharge, JobState, Work
from optimizer.evaluate import evaluate
from optimizer.session import Session
from optimizer.timegrid import TimeGrid
from tests.support.examples import many
from tests.support.problems import (
    SIMPLE,
    START,
    curves,
    event,
    hourly,
    inputs,
    job,
    pool,
    problem,
    site,
    with_parking,
    with_promises,
)

seeds = st.integers(0, 10**6)
RUNS = {"state": JobState.RUNNING, "started_at": START - timedelta(minutes=30)}


def as_solved(made, **session):
    """The plan as the solver and the classes have it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("optimizer.session.going_on", lambda _, draft: draft)
        return Session(**session).plan(made)


def crowded(seed):
    """Small pools, and many jobs of nearly one worth that differ in windows, work and size; about half of them run."""
    rng = random.Random(seed)
    edges = [START]
    for _ in range(rng.randint(2, 14)):
        edges.append(edges[-1] + timedelta(minutes=rng.choice((5, 15, 60, 60))))
    grid = TimeGrid(tuple(edges))
    count, long_h = len(grid), (grid.end - START).total_seconds() / 3600
    gpus = [rng.choice((1, 4, 8, 16)) for _ in range(rng.randint(1, 2))]
    full_kw, shapes = 0.4 * sum(gpus) + 0.5, [SIMPLE, *curves().values()]
    pools = [
        inputs(pool(f"b{n}", Work.BATCH, of, curve=rng.choice(shapes), one_cap=rng.random() < 0.6), count)
        for n, of in enumerate(gpus)
    ]
    prices = [rng.choice((-50.0, 20.0, 20.0, 60.0, 300.0)) for _ in range(count)]
    charge = DemandCharge("m", rng.choice((0.0, 12.0)), full_kw * rng.random(), (True,) * count)
    here = site(count, price=prices, limit=full_kw * rng.choice((2.0, 1.0, 0.6)), other=0.1, pue=1.2,
                demand_charges=(charge,))  # fmt: skip
    worth = {"late_penalty": rng.choice((0.0, 3.0)), "undone_penalty": rng.choice((0.0, 0.05, 5.0, 100.0))}
    jobs = []
    for n in range(rng.choice((6, 15, 40))):
        release = rng.choice((-2.0, -1.0, rng.uniform(-1.0, long_h)))
        deadline = max(release, 0.0) + 0.05 + rng.choice((long_h / 4, long_h, 30.0)) * rng.uniform(0.2, 1.2)
        work, size = rng.choice((0.2, 1.0, 3.0)) * rng.uniform(0.3, 1.0), rng.choice((1, 1, 2, 4))
        runs = release <= 0 and rng.random() < 0.5
        more = RUNS | {"done_gpu_h": work * rng.uniform(0.0, 0.5)} if runs else {}
        home = rng.choice([of.pool.id for of in pools])
        value = 1.0 if rng.random() < 0.1 else 0.5
        of = job(f"j{n:02}", (release, deadline), work, size, (home,), value_per_gpu_h=value, **worth, **more)
        jobs.append(replace(of, gpus=size) if runs else of)
    events = [event("e", (0, 1), 0.4 * full_kw, full_kw)] if rng.random() < 0.2 else []
    made = problem(grid, [here], pools, jobs, events)
    made = with_parking(made, seed) if rng.random() < 0.2 else made
    return with_promises(made, seed) if rng.random() < 0.2 else made


def work_now(made, plan, run):
    return sum(plan.jobs[of.id].work_gpus[0] for of in made.jobs if (of.state is JobState.RUNNING) is run)


def traded(seed):
    """Hold the plan of a crowd to all that must be; whether any work was traded."""
    made = crowded(seed)
    before, plan = as_solved(made), Session().plan(made)
    assert check_plan(made, before) == check_plan(made, plan) == ()
    money, then = evaluate(made, plan).total, evaluate(made, before).total
    assert money >= then - 1e-6 * (1.0 + abs(then))
    for name, orders in plan.pools.items():
        assert orders.work_gpus == pytest.approx(before.pools[name].work_gpus, abs=1e-6)
        assert orders.draw_kw == pytest.approx(before.pools[name].draw_kw, abs=1e-6)
        assert (orders.cap_w, orders.active_gpus) == (before.pools[name].cap_w, before.pools[name].active_gpus)
    more = work_now(made, plan, True) - work_now(made, before, True)
    assert more >= -1e-9
    hours = np.diff([(edge - made.grid.start).total_seconds() / 3600 for edge in made.grid.edges])
    for of in made.jobs:
        own, had = plan.jobs[of.id], before.jobs[of.id]
        assert own.late_gpu_h <= had.late_gpu_h + 1e-6
        assert own.undone_gpu_h <= had.undone_gpu_h + 1e-6
        assert not 0 < own.work_gpus[0] < 1e-9, "a crumb of work is a GPU for nothing"
        if of.deadline <= made.grid.end:
            done, had_done = (float(np.dot(one.work_gpus, hours)) for one in (own, had))
            assert done == pytest.approx(had_done, abs=1e-6)  # as much as before, if at other times
        if own.start is not None and had.start is None:
            assert own.work_gpus[0] <= 1e-6 < had.work_gpus[0], "who waits instead has the other's price"
    return more > 1e-6


@many
@given(seeds)
def test_going_on_breaks_no_promise_and_costs_nothing(seed):
    traded(seed)


def test_there_is_something_to_trade():
    assert sum(traded(seed) for seed in range(60)) >= 5


def queue(*changes, running=4, count=20, hours=24):
    """Tasks of two hours on four GPUs, now cheap; the first `running` have done some of it."""
    begun = RUNS | {"gpus": 1, "done_gpu_h": 0.1}
    tasks = [job(f"t{n:02}", (-1, 24), 2.0, 1, value_per_gpu_h=1.0) for n in range(count)]
    tasks[:running] = [replace(of, **begun) for of in tasks[:running]]
    for name, change in changes:
        tasks = [replace(of, **change) if of.id == name else of for of in tasks]
    prices = [20.0] * (hours // 2) + [90.0] * (hours - hours // 2)
    return problem(hourly(hours), [site(hours, price=prices)], [inputs(pool("batch", Work.BATCH, 4), hours)], tasks)


def now(plan):
    """Who does how much now, those who do something."""
    return {name: round(of.work_gpus[0], 6) for name, of in plan.jobs.items() if of.work_gpus[0] > 1e-6}


FIRST = ("t00", "t01", "t02", "t03")
OTHERS = [f"t{n:02}" for n in range(4, 20)]


def test_a_full_queue_of_equal_tasks_is_done_one_after_the_other():
    made = queue()
    spread = now(as_solved(made))
    assert sum(spread.values()) == pytest.approx(4.0)
    assert set(spread) != set(FIRST), "the solver is free to choose others"
    plan = Session().plan(made)
    assert check_plan(made, plan) == ()
    assert now(plan) == dict.fromkeys(FIRST, pytest.approx(1.0))
    assert not [name for name in FIRST if plan.jobs[name].start is not None], "who runs waits for no price"
    assert not [name for name in spread if plan.jobs[name].start is None], "and who waits instead for theirs"


@pytest.mark.parametrize(
    "change", [{"value_per_gpu_h": 3.0, "undone_penalty": 90.0}, {"priority": 2}, {"late_penalty": 9.0}]
)
def test_another_that_is_worth_more_or_less_is_not_like_it(change):
    """What the solver means is kept: trades are among those that are worth the same."""
    made = queue(*((name, change) for name in OTHERS))
    assert now(Session().plan(made)) == pytest.approx(now(as_solved(made)))


def test_who_must_begin_now_to_be_in_time_begins():
    soon = {"deadline": START + timedelta(hours=2)}
    made = queue(("t19", soon), ("t18", soon))
    plan = Session().plan(made)
    assert check_plan(made, plan) == ()
    assert now(plan)["t18"] == now(plan)["t19"] == pytest.approx(1.0)
    assert sum(now(plan).get(name, 0.0) for name in FIRST) == pytest.approx(2.0)
    assert plan.jobs["t18"].late_gpu_h == plan.jobs["t19"].late_gpu_h == 0.0


def test_who_was_let_go_and_does_not_work_yet_goes_on_too():
    """Its pods wait for a node, or load an image: it has its GPU, and has done nothing so far."""
    begins = {"state": JobState.WAITING, "started_at": None, "gpus": 1, "done_gpu_h": 0.0}
    made = queue(*((name, begins) for name in FIRST))
    assert now(as_solved(made)).keys() > set(FIRST), "the solver tells them from nobody"
    assert now(Session().plan(made)) == dict.fromkeys(FIRST, pytest.approx(1.0))


def test_a_thousand_waiting_tasks_give_way_to_sixty_in_turn():
    """Each has a sliver of the GPUs in the solver's plan."""
    grid, tasks = hourly(24), [job(f"t{n:04}", (-1, 40), 1.2, 1, value_per_gpu_h=1.0) for n in range(1000)]
    tasks[:60] = [replace(of, **RUNS, gpus=1, done_gpu_h=0.001 * n) for n, of in enumerate(tasks[:60])]
    here = site(24, price=[5.0] + [50.0] * 23)
    made = problem(grid, [here], [inputs(pool("batch", Work.BATCH, 60), 24)], tasks)
    plan = Session().plan(made)
    assert check_plan(made, plan) == ()
    assert now(plan) == {of.id: pytest.approx(1.0) for of in tasks[:60]}
