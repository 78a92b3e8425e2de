"""Jobs that are exactly alike are planned as one: nothing is lost by it, and each gets what it may have."""

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.support.reference import coarse_grid, reference_problem
from optimizer.check import check_plan
from optimizer.classes import LEVELS, MOST_SINGLE, classes_of
from optimizer.domain import Work
from optimizer.facts import facts_of
from optimizer.jobplans import job_rows
from optimizer.model.arrays import write_arrays
from optimizer.model.build import declare
from optimizer.reasons import Reason
from optimizer.session import Session
from optimizer.solve import solve_arrays, solve_problem
from tests.support.problems import hourly, inputs, job, pool, problem, random_problem, site, with_steps

seeds = st.integers(0, 10**6)


def repeated(made, seed):
    """The same problem with some jobs several times over, and some copies of half the size: as alike as the whole."""
    rng, jobs = random.Random(seed), []
    for of in made.jobs:
        for number in range(rng.choice((1, 3, 5))):
            small = number > 0 and rng.random() < 0.5 and of.max_gpus >= 4
            size = {"max_gpus": of.max_gpus // 2, "work_gpu_h": of.work_gpu_h / 2} if small else {}
            jobs.append(replace(of, id=f"{of.id}-{number}" if number else of.id, **size))
    rng.shuffle(jobs)
    return replace(made, jobs=tuple(jobs))


@given(seeds, seeds)
def test_classes_cost_what_single_jobs_cost(seed, other):
    made = random_problem(seed, exact=True)
    made = repeated(replace(made, jobs=tuple(of for of in made.jobs if of.preemptible)), other)
    facts = facts_of(made)
    merged = classes_of(facts)
    single, whole = (solve_arrays(write_arrays(declare(made, of)), 20.0) for of in (facts, merged.facts))
    assert whole.objective == pytest.approx(single.objective, rel=1e-9, abs=1e-7)


@given(seeds, seeds)
def test_members_of_a_class_add_up_and_keep_every_promise(seed, other):
    made = repeated(random_problem(seed), other)
    facts = facts_of(made)
    merged = classes_of(facts)
    plan = Session().plan(made)
    assert check_plan(made, plan) == ()
    table = facts.table
    rates = job_rows(plan.jobs, [of.id for of in table.jobs], facts.count).rates
    assert (rates <= table.rate[:, None] * (table.on_time_h + table.late_h) / facts.hours * (1 + 1e-9) + 1e-9).all()
    for number in range(len(merged.facts.table)):
        mine = np.flatnonzero(merged.of == number)
        part = rates[mine] / table.left[mine, None]
        assert np.ptp(part, axis=0) == pytest.approx(0.0, abs=1e-9)  # each by the work that it has left
        assert table.left[mine].sum() == pytest.approx(merged.facts.table.left[number], rel=1e-12)


@given(seeds, seeds)
def test_the_order_of_the_list_decides_nothing(seed, other):
    made = repeated(random_problem(seed), other)
    jobs = list(made.jobs)
    random.Random(other).shuffle(jobs)
    first, then = solve_problem(made), solve_problem(replace(made, jobs=tuple(jobs)))
    assert dict(first.jobs) == dict(then.jobs)
    assert first.pools == then.pools


@given(seeds, seeds)
def test_jobs_with_rules_of_their_own_stay_alone(seed, other):
    made = with_steps(repeated(random_problem(seed), other), other)
    merged = classes_of(facts_of(made))
    awaited = {name for of in made.jobs for name in of.after}
    for number in np.flatnonzero(np.bincount(merged.of) > 1).tolist():
        of = merged.facts.table.jobs[number]
        assert of.preemptible
        assert of.id not in awaited
        assert (of.after, of.min_run_h, of.pause_cost, of.restart_gpu_h) == ((), 0.0, 0.0, 0.0)
        assert of.min_gpus <= 1


def test_five_hundred_equal_tasks_are_one_job_and_any_difference_is_another():
    tasks = [job(f"t{n:03}", (0, 4), 2.0, 1, value_per_gpu_h=1.0) for n in range(500)]
    others = [
        replace(tasks[0], id="due", deadline=tasks[0].deadline.replace(minute=30)),
        replace(tasks[0], id="dear", value_per_gpu_h=2.0),
        replace(tasks[0], id="long", work_gpu_h=2.5),
        replace(tasks[0], id="begun", done_gpu_h=0.5),
        replace(tasks[0], id="urgent", priority=1),
        replace(tasks[0], id="elsewhere", pools=("other",)),
        replace(tasks[0], id="anywhere", pools=("batch", "other")),
        replace(tasks[0], id="first"),
        replace(tasks[0], id="then", after=("first",)),
    ]
    grid = hourly(6)
    batch = [inputs(pool(name, Work.BATCH, 400), 6) for name in ("batch", "other")]
    made = problem(grid, [site(6, price=[10, 90, 20, 30, 50, 60])], batch, [*tasks, *others])
    merged = classes_of(facts_of(made))
    assert len(merged.facts.table) == 1 + len(others)
    plan = solve_problem(made)
    assert check_plan(made, plan) == ()
    assert {plan.jobs[of.id].work_gpus for of in tasks} == {plan.jobs["t000"].work_gpus}
    assert plan.jobs["t000"].work_gpus[0] > 0 == plan.jobs["t000"].work_gpus[1]


# ---------------------------------------------------------------- nearly alike
@given(seeds, st.sampled_from(LEVELS))
def test_nearly_alike_jobs_lose_no_promise(seed, level):
    made = reference_problem(seed, coarse_grid(10.0), 150, 4)
    facts = facts_of(made)
    merged = classes_of(facts, 0, (level,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("optimizer.classes.LEVELS", (level,))
        plan = Session(most_single=0).plan(made)
    table, whole = facts.table, merged.facts.table
    assert 20 < len(whole) < 0.8 * len(table)
    hours = whole.on_time_h.sum(axis=1) + whole.beyond_h
    spare = table.on_time_h.sum(axis=1) + table.beyond_h - table.left / table.rate
    for number in np.flatnonzero(np.bincount(merged.of) > 1).tolist():
        kept = hours[number] - whole.left[number] / whole.rate[number]
        assert kept >= level[1] * spare[merged.of == number].min() - 1e-9
    assert check_plan(made, plan) == ()
    best = solve_problem(made)
    assert plan.objective <= best.objective + 1e-6 * abs(best.objective)
    late = {of.id for of in made.jobs if plan.jobs[of.id].late_gpu_h + plan.jobs[of.id].undone_gpu_h > 1e-6}
    assert late <= {of.id for of in made.jobs if best.jobs[of.id].late_gpu_h + best.jobs[of.id].undone_gpu_h > 1e-6}
    assert Reason.JOBS_GROUPED in {note.code for note in plan.notes}


def near_the_line(apart_h, work_gpu_h=1.0):
    """Two jobs of an hour each due about the fourth hour, on both sides of a line between cells."""
    first = job("a", (0, 4 - apart_h), 1.0, 1, value_per_gpu_h=1.0)
    then = job("b", (0, 4), work_gpu_h, 1, value_per_gpu_h=1.0)
    made = problem(hourly(6), [site(6)], [inputs(pool("batch", Work.BATCH, 4), 6)], [first, then])
    return facts_of(made)


@pytest.mark.parametrize(
    ("apart_h", "work_gpu_h", "level", "classes"),
    [
        (0.25, 1.0, (0.35, 0.85), 1),  # in cells of half an hour these are two
        (0.5, 1.0, (0.35, 0.85), 1),
        (0.5, 1.0, (0.1, 0.85), 2),  # the later one would give up more than a tenth of what the other can spare
        (0.25, 1.25, (0.35, 0.85), 1),  # the first can spare 2.75 h, and keeps 2.5 of them beside the longer one
        (0.25, 1.25, (0.35, 0.95), 2),
        (1.2, 1.0, (0.35, 0.85), 2),
    ],
)
def test_neighbours_join_within_what_they_can_spare(apart_h, work_gpu_h, level, classes):
    merged = classes_of(near_the_line(apart_h, work_gpu_h), 0, (level,))
    assert len(merged.facts.table) == classes
    assert merged.facts.table.deadline_h[0] == pytest.approx(4 - apart_h)


def test_few_jobs_are_planned_one_by_one_and_many_are_not():
    few, many = (reference_problem(1, coarse_grid(6.0), count, 20) for count in (1000, MOST_SINGLE + 500))
    assert len(classes_of(facts_of(few)).facts.table) == len(facts_of(few).table)
    grouped = classes_of(facts_of(many))
    assert len(grouped.facts.table) < 0.8 * len(facts_of(many).table)
    assert [note.code for note in grouped.said()] == [Reason.JOBS_GROUPED]


def test_the_classes_of_thousands_of_jobs_leave_them_three_quarters_of_their_slack():
    """What jobs give up to their class is what a day in closed loop pays for (decision 9)."""
    facts = facts_of(reference_problem(1, coarse_grid(), 5000, 20))
    merged = classes_of(facts)
    spare, left = (
        of.table.on_time_h.sum(axis=1) + of.table.beyond_h - of.table.left / of.table.rate
        for of in (facts, merged.facts)
    )
    some = spare > 1 / 60
    kept = np.average(left[merged.of[some]] / spare[some], weights=facts.table.left[some])
    assert 0.75 < kept < 1.0
    assert len(left) < 0.3 * len(spare)
