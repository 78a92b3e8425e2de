"""The checker refuses every plan that breaks a promise: each test spoils one thing in a good plan."""

from dataclasses import replace
from datetime import timedelta

import pytest

from optimizer.check import check_plan
from optimizer.domain import SitePlan, Work
from optimizer.solve import solve_problem
from tests.support.problems import START, event, hourly, inputs, job, pool, problem, site


@pytest.fixture(scope="module")
def good():
    pools = [
        inputs(pool(floor=0.8), 4),
        inputs(pool("train", Work.TRAINING, 500, floor=0.6), 4, 0.9),
        inputs(pool("batch", Work.BATCH, 400), 4),
    ]
    jobs = [
        job("j", (0, 3), 300.0, 200),
        job("run", (0, 9), 150.0, 100, preemptible=False, started_at=START - timedelta(hours=1)),
        job("late", (0, 1), 300.0, 100),
    ]
    called = event("e", (1, 3), 560.0, 650.0)
    made = problem(hourly(4), [site(4, limit=640.0)], pools, jobs, [called])
    plan = solve_problem(made)
    assert check_plan(made, plan) == ()
    return made, plan


def spoil_pool(plan, name, **fields):
    rows = {key: tuple(value) for key, value in fields.items()}
    return replace(plan, pools={**plan.pools, name: replace(plan.pools[name], **rows)})


def spoil_job(plan, name, **fields):
    return replace(plan, jobs={**plan.jobs, name: replace(plan.jobs[name], **fields)})


def spoil_site(plan, **fields):
    return replace(plan, sites={"dc": replace(plan.sites["dc"], **fields)})


def scaled(row, factor, index=None):
    return tuple(value * factor if index in {None, t} else value for t, value in enumerate(row))


SPOILS = {
    "another grid": (lambda p: replace(p, grid=hourly(3)), "grid"),
    "a pool is missing": (lambda p: replace(p, pools={}), "missing"),
    "a job is missing": (lambda p: replace(p, jobs={}), "missing"),
    "a number is none": (lambda p: spoil_pool(p, "chat", draw_kw=(float("nan"),) * 4), "nan"),
    "too few numbers": (lambda p: spoil_pool(p, "chat", cap_w=(400,)), "1 values for 4"),
    "a cap beyond the cards": (lambda p: spoil_pool(p, "chat", cap_w=(401, 400, 400, 400)), "outside the cards' range"),
    "more GPUs than there are": (lambda p: spoil_pool(p, "batch", active_gpus=(401, 0, 0, 0)), "401 active"),
    "import that is not the draws'": (
        lambda p: spoil_site(p, import_kw=scaled(p.sites["dc"].import_kw, 0.99)), "its draws make"
    ),
    "draw above any cap": (lambda p: spoil_pool(p, "chat", draw_kw=(410.0,) * 4), "outside"),
    "work from nothing": (lambda p: spoil_pool(p, "chat", work_gpus=scaled(p.pools["chat"].work_gpus, 1.05)), "curve"),
    "a floor given up": (
        lambda p: spoil_pool(p, "chat", draw_kw=(250.0,) * 4, work_gpus=(650.0,) * 4), "below its floor"
    ),
    "batch work for free": (
        lambda p: spoil_pool(p, "batch", draw_kw=(40.0,) * 4), "outside"
    ),
    "batch work of no job": (
        lambda p: spoil_pool(p, "batch", work_gpus=scaled(p.pools["batch"].work_gpus, 0.5)), "its jobs'"
    ),
    "a job too fast": (lambda p: spoil_job(p, "j", work_gpus=(300.0, 0.0, 0.0, 0.0)), "window or above"),
    "a job done twice": (lambda p: spoil_job(p, "j", work_gpus=(200.0, 200.0, 0.0, 0.0)), "GPU-h done"),
    "work that vanishes": (lambda p: spoil_job(p, "j", work_gpus=(100.0, 0.0, 0.0, 0.0)), "vanish"),
    "lateness unsaid": (lambda p: spoil_job(p, "late", late_gpu_h=0.0), "declared 0.000"),
    "a pool of no right": (lambda p: spoil_job(p, "j", pool="chat"), "may not run"),
    "a run broken off": (lambda p: spoil_job(p, "run", work_gpus=(100.0, 0.0, 50.0, 0.0)), "interrupted"),
    "a run stopped": (lambda p: spoil_job(p, "run", work_gpus=(0.0, 100.0, 50.0, 0.0)), "is stopped"),
}  # fmt: skip


@pytest.mark.parametrize("name", SPOILS)
def test_a_spoiled_plan_is_refused(good, name):
    made, plan = good
    spoil, says = SPOILS[name]
    found = check_plan(made, spoil(plan))
    assert any(says in violation.text for violation in found), found


def over(made, plan, kw, index, **declared):
    """The plan with chat drawing more in an interval, import adapted, and something declared."""
    draws = tuple(draw + (kw if t == index else 0) for t, draw in enumerate(plan.pools["chat"].draw_kw))
    imports = tuple(value + (kw if t == index else 0) for t, value in enumerate(plan.sites["dc"].import_kw))
    sites = {"dc": SitePlan(**{**_fields(plan.sites["dc"]), "import_kw": imports, **declared})}
    return replace(spoil_pool(plan, "chat", draw_kw=draws), sites=sites)


def _fields(item):
    return {name: getattr(item, name) for name in item.__dataclass_fields__}


def test_an_event_that_could_be_kept_is_kept_even_if_the_plan_declares_the_miss(good):
    made, plan = good
    broken = over(made, plan, 20.0, 1, over_event_kw=(20.0,) * 4)
    assert any("over the event's cap" in violation.text for violation in check_plan(made, broken))
    unsaid = over(made, plan, 20.0, 1)
    assert any("not declared" in violation.text for violation in check_plan(made, unsaid))


def test_a_limit_that_could_be_kept_is_kept(good):
    made, _ = good
    tight = replace(made, sites=(replace(made.sites[0], limit_kw=(520.0,) * 4),))
    plan = solve_problem(tight)
    assert check_plan(tight, plan) == ()
    broken = over(tight, plan, 30.0, 0, over_limit_kw=(30.0,) * 4)
    assert any("over the limit" in violation.text for violation in check_plan(tight, broken))


def test_what_is_out_of_reach_is_accepted_when_it_is_declared():
    made = problem(hourly(1), [site(1, limit=200.0)], [inputs(pool(floor=0.8), 1)])
    plan = solve_problem(made)
    assert plan.sites["dc"].over_limit_kw[0] == pytest.approx(100)
    assert check_plan(made, plan) == ()
    silent = replace(plan, sites={"dc": replace(plan.sites["dc"], over_limit_kw=(0.0,))})
    assert any("not declared" in violation.text for violation in check_plan(made, silent))


def test_an_emergency_breaks_floors_for_its_own_cap_and_for_no_other():
    """Users' floor takes 300 kW: the firm event's 250 give way to it, the emergency's 250 don't."""
    pools = [inputs(pool(floor=0.8), 1)]
    for firm, emergency, import_kw in ((250.0, 350.0, 300.0), (350.0, 250.0, 250.0)):
        events = [event("firm", (0, 1), firm, 400.0), event("alarm", (0, 1), emergency, 400.0, emergency=True)]
        made = problem(hourly(1), [site(1)], pools, events=events)
        plan = solve_problem(made)
        assert check_plan(made, plan) == ()
        assert plan.sites["dc"].import_kw == pytest.approx((import_kw,), abs=1e-3)
