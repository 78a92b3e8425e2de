"""Deadlines that are promises (Flex tiers): what gives before them, what they give to, and who refuses to break one."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from optimizer.assets import Generator
from optimizer.check import check_plan
from optimizer.domain import CurvePoint, JobState, PowerCurve, Rung, Work
from optimizer.evaluate import evaluate
from optimizer.facts import facts_of
from optimizer.fallback import greedy_plan, safe_plan, shift_plan
from optimizer.flex import latest_end
from optimizer.leastruns import Space
from optimizer.promises import keep_promises
from optimizer.solve import solve_problem
from optimizer.steps import steps_of
from scheduler.flex import bound_jobs
from tests.support.loops import lab
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
    with_promises,
    with_steps,
)

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


@pytest.mark.parametrize("more", [{"min_gpus": 50}, {"pause_cost": 5.0}, {"min_run_h": 0.5}])
def test_a_promise_of_a_gang_or_a_run_that_must_last_is_kept_through_a_firm_event_too(more):
    """Jobs of Slurm and Kubernetes are gangs; before its deadline there is no time but the event."""

    def at(asks, **how):
        called = event("e", (0, 3), CAP_KW, penalty_per_kwh=1000.0, **how)
        return problem(hourly(4), [site(4)], [inputs(BATCH, 4)], [asks], [called])

    kept, deep = at(begun(firm=True, **more)), at(begun(firm=True, **more), emergency=True)
    plan, under = solve_problem(kept), solve_problem(deep)
    assert late(plan) < 1e-3
    assert check_plan(kept, plan) == ()
    assert max(under.sites["dc"].over_event_kw) < 1e-3, "an emergency comes first"
    assert check_plan(deep, under) == ()


def test_rules_fill_later_hours_where_a_gang_is_short_of_work_for_the_first():
    """18 GPU-hours are missing: too few for fifty GPUs now, and the third hour has no room in it but for them."""
    asks = replace(begun(firm=True, min_gpus=50), work_gpu_h=68.0)
    kept = problem(hourly(4), [site(4, price=[9.0, 1.0, 9.0, 9.0])], [inputs(BATCH, 4)], [asks])
    space = Space(np.array([[25.0, 0.0, 25.0, 25.0]]), np.full((1, 4), 100.0), np.full((1, 4), 0.2), np.zeros((1, 4)))
    rates = np.array([[0.0, 50.0, 0.0, 0.0]])
    facts = facts_of(kept)
    keep_promises(facts, steps_of(facts), rates, [0], space)
    assert rates[0] == pytest.approx([0.0, 50.0, 18.0, 0.0])
    space, rates = replace(space, free=np.array([[25.0, 0.0, 0.0, 25.0]])), np.array([[0.0, 50.0, 0.0, 0.0]])
    keep_promises(facts, steps_of(facts), rates, [0], space)
    assert rates[0] == pytest.approx([25.0, 43.0, 0.0, 0.0])


def test_rules_keep_a_promise_with_the_power_of_an_engine_that_must_run():
    """An event leaves the 10 kW that idle cards take. The engine gives 6 more: 20 GPU-hours an hour at full speed."""
    engine = Generator("gas", (6.0,) * 4, (6.0,) * 4, 50.0, False, True)
    asks = replace(begun(firm=True), work_gpu_h=50.0)
    called = event("e", (0, 4), 10.0, baseline=50.0)
    kept = problem(hourly(4), [site(4, generators=(engine,))], [inputs(BATCH, 4)], [asks], [called])
    plan = greedy_plan(kept)
    assert plan.jobs["j"].work_gpus == pytest.approx((20.0, 20.0, 10.0, 0.0))
    assert max(plan.sites["dc"].over_event_kw) < 1e-6
    assert check_plan(kept, plan) == ()


def test_rules_keep_a_promise_where_another_pool_of_the_job_is_faster():
    """What was planned at the other pool's speed took the place of work in time, at the end of the plan."""
    asked = with_promises(with_steps(random_problem(3789), 3790), 3790)
    assert check_plan(asked, greedy_plan(asked)) == ()


def test_a_promise_gives_to_an_emergency_and_not_to_the_rebound_limit_after_it():
    """The first hour is the emergency's, the second has its rebound limit: what is due needs that and the third."""
    called = event("e", (0, 1), CAP_KW, baseline=CAP_KW, rebound_kw=CAP_KW, emergency=True)
    kept = problem(hourly(4), [site(4)], [inputs(BATCH, 4)], [begun(firm=True)], [called])
    plan = solve_problem(kept)
    assert plan.sites["dc"].over_event_kw[0] < 1e-3
    assert plan.sites["dc"].over_event_kw[1] > 1.0
    assert check_plan(kept, plan) == ()
    (broken,) = check_plan(replace(kept, jobs=(replace(begun(), deadline=START + 9 * HOUR),)), plan)[:1]
    assert "over the event's cap" in broken.text, "no promise asks for it"


def test_a_gang_with_a_promise_goes_on_whole_where_a_part_of_it_would_do():
    """110 GPU-hours in three hours of at most 50: the hour of the event has to do 10, and its fifty GPUs do 25."""
    asks = replace(begun(firm=True, min_gpus=50), work_gpu_h=110.0)
    called = event("e", (0, 1), CAP_KW, penalty_per_kwh=1000.0)
    kept = problem(hourly(4), [site(4)], [inputs(BATCH, 4)], [asks], [called])
    plan = solve_problem(kept)
    assert late(plan) < 1e-3
    assert plan.jobs["j"].work_gpus[0] == pytest.approx(25.0)
    assert check_plan(kept, plan) == ()
    (broken,) = check_plan(replace(kept, jobs=(replace(asks, min_gpus=0),)), plan)
    assert "over the event's cap" in broken.text, "others could do less of it"


@pytest.mark.parametrize("firm", [False, True])
@pytest.mark.parametrize("under", ["emergency", "limit"])
def test_a_promise_gives_before_a_floor_that_may_give(under, firm):
    """16 GPU-hours of the job for a kWh, below the floor 2 of the others: their floor is dearer all the same."""
    eager = PowerCurve("eager", 50.0, (CurvePoint(100, 100, 0.8), CurvePoint(200, 200, 0.9), CurvePoint(400, 400, 1.0)))
    others = pool("others", Work.TRAINING, count=100, floor=0.95)
    pools = [inputs(others, 4), inputs(pool("batch", Work.BATCH, count=100, curve=eager), 4)]
    jobs = [job("j", (0, 3), 250.0, 100, state=JobState.SUSPENDED, started_at=START - HOUR, firm=firm)]
    called = [event("e", (0, 3), 32.0, emergency=True)] if under == "emergency" else []
    made = problem(hourly(4), [site(4, limit=32.0 if under == "limit" else float("inf"))], pools, jobs, called)
    plan = solve_problem(made)
    assert check_plan(made, plan) == ()
    assert plan.pools["others"].work_gpus[:3] == pytest.approx((71.0,) * 3), "5 kW for idle cards, 27 are left"
    assert plan.jobs["j"].work_gpus[:3] == pytest.approx((0.0,) * 3)


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


@pytest.mark.parametrize(
    ("more", "free_kw", "used"),
    [
        ({"min_gpus": 50}, (20.0, 20.0, 20.0), True),
        ({"min_gpus": 50}, (20.0, 0.0, 0.0), True),
        ({"min_gpus": 50}, (4.0, 0.0, 0.0), False),  # its fifty GPUs need 5 kW at the knee
        ({"pause_cost": 1.0}, (0.05, 0.0, 0.0), False),  # half of a GPU
        ({"min_run_h": 2.0}, (20.0, 0.0, 0.0), False),  # an hour before the limit
        ({"min_run_h": 2.0}, (0.0, 20.0, 0.0), False),  # an hour between two
        ({"min_run_h": 2.0}, (20.0, 20.0, 0.0), True),
        ({"min_run_h": 1.0}, (20.0, 0.0, 0.0), True),
        ({"min_run_h": 2.0, "work_gpu_h": 40.0}, (20.0, 0.0, 0.0), True),  # it is done in less
        ({}, (2.0, 0.0, 0.0), True),  # less than what is missing, and still room
    ],
)
def test_room_is_what_a_promised_job_can_use(more, free_kw, used):
    soft = replace(begun(), **more)
    limit = [10.0 + kw for kw in (*free_kw, 40.0)]
    asked = problem(hourly(4), [site(4, limit=limit)], [inputs(BATCH, 4)], [soft])
    rests = replace(safe_plan(asked), rung=Rung.OPTIMUM)
    assert max(rests.jobs["j"].work_gpus[:3]) == 0.0
    found = check_plan(replace(asked, jobs=(replace(soft, firm=True),)), rests)
    assert [fault.subject for fault in found if "promised deadline" in fault.text] == ["j"] * used


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
