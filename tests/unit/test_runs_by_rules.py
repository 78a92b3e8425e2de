"""Rules without a solver and the checker mean the same by room for a run that must last."""

from dataclasses import replace

import pytest

from optimizer.assets import Generator
from optimizer.check import check_plan
from optimizer.domain import JobState, Work
from optimizer.fallback import greedy_plan, safe_plan
from optimizer.ladder import answer
from optimizer.rivals import RIVALS
from optimizer.solve import SolveError, SolveFault, solve_problem
from tests.support.problems import (
    HOUR,
    START,
    hourly,
    inputs,
    job,
    pool,
    problem,
    random_problem,
    site,
    with_steps,
)

BATCH = inputs(pool("batch", Work.BATCH, 100), 2)
"""SIMPLE: idle 10 kW; half of the work for 0.1 kW a GPU, all of it for 0.3."""


def running(**more):
    """A run of ten GPUs that must go on for two hours."""
    begun = {"gpus": 10, "min_gpus": 10, "state": JobState.RUNNING, "started_at": START, "running_since": START}
    return replace(job("run", (-1, 9), 40.0, 10, min_run_h=2.0), **{**begun, **more})


ALONE = inputs(pool("batch", Work.BATCH, 1), 3)


def on_one_card(hours, work, **more):
    """A job that runs on the one card of its pool."""
    begun = {"gpus": 1, "state": JobState.RUNNING, "started_at": START - HOUR, "running_since": START - HOUR / 4}
    return replace(job("run", hours, work, 1, **more), **begun)


@pytest.mark.parametrize("name", ["optimum", *RIVALS])
@pytest.mark.parametrize("more", [{"min_run_h": 2.0}, {"pause_cost": 1.0}])
def test_nobody_plans_a_part_of_the_card_that_a_run_needs(name, more):
    """At full speed, as its deadline asks for, 0.1486 kW are 0.4953 of a card, and 0.16 are 0.5333; with less than 0.5
    there is no card for it at all."""
    for limit, rate in ((0.2486, 0.0), (0.26, 0.5333)):
        made = problem(hourly(3), [site(3, limit=[limit, 0.1, 0.1])], [ALONE], [on_one_card((-2, 6), 20.0, **more)])
        plan = solve_problem(made) if name == "optimum" else RIVALS[name](made, None)
        assert plan.jobs["run"].work_gpus == pytest.approx((rate, 0.0, 0.0), abs=1e-4)
        assert check_plan(made, plan) == ()


def test_greedy_gives_a_run_its_least_now_and_less_later_where_the_cheap_hours_leave_a_rest():
    made = problem(hourly(3), [site(3, price=[30, 20, 10])], [ALONE], [on_one_card((-2, 3), 2.3, pause_cost=1.0)])
    assert greedy_plan(made).jobs["run"].work_gpus == pytest.approx((0.5, 1.0, 0.8))


def fail(_problem):
    raise SolveError(SolveFault.TIMEOUT, "no time")


@pytest.mark.parametrize(
    ("seed", "other", "run"), [(7030, 7031, "j3"), (20755, 20756, "j3"), (22916, 22917, "j4"), (1482, 1482, "j1")]
)
def test_a_run_lasts_wherever_the_plan_leaves_room_for_it(seed, other, run):
    made = with_steps(random_problem(seed, exact=seed == other), other)
    for plan in (greedy_plan(made), safe_plan(made)):
        assert check_plan(made, plan) == ()
        assert min(plan.jobs[run].work_gpus) > 0.0
    assert check_plan(made, answer(made, None, fail)) == ()


def test_room_counts_the_engine_that_must_run():
    """The limit leaves 10 kW for idle cards and nothing for the run, but for the 5 kW of an engine that can't give
    less."""
    engine = Generator("gas", low_kw=(5.0, 5.0), high_kw=(5.0, 5.0), cost_per_mwh=500.0)
    where = replace(site(2, limit=10.0), generators=(engine,))
    made = problem(hourly(2), [where], [BATCH], [running()])
    for plan in (greedy_plan(made), safe_plan(made), RIVALS["do_nothing"](made, None)):
        assert min(plan.jobs["run"].work_gpus) >= 5.0 - 1e-9
        assert check_plan(made, plan) == ()


def test_room_counts_what_slow_cards_draw():
    """At full speed each of two runs takes 1.5 kW above the idle cards, at half speed 1 kW: there is room for both."""
    made = problem(hourly(2), [site(2, limit=12.1)], [BATCH], [running(), running(id="other")])
    plan = safe_plan(made)
    assert min(*plan.jobs["run"].work_gpus, *plan.jobs["other"].work_gpus) >= 5.0 - 1e-9
    assert check_plan(made, plan) == ()


def test_the_checker_asks_for_a_run_only_where_its_pool_fits_at_full_speed():
    """The least of the run, five GPU equivalents, takes 1.5 kW at full speed."""
    for limit, asked in ((11.4, False), (11.6, True)):
        made = problem(hourly(2), [site(2, limit=limit)], [BATCH], [running()])
        plan = safe_plan(made)
        idle = replace(plan.pools["batch"], draw_kw=(10.0, 10.0), work_gpus=(0.0, 0.0), active_gpus=(0, 0))
        rests = replace(plan.jobs["run"], work_gpus=(0.0, 0.0), undone_gpu_h=0.0, finish=None)
        stopped = replace(
            plan,
            pools={"batch": idle},
            jobs={"run": rests},
            sites={"dc": replace(plan.sites["dc"], import_kw=(10.0, 10.0))},
        )
        found = [broken.text for broken in check_plan(made, stopped)]
        assert any("has not run for its least 2 h" in text for text in found) is asked, found
