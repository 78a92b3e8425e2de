"""Plans without a solver: inside every cap, honest about what they are, and close to the optimum where it is simple."""

import time
from dataclasses import replace
from datetime import timedelta

import pytest

from optimizer.check import check_plan
from optimizer.domain import Rung, Work
from optimizer.fallback import greedy_plan, hold_plan, safe_plan, shift_plan
from optimizer.reasons import Reason
from optimizer.solve import solve_problem
from optimizer.timegrid import planning_grid
from tests.support.problems import START, event, hourly, inputs, job, pool, problem, site, typical_problem

BATCH = pool("batch", Work.BATCH, 100)


def batch_problem(jobs, price=50.0, count=4, **more):
    return problem(hourly(count), [site(count, price=price, **more)], [inputs(BATCH, count)], jobs)


def test_greedy_takes_the_cheapest_hours_and_the_tightest_job_first():
    made = batch_problem([job("loose", (0, 4), 100.0, 100), job("tight", (0, 1), 100.0, 100)], [90.0, 50.0, 10.0, 80.0])
    plan = greedy_plan(made)
    assert plan.jobs["tight"].work_gpus == pytest.approx((100, 0, 0, 0))
    assert plan.jobs["loose"].work_gpus == pytest.approx((0, 0, 100, 0))
    assert (plan.rung, plan.notes[0].code) == (Rung.GREEDY, Reason.GREEDY_PLAN)


def test_greedy_sheds_in_merit_order_and_down_to_floors_only():
    pools = [inputs(pool("chat", floor=0.8, value=5.0), 1), inputs(pool("train", Work.TRAINING, floor=0.5), 1)]
    plan = greedy_plan(problem(hourly(1), [site(1)], pools, events=[event("e", (0, 1), 650.0, 800.0)]))
    assert (plan.pools["chat"].cap_w, plan.pools["train"].cap_w) == ((400,), (250,))
    deep = greedy_plan(problem(hourly(1), [site(1)], pools, events=[event("e", (0, 1), 100.0, 800.0)]))
    assert (deep.pools["chat"].cap_w, deep.pools["train"].cap_w) == ((300,), (200,))
    assert Reason.EVENT_UNREACHABLE in {note.code for note in deep.notes}


def test_greedy_finds_the_cheapest_start_of_a_run_without_a_break():
    price = [70.0, 10.0, 900.0, 30.0, 30.0, 60.0]
    made = batch_problem([job("j", (0, 6), 200.0, 100, preemptible=False)], price, 6)
    assert greedy_plan(made).jobs["j"].work_gpus == pytest.approx((0, 0, 0, 100, 100, 0))


def test_the_rebound_limit_after_an_emergency_breaks_no_floor():
    """The hard limit of 370 kW takes training below its floor of 375; what is left of a past emergency does not."""
    past = event("e", (-3, -2), 100.0, 300.0, emergency=True, rebound_kw=300.0, rebound_s=4 * 3600.0)
    made = problem(hourly(1), [site(1, limit=370.0)], [inputs(pool("train", Work.TRAINING, floor=0.95), 1)], (), [past])
    plan = greedy_plan(made)
    assert plan.pools["train"].draw_kw == pytest.approx((370.0,))
    assert check_plan(made, plan) == ()


def test_runs_that_lost_their_gpus_take_no_power_from_others():
    """Two runs of 80 GPUs are left with 100: neither goes on, so training need not go below its floor for them."""
    pools = [inputs(pool("train", Work.TRAINING, 100, floor=0.8), 1), inputs(BATCH, 1)]
    runs = [job(name, (0, 9), 160.0, 80, preemptible=False, started_at=START - timedelta(hours=1)) for name in "ab"]
    plan = greedy_plan(problem(hourly(1), [site(1, limit=45.0)], pools, runs))
    assert plan.pools["train"].draw_kw == pytest.approx((35.0,))


def test_a_run_beside_which_others_fill_the_pool_is_booked_at_full_speed():
    """Alone, a run of 50 GPUs would draw 20 kW on a hundred slow ones; with 50 more GPUs of work all must be fast."""
    run = job("run", (0, 20), 100.0, 50, preemptible=False, started_at=START - timedelta(hours=1))
    made = batch_problem([run, job("more", (0, 20), 500.0, 50)], count=1, limit=38.0)
    plan = greedy_plan(made)
    assert check_plan(made, plan) == ()
    assert plan.jobs["more"].work_gpus[0] == pytest.approx((38.0 - 10.0 - 15.0) / 0.3)


def test_a_run_goes_on_where_its_rate_takes_more_gpus_than_it_asked_for():
    """Its rate is that of the fast pool's four GPUs; the slow pool, where it runs, needs eight for it."""
    slow = replace(pool("slow", Work.BATCH, 100), max_cap_w=200.0)
    run = job("run", (0, 20), 40.0, 4, ("slow", "fast"), preemptible=False, started_at=START - timedelta(hours=1))
    pools = [inputs(slow, 1), inputs(pool("fast", Work.BATCH, 100), 1)]
    made = problem(hourly(1), [site(1)], pools, [run])
    for plan in (greedy_plan(made), solve_problem(made)):
        assert check_plan(made, plan) == ()
        assert (plan.jobs["run"].pool, plan.jobs["run"].work_gpus) == ("slow", pytest.approx((4.0,)))


def test_greedy_is_worth_nearly_the_optimum_on_a_real_site_and_quick():
    made = typical_problem(30)
    best = solve_problem(made).objective
    assert 0.99 * best < greedy_plan(made).objective <= best
    many = typical_problem(1000)
    greedy_plan(many)
    started = time.process_time()
    greedy_plan(many)
    assert time.process_time() - started < 1.0


def later(made, hours):
    """The same world some hours later: the grid moved on, with the same values in every interval."""
    grid = hourly(len(made.grid))
    edges = tuple(edge + timedelta(hours=hours) for edge in grid.edges)
    return replace(made, made_at=edges[0], grid=replace(grid, edges=edges))


def test_the_last_plan_is_followed_where_time_has_moved_on():
    made = batch_problem([job("j", (0, 4), 150.0, 100)], [90.0, 50.0, 10.0, 80.0])
    last = solve_problem(made)
    moved = replace(later(made, 1), jobs=(replace(made.jobs[0], done_gpu_h=last.jobs["j"].work_gpus[0]),))
    plan = shift_plan(last, moved)
    assert plan.jobs["j"].work_gpus[:3] == pytest.approx(last.jobs["j"].work_gpus[1:])
    assert (plan.rung, check_plan(moved, plan)) == (Rung.SHIFTED, ())


def test_a_shifted_plan_meets_an_event_that_it_never_knew():
    pools = [inputs(pool(floor=0.5), 4), inputs(BATCH, 4)]
    made = problem(hourly(4), [site(4)], pools, [job("j", (0, 4), 300.0, 100)])
    last = solve_problem(made)
    surprised = replace(made, events=(event("e", (1, 2), 300.0, 440.0),))
    plan = shift_plan(last, surprised)
    assert plan.sites["dc"].import_kw[1] <= 300.0 + 1e-6
    assert check_plan(surprised, plan) == ()


def test_a_finer_or_other_grid_keeps_the_same_work():
    made = typical_problem(30)
    last = solve_problem(made)
    grid = planning_grid(START + timedelta(minutes=5), timedelta(hours=30))
    count = len(grid)
    moved = problem(
        grid,
        [site(count, limit=4400.0, pue=1.2)],
        [replace(item, load=(0.5,) * count) for item in made.pools],
        made.jobs,
    )
    plan = shift_plan(last, moved)
    assert check_plan(moved, plan) == ()
    for name, orders in plan.jobs.items():
        done = sum(rate * hours for rate, hours in zip(orders.work_gpus, grid.hours, strict=True))
        planned = sum(rate * hours for rate, hours in zip(last.jobs[name].work_gpus, made.grid.hours, strict=True))
        assert done <= planned + 1e-6


def test_hold_keeps_the_caps_and_safe_keeps_only_the_promises():
    pools = [inputs(pool(floor=0.5), 3), inputs(BATCH, 3)]
    made = problem(hourly(3), [site(3, price=[2500.0, 50.0, 50.0])], pools, [job("j", (0, 1), 80.0, 80)])
    last = solve_problem(made)
    held = hold_plan(made, last)
    assert held.pools["chat"].cap_w == (300, 300, 300)
    assert (held.rung, held.notes[0].code) == (Rung.HOLD, Reason.HELD)
    safe = safe_plan(made)
    assert safe.pools["chat"].cap_w == (200, 200, 200)
    assert safe.pools["batch"].active_gpus == (0, 0, 0)
    assert check_plan(made, held) == check_plan(made, safe) == ()


def test_every_fallback_keeps_a_job_that_may_not_be_interrupted():
    run = job("run", (-1, 3), 150.0, 100, preemptible=False, started_at=START - timedelta(hours=1))
    made = replace(batch_problem([run]), events=(event("e", (0, 4), 5.0, 50.0),))
    last = solve_problem(made)
    for plan in (greedy_plan(made), safe_plan(made), hold_plan(made, last), shift_plan(last, made)):
        assert plan.jobs["run"].work_gpus == pytest.approx((100, 50, 0, 0))
