"""Work of many jobs as tanks: the emergency plan keeps every promise, whatever the number of jobs."""

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.support.reference import coarse_grid, reference_problem
from optimizer.assemble import Draft
from optimizer.check import check_plan
from optimizer.domain import Rung, Work
from optimizer.facts import facts_of
from optimizer.fallback import greedy_plan
from optimizer.faults import SolveError, SolveFault
from optimizer.highs import Highs
from optimizer.jobplans import job_rows
from optimizer.ladder import answer
from optimizer.reasons import Reason
from optimizer.session import Session
from optimizer.tankhours import in_hours
from optimizer.tanks import tanks_of
from tests.property.test_classes import repeated
from tests.support.problems import hourly, inputs, job, pool, problem, random_problem, site, with_parking, with_steps

seeds = st.integers(0, 10**6)


def emergency(made):
    """The emergency plan of a problem."""
    return Session(_compiled=True)._hastily(
        in_hours(tanks_of(facts_of(made))), Rung.EMERGENCY, SolveError(SolveFault.TIMEOUT, "no time"), 20.0
    )


@given(seeds, seeds)
def test_the_emergency_plan_keeps_every_promise(seed, other):
    made = repeated(random_problem(seed), other)
    if other % 3 == 0:
        made = with_steps(made, other)
    if other % 5 == 0:
        made = with_parking(made, other)
    plan = emergency(made)
    assert (plan.rung, check_plan(made, plan)) == (Rung.EMERGENCY, ())
    shuffled = list(made.jobs)
    random.Random(other).shuffle(shuffled)
    assert dict(emergency(replace(made, jobs=tuple(shuffled))).jobs) == dict(plan.jobs)


@pytest.mark.parametrize("horizon_h", [2.0, 8.0])
def test_its_orders_are_those_of_the_jobs_that_were_handed_the_work(horizon_h):
    """Under one cap a pool: tanks are planned as if GPUs ran at full speed, jobs then run as slow as they may."""
    for seed in range(6):
        made = reference_problem(seed, coarse_grid(horizon_h), 100, 6, one_cap=True)
        assert check_plan(made, emergency(made)) == ()


def test_who_has_the_least_time_to_spare_works_first_and_nobody_faster_than_he_can():
    """Ten GPUs; the cheap hour is the last. One job must run from the start, one from the third hour on, one may wait
    for the cheap hour: all are one tank: worth as much, with as much to spare."""
    jobs = [
        job("now", (0, 2), 6.0, 4, value_per_gpu_h=1.0),
        job("soon", (1, 5), 12.0, 4, value_per_gpu_h=1.0),
        job("later", (2, 6), 12.0, 4, value_per_gpu_h=1.0),
    ]
    made = problem(
        hourly(6), [site(6, price=[90, 90, 80, 70, 60, 10])], [inputs(pool("batch", Work.BATCH, 10), 6)], jobs
    )
    tanks = tanks_of(facts_of(made))
    assert len(tanks.facts.table) == 1
    stock = tanks.facts.table.stock
    assert stock.most[0] == pytest.approx([4, 6 + 4, 6 + 8 + 4, 6 + 12 + 8, 30, 30])
    plan = emergency(made)
    assert check_plan(made, plan) == ()
    rates = job_rows(plan.jobs, ["now", "soon", "later"], 6).rates
    assert rates.max() <= 4.0 + 1e-9
    assert rates.sum(axis=1) == pytest.approx([6.0, 12.0, 12.0])
    assert rates[0, 2:].sum() == rates[1, 5] == 0.0  # nothing is late
    assert rates[2, 5] > 1.0  # the cheap hour is used


def test_its_size_does_not_grow_with_the_jobs_and_its_deadlines_are_nearly_kept():
    sizes, missed = [], []
    for count in (400, 1600):
        made = reference_problem(3, coarse_grid(12.0), count, 6)
        table = tanks_of(facts_of(made)).facts.table
        sizes.append(len(table))
        plan = emergency(made)
        assert check_plan(made, plan) == ()
        short = plan.jobs.late_gpu_h + plan.jobs.undone_gpu_h
        missed.append(short.sum() / sum(of.work_gpu_h for of in made.jobs))
    assert sizes[1] <= sizes[0] + 5 < 60
    assert max(missed) < 0.03


@pytest.mark.parametrize("many", [False, True])
def test_it_answers_when_time_is_short_even_for_classes_or_there_are_too_many_of_them(monkeypatch, many):
    made, run, tried = reference_problem(1, coarse_grid(10.0), 200, 4), Highs.run, []

    def slow(self, time_limit_s):
        """A solver that has time for tanks only."""
        tried.append(len(self.arrays.families["stock"]))
        if not tried[-1]:
            raise SolveError(SolveFault.TIMEOUT, "no usable plan within 7 s")
        return run(self, time_limit_s)

    monkeypatch.setattr(Highs, "run", slow)
    if many:
        monkeypatch.setattr("optimizer.session.MOST_COARSE", 10)
    kept = Session()
    plan = kept.plan(made)
    assert (plan.rung, check_plan(made, plan)) == (Rung.EMERGENCY, ())
    assert [bool(size) for size in tried] == ([False, True] if many else [False, False, True])
    said = {note.code: note.text for note in plan.notes}
    assert "tanks of work" in said[Reason.SOLVER_TIMEOUT]
    assert "200 jobs are planned as" in said[Reason.JOBS_GROUPED]
    monkeypatch.undo()
    assert answer(made, plan, kept.plan).rung is Rung.OPTIMUM


@pytest.mark.parametrize(("made", "rung"), [
    (reference_problem(1, coarse_grid(24.0), 300, 8), Rung.GREEDY),
    (repeated(random_problem(6), 6), Rung.EMERGENCY),
], ids=["rules are worth more", "tanks are worth more"])  # fmt: skip
def test_a_plan_of_tanks_is_taken_where_no_other_that_can_be_had_is_worth_more(made, rung, monkeypatch):
    tanks, rules = emergency(made), greedy_plan(made)
    plan = answer(made, None, lambda _: tanks)
    assert (plan.rung, plan.objective) == (rung, max(tanks.objective, rules.objective))
    assert check_plan(made, plan) == ()
    assert any("made of tanks" in note.text for note in plan.notes), "that the solver was late is told"
    followed = answer(made, Session().plan(made), lambda _: tanks)
    assert followed.objective >= plan.objective
    monkeypatch.setattr("optimizer.ladder.MOST_COMPARED", len(made.jobs) - 1)
    assert answer(made, None, lambda _: tanks).rung is Rung.EMERGENCY


def handed_out(limit_kw, planned):
    """Rates of four jobs of one tank, and the draw that they take, when a plan of the tank has this work in four
    hours. Ten GPUs; z and y must work at once to be in time, x has an hour to spare and w a little more."""
    jobs = [job("z", (0, 2), 8.0, 4), job("y", (0, 2), 7.0, 4), job("x", (0, 4), 12.0, 4), job("w", (0, 4), 11.0, 4)]
    made = problem(hourly(4), [site(4, limit=limit_kw)], [inputs(pool("batch", Work.BATCH, 10), 4)], jobs)
    facts = facts_of(made)
    tanks = tanks_of(facts)
    assert len(tanks.facts.table) == 1
    draw = facts.pools[0].draws_for(np.array(planned))
    draft = tanks.split(Draft(draw[None, :], np.array([planned]), (0,)))
    return draft.rates[::-1], draft.draw_kw[0]


def test_what_must_be_done_now_is_done_and_the_rest_goes_to_who_has_the_least_time_to_spare():
    rates, _ = handed_out(1e9, [0.0, 10.0, 6.0, 6.0])
    assert rates[:, 0] == pytest.approx([4, 3, 0, 0])  # beyond the plan, which had nothing
    rates, _ = handed_out(1e9, [9.0, 10.0, 6.0, 6.0])
    assert rates[:, 0] == pytest.approx([4, 4, 1, 0])  # x has less to spare than w
    assert rates.sum(axis=0)[1:].max() <= 10.0 + 1e-9  # GPUs that there are
    stock = tanks_of(facts_of(reference_problem(3, coarse_grid(6.0), 50, 2))).facts.table.stock
    assert (np.diff(stock.least, axis=1) >= -1e-9).all()
    assert (stock.least <= stock.most + 1e-9).all()


def test_what_must_be_done_now_goes_before_what_was_planned_of_other_tanks():
    jobs = [job("dear", (0, 4), 8.0, 4, value_per_gpu_h=90.0), job("hurry", (0, 2), 8.0, 4)]
    made = problem(hourly(4), [site(4)], [inputs(pool("batch", Work.BATCH, 10), 4)], jobs)
    tanks = tanks_of(facts_of(made))
    assert [of.id for of in tanks.facts.table.jobs] == ["hurry", "dear"]
    draft = tanks.split(Draft(np.zeros((1, 4)), np.array([[0.0, 4, 4, 0], [4.0, 4, 0, 0]]), (0, 0)))
    assert draft.rates[:, 0] == pytest.approx([0, 4])


def test_what_must_be_done_now_stays_below_the_limit():
    _, free_kw = handed_out(1e9, [0.0, 10.0, 6.0, 6.0])
    idle_kw = handed_out(0.0, [0.0, 10.0, 6.0, 6.0])[1]
    limit_kw = (free_kw[0] + idle_kw[0]) / 2
    rates, draw_kw = handed_out(limit_kw, [0.0, 0.0, 0.0, 0.0])
    assert free_kw[0] > limit_kw > idle_kw[0]
    assert (draw_kw <= limit_kw + 1e-9).all()
    assert 1.0 < rates[:, 0].sum() < 6.0


def test_a_tank_has_the_work_done_that_its_jobs_would_have_done_at_half_their_rate():
    """8 GPU-hours at no more than 4 GPUs until the fourth hour: at half of that rate it must begin at once."""
    made = problem(hourly(6), [site(6)], [inputs(pool("batch", Work.BATCH, 10), 6)], [job("a", (0, 4), 8.0, 4)])
    stock = tanks_of(facts_of(made)).facts.table.stock
    assert stock.least[0] == pytest.approx([2, 4, 6, 8, 8, 8])
    assert stock.most[0] == pytest.approx([4, 8, 8, 8, 8, 8])
