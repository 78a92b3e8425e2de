"""What a kW and a token are worth: duals against the plan's own money when something is asked for or taken away."""

from dataclasses import replace

import pytest

from optimizer.domain import BatchJob, DemandCharge, Prices, Work
from optimizer.explain import explain_job
from optimizer.facts import WAITING_PER_GPU_H_H
from optimizer.fallback import greedy_plan
from optimizer.probe import Budget
from optimizer.reasons import Reason
from optimizer.session import Session
from optimizer.solve import solve_problem
from tests.support.problems import event, hourly, inputs, job, pool, problem, site, typical_problem

TOKENS = 2e6
CHAT = pool(count=1000, value=1.0, floor=0.5, tokens_per_gpu_h=TOKENS)
BATCH = pool("batch", Work.BATCH, 1000, tokens_per_gpu_h=TOKENS)
PEAK = DemandCharge("m", 9.0, 0.0, (True,) * 4)

SCARCE = {
    "nothing is scarce": {},
    "a limit binds": {"limit": 380.0},
    "a demand charge flattens": {"price": [10.0, 60.0, 80.0, 20.0], "demand_charges": (PEAK,)},
    "the ramp binds": {"ramp_up_kw_per_min": 0.5, "ramp_down_kw_per_min": 0.5, "import_now_kw": 450.0},
}


def made(load=0.7, jobs=(), events=(), **more):
    more = {"price": [40.0, 30.0, 60.0, 50.0], "pue": 1.2, **more}
    jobs = jobs or [job("a", (0, 4), 700.0, 400), job("b", (1, 3), 310.0, 300)]
    pools = [inputs(CHAT, 4, load), inputs(BATCH, 4)]
    return problem(hourly(4), [site(4, **more)], pools, jobs, events, Prices(change_per_kw=0.0))


def cost(of):
    return -solve_problem(of).objective


def with_load(of, t, kw):
    """The problem with IT load that nothing can shed."""
    other = tuple(load + (kw if i == t else 0.0) for i, load in enumerate(of.sites[0].other_it_kw))
    return replace(of, sites=(replace(of.sites[0], other_it_kw=other),))


@pytest.mark.parametrize("name", [*SCARCE, "a firm event binds"])
def test_the_marginal_value_is_what_one_more_kw_costs_and_one_less_saves(name):
    called = [event("e", (1, 3), 350.0, 700.0)] if name.startswith("a firm") else []
    of = made(events=called, **SCARCE.get(name, {}))
    plan = solve_problem(of)
    step, above = 0.01, 0
    for t, value in enumerate(plan.sites["dc"].marginal_per_mwh):
        per_kw = value / 1000.0 * 1.2  # money per kW of IT for an hour, at the meter
        more = (cost(with_load(of, t, step)) + plan.objective) / step
        less = (-plan.objective - cost(with_load(of, t, -step))) / step if of.sites[0].other_it_kw[t] else per_kw
        assert less - 1e-6 <= per_kw <= more + 1e-6
        assert per_kw == pytest.approx(more, rel=1e-4), t
        above += value > of.sites[0].price_per_mwh[t] + 1.0
    assert (above > 0) == (name != "nothing is scarce")


def asked(of, t, work):
    """The problem with work in the batch pool that must be done in interval t."""
    edges = of.grid.edges
    more = BatchJob("x", ("batch",), edges[t], edges[t + 1], work, 1000, undone_penalty=1e4, late_penalty=1e4)
    return replace(of, jobs=(*of.jobs, more))


@pytest.mark.parametrize("name", SCARCE)
def test_the_quoted_price_of_batch_tokens_is_what_more_of_them_cost_in_that_interval(name):
    of = made(**SCARCE[name])
    for t in range(4):
        plan = solve_problem(asked(of, t, 0.1))
        quote = plan.quotes["batch"]
        own_wait = WAITING_PER_GPU_H_H * (t + 0.5)
        costs = (cost(asked(of, t, 0.2)) + plan.objective) / 0.1 - own_wait
        assert quote.more_per_gpu_h[t] == pytest.approx(costs, rel=1e-4), t
        assert quote.per_mtok[t] == pytest.approx(costs / TOKENS * 1e6, rel=1e-4)


@pytest.mark.parametrize("name", SCARCE)
def test_the_quoted_price_of_served_tokens_is_what_more_load_costs_without_what_it_earns(name):
    of = made(**SCARCE[name])
    plan = solve_problem(of)
    for t in range(4):
        load = tuple(share + (1e-4 if i == t else 0.0) for i, share in enumerate(of.pools[0].load))
        more = solve_problem(replace(of, pools=(replace(of.pools[0], load=load), of.pools[1])))
        speed = plan.pools["chat"].work_gpus[t] / 700.0
        costs = (plan.objective - more.objective) / 0.1 / speed + CHAT.value_per_gpu_h
        assert plan.quotes["chat"].more_per_gpu_h[t] == pytest.approx(costs, rel=1e-4), t


def test_a_free_gpu_is_quoted_at_the_knee_and_a_full_pool_at_what_must_give_way():
    idle = solve_problem(made(jobs=[job("a", (0, 1), 10.0, 100)])).quotes["batch"]
    knee_kwh = 0.1 / 0.5 * 1.2  # 100 W above idle do half of the work (SIMPLE), through the PUE
    assert idle.more_per_gpu_h == pytest.approx([price / 1000 * knee_kwh for price in (40, 30, 60, 50)])
    assert idle.reasons == (None,) * 4
    small = replace(BATCH, count=10)
    jobs = [job("a", (0, 1), 10.0, 10, value_per_gpu_h=3.0, undone_penalty=0.0)]
    full = solve_problem(problem(hourly(1), [site(1, price=50.0)], [inputs(small, 1)], jobs)).quotes["batch"]
    assert full.more_per_gpu_h == pytest.approx(
        [3.0 - WAITING_PER_GPU_H_H / 2], rel=1e-9
    )  # the other job's value, less its wait
    assert full.reasons == (Reason.POOL_FULL,)


def test_where_no_more_work_is_possible_there_is_a_reason_and_no_price():
    runs = [job("r", (0, 4), 4000.0, 1000, preemptible=False)]
    held = solve_problem(made(jobs=runs)).quotes["batch"]
    assert held.more_per_gpu_h == (None,) * 4
    assert held.reasons == (Reason.POOL_FULL,) * 4
    tight = solve_problem(made(limit=120.0))
    assert {*tight.quotes["chat"].reasons, *tight.quotes["batch"].reasons} == {Reason.LIMIT_UNREACHABLE}
    assert tight.quotes["batch"].per_mtok == (None,) * 4
    no_tokens = replace(CHAT, tokens_per_gpu_h=0.0)
    plan = solve_problem(problem(hourly(1), [site(1)], [inputs(no_tokens, 1, 0.5)]))
    assert plan.quotes["chat"].per_mtok == (None,)
    assert plan.quotes["chat"].more_per_gpu_h[0] > 0


def test_rungs_without_duals_say_nothing_instead_of_a_guess():
    plan = greedy_plan(made())
    assert plan.quotes == {}
    assert plan.sites["dc"].marginal_per_mwh == ()
    assert all(orders.start is None for orders in plan.jobs.values())


# ---------------------------------------------------------------- why a job waits
def waiting(jobs=None, **more):
    jobs = jobs or [job("j", (0, 3), 50.0, 100)]
    of = problem(hourly(4), [site(4, **more)], [inputs(pool("batch", Work.BATCH, 100), 4)], jobs)
    return of, Session(budget=Budget()).plan(of)


def starts_at(of, price, name="j"):
    prices = (price, *of.sites[0].price_per_mwh[1:])
    plan = solve_problem(replace(of, sites=(replace(of.sites[0], price_per_mwh=prices),)))
    return plan.jobs[name].work_gpus[0] > 1e-6


@pytest.mark.parametrize(
    ("price", "pue"), [([90, 10, 50, 50], 1.0), ([90, 42, 43, 50], 1.3), ([90, -20, -10, 50], 1.1)]
)
def test_the_price_that_would_start_a_job_does_and_a_little_more_does_not(price, pue):
    of, plan = waiting(price=price, pue=pue)
    start = plan.jobs["j"].start
    cheapest, kwh = min(price[1:3]), pue * (0.2 if min(price[1:3]) > 0 else 0.3)  # a GPU-hour at the knee, or full draw
    assert start.never_above_per_mwh == pytest.approx(
        cheapest + 1000 * WAITING_PER_GPU_H_H / kwh
    )  # saves an hour's wait
    assert start.at_per_mwh == pytest.approx(start.never_above_per_mwh, abs=0.02)
    assert starts_at(of, start.at_per_mwh)
    assert not starts_at(of, start.never_above_per_mwh + 0.02)
    said = explain_job(of, plan, "j")
    assert f"it would start below {start.never_above_per_mwh:.4g} USD/MWh, now 90" in said


def test_a_job_that_fills_its_hours_exactly_moves_out_of_its_dearest_one():
    of, plan = waiting([job("j", (0, 3), 100.0, 100)], price=[90, 10, 30, 90])
    assert plan.jobs["j"].work_gpus[1:3] == pytest.approx((100.0, 0.0))  # every step of the curve filled to the brim
    start = plan.jobs["j"].start
    assert start.never_above_per_mwh == pytest.approx(10.0 / 0.002 * 0.005 + 1000 * WAITING_PER_GPU_H_H / 0.2)
    # the dearest step there, the knee here, an hour's wait saved
    assert not starts_at(of, start.never_above_per_mwh + 0.05)
    assert starts_at(of, start.at_per_mwh)


def test_a_job_behind_others_starts_at_a_lower_price_than_its_own_bound():
    crowd = [job("first", (0, 2), 90.0, 100, late_penalty=5.0), job("j", (0, 4), 150.0, 100)]
    of, plan = waiting(crowd, price=[90, 80, 20, 21])
    start = plan.jobs["j"].start
    assert start.at_per_mwh < start.never_above_per_mwh - 10.0
    assert starts_at(of, start.at_per_mwh)
    assert not starts_at(of, start.at_per_mwh + 0.5)
    assert f"it would start at {start.at_per_mwh:.4g} USD/MWh and not above" in explain_job(of, plan, "j")


@pytest.mark.parametrize(
    ("more", "reason"),
    [({"limit": [10.0, 60, 60, 60]}, Reason.SITE_LIMIT), ({"ramp_up_kw_per_min": 0.01, "import_now_kw": 10.0}, None)],
)
def test_where_something_else_than_the_price_decides_no_price_is_named(more, reason):
    of, plan = waiting([job("j", (0, 4), 50.0, 100)], price=[20, 90, 90, 90], **more)
    orders = plan.jobs["j"]
    assert reason is None or orders.reasons[0] is reason
    assert orders.work_gpus[0] > 1e-6 or orders.start.never_above_per_mwh is None
    assert "it would" not in explain_job(of, plan, "j")


def test_no_waiting_job_of_a_real_site_starts_above_its_bound():
    of = typical_problem(40, horizon_h=24, seed=4)
    released = tuple(replace(work, release=of.grid.start) for work in of.jobs)
    of = replace(of, jobs=released)
    plan = Session(budget=Budget()).plan(of)
    bounds = {n: p.start.never_above_per_mwh for n, p in plan.jobs.items() if p.start and p.start.never_above_per_mwh}
    assert bounds
    for name, bound in list(bounds.items())[:3]:
        if bound < of.sites[0].price_per_mwh[0] - 1.0:
            assert not starts_at(of, bound + 0.5, name)
