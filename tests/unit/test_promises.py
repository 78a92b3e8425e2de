"""Deadlines that are promises (Flex tiers): what gives before them, what they give to, and who refuses to break one."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from optimizer.check import check_plan
from optimizer.domain import JobState, Rung, Work
from optimizer.evaluate import evaluate
from optimizer.fallback import greedy_plan, safe_plan, shift_plan
from optimizer.flex import latest_end
from optimizer.solve import solve_problem
from scheduler.flex import bound_jobs
from tests.support.loops import lab
from tests.support.problems import HOUR, START, event, hourly, inputs, job, pool, problem, random_problem, site

BATCH = pool("batch", Work.BATCH, count=100)
CAP_KW = 12.0
"""Of an event: the hundred idle cards take 10 kW, and a GPU-hour of work 0.2 at the knee of the curve."""


def begun(**more):
    """A hundred GPU-hours on at most 50 GPUs, due in three hours; an event has two of these."""
    return job("j", (0, 3), 100.0, 50, state=JobState.SUSPENDED, started_at=START - HOUR, **more)


def made(jobs, limit=float("inf"), **asked):
    called = event("e", (1, 3), CAP_KW, penalty_per_kwh=1000.0, **asked)
    return problem(hourly(4), [site(4, limit=limit)], [inputs(BATCH, 4)], jobs, [called])


def late(plan):
    return plan.jobs["j"].late_gpu_h + plan.jobs["j"].undone_gpu_h


def test_a_promise_is_kept_through_a_firm_event_and_gives_to_a_hard_limit():
    soft, firm = solve_problem(made([begun()])), solve_problem(made([begun(firm=True)]))
    assert late(soft) > 20, "a deadline gives to a firm event"
    assert max(soft.sites["dc"].over_event_kw) < 1e-3
    assert late(firm) < 1e-3
    assert max(firm.sites["dc"].over_event_kw) > 1.0
    capped = solve_problem(made([begun(firm=True)], limit=CAP_KW))
    assert late(capped) > 20, "a hard limit comes first"
    assert max(capped.sites["dc"].over_limit_kw) < 1e-3
    deep = solve_problem(made([begun(firm=True)], emergency=True))
    assert late(deep) > 20, "and so does an emergency that was allowed"
    for plan, jobs in ((soft, [begun()]), (firm, [begun(firm=True)])):
        assert check_plan(made(jobs), plan) == ()
        assert evaluate(made(jobs), plan).total == pytest.approx(plan.objective, rel=1e-6)


@pytest.mark.parametrize("more", [{}, {"undone_penalty": 0.0}, {"late_penalty": 0.0}, {"value_per_gpu_h": 1e5}])
def test_no_price_makes_a_promise_cheap_or_a_hard_limit_dear(more):
    asked = made([begun(firm=True, **more)], limit=40.0)
    assert late(solve_problem(asked)) < 1e-3
    tight = made([begun(firm=True, **more)], limit=CAP_KW)
    assert max(solve_problem(tight).sites["dc"].over_limit_kw) < 1e-3


def test_a_plan_that_breaks_a_promise_beside_free_gpus_is_refused():
    soft = begun()
    asked = problem(hourly(4), [site(4, price=[50.0, 50.0, 50.0, 1.0])], [inputs(BATCH, 4)], [soft])
    lazy = safe_plan(asked)
    assert check_plan(asked, lazy) == ()
    firm = replace(asked, jobs=(replace(soft, firm=True),))
    (broken,) = check_plan(firm, lazy)
    assert broken.subject == "j"
    assert "100.000 GPU-h miss its promised deadline, with room for 150.000 before it" in broken.text
    assert check_plan(firm, replace(lazy, rung=Rung.RULE)) == (), "the loops correct what a rule does"
    for plan in (solve_problem(firm), greedy_plan(firm), safe_plan(firm), shift_plan(lazy, firm)):
        assert check_plan(firm, plan) == ()
        assert np.dot(plan.jobs["j"].work_gpus[:3], firm.grid.hours[:3]) == pytest.approx(100.0, abs=0.01)


@pytest.mark.parametrize("seed", range(6))
def test_promises_are_priced_as_the_model_prices_them(seed):
    asked = random_problem(seed, exact=True)
    jobs = [replace(one, firm=True, started_at=START - HOUR) if one.preemptible else one for one in asked.jobs]
    asked = replace(asked, jobs=tuple(jobs))
    plan = solve_problem(asked)
    assert evaluate(asked, plan).total == pytest.approx(plan.objective, rel=1e-4, abs=1e-3)


def test_a_job_of_a_tier_that_has_begun_has_promised_its_end_unless_it_is_due_before(tmp_path):
    with lab(tmp_path) as lab_site:
        one = job("t", (0, 10), 20.0, 10, pools=("tune",), tier=2, started_at=START, state=JobState.RUNNING)
        (bound,) = bound_jobs(lab_site.ctx, lab_site.state, [one], START)
        assert bound.firm
        assert timedelta() < latest_end(one) - bound.deadline < timedelta(minutes=10)
        (due,) = bound_jobs(lab_site.ctx, lab_site.state, [replace(one, deadline=START + 2.2 * HOUR)], START)
        assert (due.firm, due.deadline) == (False, START + 2.2 * HOUR)
        (waits,) = bound_jobs(lab_site.ctx, lab_site.state, [replace(one, started_at=None)], START)
        assert not waits.firm
