"""Parked GPUs, solved by hand: what they save, when they must be woken, and that nobody works asleep."""

from dataclasses import replace

import numpy as np
import pytest

from optimizer.assets import Parking
from optimizer.check import check_plan
from optimizer.domain import Work
from optimizer.evaluate import evaluate
from optimizer.explain import explain_pool
from optimizer.fallback import greedy_plan, safe_plan
from optimizer.model.arrays import write_arrays
from optimizer.model.build import declare
from optimizer.parked import Parked
from optimizer.solve import solve_arrays, solve_problem
from optimizer.validate import problems_of
from tests.support.problems import hourly, inputs, job, pool, problem, site


def lot(count=8, parked_w=20.0, **terms):
    """GPUs that idle at 100 W: each saves 80 W while it is parked."""
    return pool("batch", Work.BATCH, count, parking=Parking(parked_w, **terms))


def asked(of, jobs=(), hours=3, price=1000.0, **now):
    return problem(hourly(hours), [site(hours, price=price)], [replace(inputs(of, hours), **now)], jobs)


@pytest.mark.parametrize(("wake_cost", "parked"), [(0.0, 8), (0.23, 8), (0.25, 0)])
def test_idle_gpus_are_parked_where_what_they_save_is_more_than_waking_costs(wake_cost, parked):
    """Three hours of 80 W at 1 USD/kWh save 0.24 USD a GPU."""
    made = asked(lot(wake_cost=wake_cost))
    plan = solve_problem(made)
    assert plan.pools["batch"].parked_gpus == (parked,) * 3
    assert plan.pools["batch"].draw_kw == pytest.approx((0.8 - 0.08 * parked,) * 3)
    assert plan.sites["dc"].import_kw == pytest.approx((0.8 - 0.08 * parked,) * 3)
    assert check_plan(made, plan) == ()
    assert evaluate(made, plan).parking == pytest.approx(parked * wake_cost)
    model = solve_arrays(write_arrays(declare(made)), 20.0)
    assert plan.objective == pytest.approx(-model.objective, abs=1e-7)


@pytest.mark.parametrize(("wake_s", "parked"), [(0.0, (8, 8, 0)), (1800.0, (8, 0, 0)), (5400.0, (0, 0, 0))])
def test_they_are_woken_so_that_they_work_when_they_are_needed(wake_s, parked):
    """Eight GPU-hours are due in the third hour, which takes all eight GPUs throughout it."""
    work = job(hours=(2, 3), work=8.0, gpus=8)
    made = asked(lot(wake_s=wake_s), [work])
    plan = solve_problem(made)
    assert plan.pools["batch"].parked_gpus == pytest.approx(parked, abs=1e-6)
    assert plan.jobs["j"].work_gpus == pytest.approx((0, 0, 8))
    assert check_plan(made, plan) == ()


def test_whole_steps_now_and_parts_later():
    """Three GPUs of work at full speed leave seven of ten: one step of four now, and all seven later."""
    of, work = lot(10, step=4), job(hours=(0, 3), work=9.0, gpus=3)
    plan = solve_problem(asked(of, [work]))
    assert plan.pools["batch"].parked_gpus == pytest.approx((4, 7, 7))
    assert plan.pools["batch"].active_gpus == (3, 3, 3)


def test_what_wakes_now_works_in_its_time_on_every_rung():
    """Of the eight GPUs four are parked and four wake for half an hour: four of work in the first hour."""
    work = job(hours=(0, 1), work=8.0, gpus=8)
    made = asked(lot(wake_s=1800.0), [work], hours=1, parked_now=4, waking_now=4, wake_left_s=1800.0)
    for plan in (solve_problem(made), greedy_plan(made)):
        assert plan.jobs["j"].work_gpus == pytest.approx((4,))
        assert plan.jobs["j"].undone_gpu_h == pytest.approx(4)
        assert plan.pools["batch"].active_gpus == (4,)
        assert check_plan(made, plan) == ()


def test_gpus_of_a_run_that_cannot_be_stopped_are_awake_whatever_is_said():
    run = job(hours=(0, 3), work=15.0, gpus=5, preemptible=False, started_at=hourly(1).start)
    made = asked(lot(), [run], parked_now=8)
    plan = solve_problem(made)
    assert plan.jobs["j"].work_gpus == pytest.approx((5, 5, 5))
    assert plan.pools["batch"].parked_gpus == pytest.approx((3, 3, 3))
    assert check_plan(made, plan) == ()


def test_a_run_whose_rate_a_faster_pool_sets_holds_the_gpus_that_it_takes_here():
    """Four GPUs of the other pool do four GPU equivalents; here a GPU does 0.8 at most: five are awake, all others may
    be parked now and take an hour to wake."""
    slow, fast = replace(lot(wake_s=3600.0), max_cap_w=300.0), pool("fast", Work.BATCH, 4)
    run = job(hours=(0, 3), work=12.0, gpus=4, pools=("batch", "fast"), preemptible=False, started_at=hourly(1).start)
    made = problem(hourly(3), [site(3)], [replace(inputs(slow, 3), parked_now=8), inputs(fast, 3)], [run])
    for plan in (solve_problem(made), greedy_plan(made), safe_plan(made)):
        assert check_plan(made, plan) == ()
        assert plan.jobs["j"].work_gpus[0] == pytest.approx(4.0)


def test_cards_that_save_nothing_asleep_are_left_awake():
    assert solve_problem(asked(lot(parked_w=150.0, wake_cost=0.01))).pools["batch"].parked_gpus == (0.0,) * 3


def test_the_sentence_says_how_many_sleep():
    made = asked(lot(10, step=4), [job(hours=(0, 3), work=9.0, gpus=3)])
    assert "runs 3 of 10 GPUs at 400 W and has 4 parked" in explain_pool(made, solve_problem(made), "batch")
    idle = asked(lot())
    assert "waits with all 8 GPUs idle, 8 of them parked," in explain_pool(idle, solve_problem(idle), "batch")


@pytest.mark.parametrize(
    ("parked", "fault"),
    [
        ((4.0, 7.0, 7.5), "work 3.000, its jobs' 3.000, of 2.5 GPUs"),
        ((3.0, 7.0, 7.0), "3.00 GPUs parked, in steps of 4"),
        ((8.0, 7.0, 7.0), "3 GPUs active, 2.00 awake"),
        ((4.0, 7.0, 12.0), "12.00 GPUs parked of 10"),
        ((4.0, 7.0), "parked GPUs are missing"),
    ],
)
def test_the_checker_finds_who_works_asleep(parked, fault):
    made = asked(lot(10, step=4), [job(hours=(0, 3), work=9.0, gpus=3)])
    plan = solve_problem(made)
    spoiled = replace(plan, pools={"batch": replace(plan.pools["batch"], parked_gpus=parked)})
    assert any(fault in broken.text for broken in check_plan(made, spoiled))


def test_the_checker_counts_what_they_save_itself():
    made = asked(lot())
    plan = solve_problem(made)
    awake = replace(plan.pools["batch"], parked_gpus=(0.0,) * 3)
    faults = [fault.text for fault in check_plan(made, replace(plan, pools={"batch": awake}))]
    assert faults[0] == "draw 0.160 kW is outside 0.800..3.200 kW"


@pytest.mark.parametrize("now", [{"waking_now": 4, "wake_left_s": 1800.0}, {"parked_now": 4}])
def test_the_checker_counts_who_wakes_itself(now):
    """Four of the eight GPUs work for half of the first hour: six in the mean, where the plan has eight."""
    work = job(hours=(0, 1), work=8.0, gpus=8)
    plan = solve_problem(asked(lot(wake_s=1800.0), [work], hours=1))
    assert plan.jobs["j"].work_gpus == pytest.approx((8,))
    assert check_plan(asked(lot(wake_s=1800.0), [work], hours=1), plan) == ()
    faults = [fault.text for fault in check_plan(asked(lot(wake_s=1800.0), [work], hours=1, **now), plan)]
    assert faults[:2] == ["8 GPUs active, 6.00 awake", "work 8.000, its jobs' 8.000, of 6 GPUs"]


def test_who_can_work_is_the_mean_over_an_interval():
    """Ten GPUs: two wake for the first half hour; of four that are parked two are woken with the second hour, which
    takes them half of it, and two with the third."""
    how = Parked(Parking(20.0, 1800.0), np.ones(3), 10, 100.0, now=4, waking=2, wake_left_h=0.5)
    assert how.awake(np.array([4.0, 2.0, 0.0])) == pytest.approx([5, 7, 9])
    assert how.woken(np.array([4.0, 2.0, 0.0])) == pytest.approx([0, 2, 2])
    assert how.most_awake == pytest.approx([7, 10, 10])


def test_parking_is_for_batch_pools_and_no_more_than_there_are():
    served = pool(parking=Parking(20.0))
    assert "is for batch pools" in str(next(problems_of(asked(served))))
    assert "9 parked" in str(next(problems_of(asked(lot(), parked_now=9))))
    assert list(problems_of(asked(lot(), parked_now=8))) == []
