"""Who runs goes on: no plan stops a job to run another like it, and the bill can't tell the difference."""

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.check import check_plan
from optimizer.domain import JobState, Work
from optimizer.evaluate import evaluate
from optimizer.session import Session
from tests.support.problems import hourly, inputs, job, pool, problem, random_problem, site

seeds = st.integers(0, 10**6)


def as_solved(made):
    """The plan as the solver and the classes have it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("optimizer.session.going_on", lambda _, draft: draft)
        return Session().plan(made)


def crowded(made, seed):
    """The same problem with every job several times, each with another part of its work done; some of them run."""
    rng, jobs = random.Random(seed), []
    for of in made.jobs:
        for number in range(4):
            runs = of.preemptible and of.release <= made.grid.start and rng.random() < 0.4
            begun = {"state": JobState.RUNNING, "gpus": of.max_gpus, "started_at": of.release} if runs else {}
            done = of.done_gpu_h + (of.work_gpu_h - of.done_gpu_h) * rng.random() / 4 if runs else of.done_gpu_h
            jobs.append(replace(of, id=f"{of.id}-{number}", done_gpu_h=done, **begun))
    return replace(made, jobs=tuple(jobs))


def work_now(made, plan, run):
    return sum(plan.jobs[of.id].work_gpus[0] for of in made.jobs if (of.state is JobState.RUNNING) is run)


@given(seeds, seeds)
def test_going_on_breaks_no_promise_and_costs_nothing(seed, other):
    made = crowded(random_problem(seed), other)
    before, plan = as_solved(made), Session().plan(made)
    assert check_plan(made, plan) == ()
    money, then = evaluate(made, plan).total, evaluate(made, before).total
    assert money >= then - 1e-7 * (1.0 + abs(then))
    assert plan.pools.keys() == before.pools.keys()
    for name, orders in plan.pools.items():
        assert orders.work_gpus == pytest.approx(before.pools[name].work_gpus, abs=1e-6)
        assert orders.draw_kw == pytest.approx(before.pools[name].draw_kw, abs=1e-9)
        assert (orders.cap_w, orders.active_gpus) == (before.pools[name].cap_w, before.pools[name].active_gpus)
    assert work_now(made, plan, True) >= work_now(made, before, True) - 1e-9
    hours = np.diff([(edge - made.grid.start).total_seconds() / 3600 for edge in made.grid.edges])
    for of in made.jobs:
        done, had = (float(np.dot(one.jobs[of.id].work_gpus, hours)) for one in (plan, before))
        if of.deadline <= made.grid.end:
            assert done == pytest.approx(had, abs=1e-6)  # as much as before, if at other times


def queue(*changes, running=4):
    """Twenty tasks of two hours on four GPUs; the first `running` have done some of it."""
    begun = {"state": JobState.RUNNING, "gpus": 1, "started_at": hourly(1).start, "done_gpu_h": 0.1}
    tasks = [job(f"t{n:02}", (0, 24), 2.0, 1, value_per_gpu_h=1.0) for n in range(20)]
    tasks[:running] = [replace(of, **begun) for of in tasks[:running]]
    for name, change in changes:
        tasks = [replace(of, **change) if of.id == name else of for of in tasks]
    prices = [20.0] * 12 + [90.0] * 12
    return problem(hourly(24), [site(24, price=prices)], [inputs(pool("batch", Work.BATCH, 4), 24)], tasks)


def now(plan):
    """Who does how much now, those who do something."""
    return {name: round(of.work_gpus[0], 6) for name, of in plan.jobs.items() if of.work_gpus[0] > 1e-6}


def test_a_full_queue_of_equal_tasks_is_done_one_after_the_other():
    made = queue()
    spread = now(as_solved(made))
    assert sum(spread.values()) == pytest.approx(4.0)
    assert set(spread) != {"t00", "t01", "t02", "t03"}, "the solver is free to choose others"
    plan = Session().plan(made)
    assert check_plan(made, plan) == ()
    assert now(plan) == dict.fromkeys(("t00", "t01", "t02", "t03"), pytest.approx(1.0))


@pytest.mark.parametrize(
    "change", [{"value_per_gpu_h": 3.0, "undone_penalty": 90.0}, {"priority": 2}, {"late_penalty": 9.0}]
)
def test_another_that_is_worth_more_or_less_is_not_like_it(change):
    """What the solver means is kept: trades are among those that are worth the same."""
    names = [f"t{n:02}" for n in range(4, 20)]
    made = queue(*((name, change) for name in names))
    assert now(Session().plan(made)) == pytest.approx(now(as_solved(made)))


def test_who_must_begin_now_to_be_in_time_begins():
    made = queue()
    soon = {"deadline": made.grid.start.replace(hour=made.grid.start.hour + 2)}
    made = queue(("t19", soon), ("t18", soon))
    plan = Session().plan(made)
    assert check_plan(made, plan) == ()
    assert now(plan)["t18"] == now(plan)["t19"] == pytest.approx(1.0)
    assert sum(now(plan).get(name, 0.0) for name in ("t00", "t01", "t02", "t03")) == pytest.approx(2.0)
    assert plan.jobs["t18"].late_gpu_h == plan.jobs["t19"].late_gpu_h == 0.0
