"""Jobs that are held to what their GPUs do under the one cap of their pool: hand-solved, checked, lived for a day."""

from dataclasses import replace

import pytest

from benchmarks.support.plans import Planned
from benchmarks.support.rolling import closed_loop
from optimizer import speeds
from optimizer.check import check_plan
from optimizer.curves import throughput_at_cap
from optimizer.domain import JobState, Rung, Work
from optimizer.evaluate import evaluate
from optimizer.fallback import greedy_plan, shift_plan
from optimizer.faults import SolveError, SolveFault
from optimizer.ladder import answer
from optimizer.rivals import RIVALS
from optimizer.session import Session
from optimizer.solve import solve_problem
from optimizer.speeds import Speeds
from tests.support.problems import (
    HOUR,
    START,
    curves,
    event,
    hourly,
    inputs,
    job,
    pool,
    problem,
    random_problem,
    site,
    under_one_cap,
    with_steps,
)

POOL = replace(pool("batch", Work.BATCH, 100), one_cap=True)
"""SIMPLE: half of the work for 100 W above the idle 100 W, all of it for 300 W."""


def of(jobs, price, **more):
    count = len(price)
    return problem(hourly(count), [site(count, price=price, **more)], [inputs(POOL, count)], jobs)


BESIDE = [job("j", (0, 1), 20.0, 20), job("k", (0, 2), 20.0, 40)]
"""j must run at full speed in the first hour; k may do its work beside it, where it takes 0.3 kW for each GPU
equivalent, or in the next hour at half speed, where it takes 0.2."""


@pytest.mark.parametrize(
    ("price", "work", "draw"), [(60.0, (0.0, 20.0), (16.0, 14.0)), (80.0, (20.0, 0.0), (22.0, 10.0))]
)
def test_who_works_beside_a_job_in_a_hurry_pays_for_its_speed(price, work, draw):
    made = of(BESIDE, [50.0, price])
    plan = solve_problem(made)
    assert plan.jobs["j"].work_gpus == pytest.approx((20.0, 0.0))
    assert plan.jobs["k"].work_gpus == pytest.approx(work)
    assert plan.pools["batch"].draw_kw == pytest.approx(draw)
    assert plan.pools["batch"].cap_w[0] == 400
    assert check_plan(made, plan) == ()
    assert evaluate(made, plan).total == pytest.approx(plan.objective, abs=1e-9)


def test_the_checker_refuses_what_the_cards_can_t_do_under_their_cap():
    made = of(BESIDE, [50.0, 60.0])
    plan = solve_problem(made)
    slow = replace(plan.pools["batch"], cap_w=(200, 200), active_gpus=(40, 40), draw_kw=(14.0, 14.0))
    site_plan = replace(plan.sites["dc"], import_kw=(14.0, 14.0))
    lies = replace(plan, pools={"batch": slow}, sites={"dc": site_plan})
    assert [(found.subject, found.index) for found in check_plan(made, lies)] == [("j", 0)]
    free = replace(made, pools=(replace(made.pools[0], pool=replace(POOL, one_cap=False)),))
    assert check_plan(free, lies) == ()


def test_plans_by_rules_draw_what_the_fastest_job_takes():
    made = of(BESIDE, [50.0, 60.0])
    for plan in (greedy_plan(made), shift_plan(greedy_plan(made), made), RIVALS["do_nothing"](made, None)):
        assert plan.jobs["j"].work_gpus == pytest.approx((20.0, 0.0))
        beside = plan.jobs["k"].work_gpus[0]
        assert plan.pools["batch"].draw_kw[0] == pytest.approx(10.0 + (20.0 + beside) * 0.3)
        assert check_plan(made, plan) == ()


def test_a_gang_needs_its_least_gpus_whatever_the_speed_of_its_pool():
    """A running gang of 40 of 200 GPUs, and two dear hours of which it must go on in the first: 40 GPUs at half speed,
    20 GPU equivalents at 0.2 kW each."""
    began = {"started_at": START - HOUR, "running_since": START}
    gang = job("gang", (-2, 12), 100.0, 80, min_gpus=40, min_run_h=1.0, state=JobState.RUNNING, **began)
    wide = replace(POOL, count=200)
    price = [300.0, 300.0, *[40.0] * 10]
    jobs = [replace(gang, gpus=40), job("k", (0, 12), 60.0, 80)]
    made = problem(hourly(12), [site(12, price=price)], [inputs(wide, 12)], jobs)
    plan = answer(made, None, solve_problem)
    assert (plan.rung, check_plan(made, plan)) == (Rung.OPTIMUM, ())
    assert plan.jobs["gang"].work_gpus[:2] == pytest.approx((20.0, 0.0))
    assert plan.pools["batch"].draw_kw[0] == pytest.approx(20.0 + 20.0 * 0.2)


def test_a_least_run_gives_way_to_a_firm_event_even_where_a_part_of_it_would_fit():
    """Idle cards alone are over the event's cap. In part (at the knee) the run would be worth more than what it takes,
    if both its work and its being whole were counted in full."""
    began = {"started_at": START - HOUR, "running_since": START}
    run = job("j", (-2, 4), 400.0, 100, min_run_h=2.0, state=JobState.RUNNING, **began)
    made = replace(of([replace(run, gpus=100)], [50.0] * 4), events=(event(hours=(1, 2), target=5.0),))
    plan = answer(made, None, solve_problem)
    assert (plan.rung, check_plan(made, plan)) == (Rung.OPTIMUM, ())
    assert plan.jobs["j"].work_gpus == pytest.approx((100.0, 0.0, 100.0, 100.0))
    assert plan.sites["dc"].over_event_kw == pytest.approx((0.0, 5.0, 0.0, 0.0))


@pytest.mark.parametrize("work", [75.0, 90.0, 95.0])
def test_a_job_that_is_alone_in_its_hurry_has_a_plan_on_any_measured_curve(work):
    """Few of them are concave: what the hull over a curve promises, no cap keeps."""
    for curve in curves().values():
        of_curve = pool("batch", Work.BATCH, 100, curve=curve, one_cap=True)
        late = [job("a", (0, 1), work, 100)]
        made = problem(hourly(2), [site(2, price=[50.0, 400.0])], [inputs(of_curve, 2)], late)
        plan = answer(made, None, solve_problem)
        assert (plan.rung, check_plan(made, plan)) == (Rung.OPTIMUM, ()), curve.name
        cap_w = plan.pools["batch"].cap_w[0]
        assert 100 * throughput_at_cap(curve, cap_w + 1) >= min(work, 100 * throughput_at_cap(curve, 1e9)) - 1e-6


def test_a_job_that_is_in_time_only_at_a_higher_speed_gets_it_at_once():
    late = [job("j", (0, 2), 40.0, 40), job("m", (0, 2), 10.0, 60)]
    made = of(late, [50.0, 50.0], limit=[10.0, 100.0])
    plan = solve_problem(made)
    assert plan.jobs["j"].work_gpus == pytest.approx((0.0, 40.0))  # its pace alone would ask for half speed
    assert plan.jobs["j"].late_gpu_h == plan.jobs["j"].undone_gpu_h == 0.0
    assert check_plan(made, plan) == ()


PAID = [-50.0, 60.0, 60.0, 60.0]
"""Paid to draw power in the first hour, BOTH do in it all that full speed does; the tightest needs half of it."""

BOTH = [job("j", (0, 4), 50.0, 50), job("k", (0, 4), 40.0, 40)]


def in_the_first_hour(plan):
    return plan.jobs["j"].work_gpus[0] + plan.jobs["k"].work_gpus[0]


def test_the_first_plan_looks_for_speeds_that_pay_and_the_next_one_keeps_them():
    made, session = of(BOTH, PAID), Session()
    for plan in (session.plan(made), session.plan(made)):
        assert in_the_first_hour(plan) == pytest.approx(90.0)
        assert check_plan(made, plan) == ()
        assert evaluate(made, plan).total == pytest.approx(plan.objective, abs=1e-9)


@pytest.mark.parametrize(("share", "work"), [(0.4, 90.0), (0.6, 45.0)])
def test_the_first_plan_looks_only_where_as_much_time_is_left_as_its_solve_took(monkeypatch, share, work):
    """From nothing a solve may take most of the plan's time; the next one, warm, looks all the same."""
    plain, limits = Session._solve, []

    def slow(self, facts, arrays, time_limit_s, remember=True):
        limits.append(time_limit_s)
        return replace(plain(self, facts, arrays, time_limit_s, remember), seconds=share * time_limit_s)

    monkeypatch.setattr(Session, "_solve", slow)
    made, session = of(BOTH, PAID), Session()
    assert in_the_first_hour(session.plan(made)) == pytest.approx(work)
    assert all(later <= 0.5 * (1.0 - share) * limits[0] + 1e-9 for later in limits[1:])
    assert in_the_first_hour(session.plan(made)) == pytest.approx(90.0)


def test_looking_rests_only_as_long_as_the_prices_promise_no_more():
    session = Session()
    for _ in range(4):
        assert session.plan(of(BOTH, [40.0, 60.0, 60.0, 60.0])).jobs["j"].work_gpus[0] < 40.0
    assert in_the_first_hour(session.plan(of(BOTH, PAID))) == pytest.approx(90.0)


@pytest.mark.parametrize(("work", "hope", "looks"), [(50.0, 0.01, 1), (57.0, 0.01, 2), (50.0, 0.021, 2)])
def test_what_was_looked_at_without_success_rests_until_it_is_another_problem(monkeypatch, work, hope, looks):
    hopes, judged = [0.01, hope], []
    monkeypatch.setattr(speeds, "better_speeds", lambda facts, *_: (facts.other_kw[[0]] * 0.0, hopes[0], 0.0, 1.0))
    monkeypatch.setattr(Speeds, "better", lambda self, *_: bool(judged.append(1) or setattr(self, "_rest", 6)))
    session = Session()
    session.plan(of([job("j", (0, 4), 50.0, 50)], [50.0] * 4))
    assert len(judged) == 1
    hopes.pop(0)
    session.plan(of([job("j", (0, 4), work, 60)], [50.0] * 4))
    assert len(judged) == looks


def test_a_look_that_takes_too_long_leaves_the_plan_that_was_found(monkeypatch):
    made, session, plain, looks = of(BOTH, PAID), Session(), Session._solve, []

    def slow(self, facts, arrays, time_limit_s, remember=True):
        looks.append(time_limit_s)
        if len(looks) == 2:
            raise SolveError(SolveFault.TIMEOUT, "no time")
        return plain(self, facts, arrays, time_limit_s, remember)

    monkeypatch.setattr(Session, "_solve", slow)
    plan = session.plan(made)
    assert len(looks) > 1
    assert plan.rung is Rung.OPTIMUM
    assert in_the_first_hour(plan) == pytest.approx(45.0)
    assert check_plan(made, plan) == ()


@pytest.mark.parametrize("seed", range(10))
def test_every_plan_of_any_problem_is_one_that_the_cards_can_follow(seed):
    exact = random_problem(seed, exact=True)
    for free in (exact, with_steps(exact, seed), with_steps(random_problem(seed), seed)):
        made, session = under_one_cap(free), Session()
        for plan in (session.plan(made), session.plan(made), greedy_plan(made)):
            assert check_plan(made, plan) == ()
            assert evaluate(made, plan).total == pytest.approx(plan.objective, rel=1e-9)


def test_a_day_under_one_cap_does_what_was_planned_and_loses_nothing_to_being_planned_anew():
    day = closed_loop(3, 40, 6, 4.0, Planned().plan, one_cap=True)
    free = closed_loop(3, 40, 6, 4.0, Planned().plan)
    assert day.short < 1e-4
    assert free.short > 0.01
    assert day.loss < 0.05
    assert day.lived < free.lived
