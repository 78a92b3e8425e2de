"""Batteries and generators in the plan, solved by hand, and what no plan may do with them."""

from dataclasses import replace

import numpy as np
import pytest

from optimizer.assets import Battery, Generator
from optimizer.check import check_plan
from optimizer.domain import Work
from optimizer.evaluate import evaluate
from optimizer.fallback import greedy_plan, safe_plan
from optimizer.highs import solve_arrays
from optimizer.model.arrays import write_arrays
from optimizer.model.build import declare
from optimizer.oneway import MOST_SOLVES, both_kw, one_way
from optimizer.solve import solve_problem
from optimizer.validate import ProblemError, validate
from tests.support.problems import event, hourly, inputs, job, pool, problem, site

CHAT = pool(floor=1.0, value=0.0)
"""1,000 GPUs that must run at full power: 400 kW."""
STORE = Battery("b", 0.0, 0.0, 200.0, 100.0, 90.0, charge_efficiency=0.9, discharge_efficiency=0.9)


def made(count, where, events=()):
    return problem(hourly(count), [where], [inputs(CHAT, count)], events=events)


def planned(of):
    plan = solve_problem(of)
    assert check_plan(of, plan) == ()
    assert evaluate(of, plan).total == pytest.approx(plan.objective)
    return plan


def test_a_battery_buys_cheap_and_sells_dear_less_its_losses():
    """100 kW for two hours put 180 kWh in it; 90 kW for 1.8 hours take them out again: the dear hour gets 90 kW, the
    next 72. One kWh at 40 must bring 0.81 kWh back at more than 40 / 0.81 = 49.4 a MWh."""
    where = site(4, price=[40, 40, 100, 90], batteries=(STORE,))
    plan = planned(made(4, where))
    assert plan.sites["dc"].import_kw == pytest.approx((500, 500, 310, 328))
    assert plan.batteries["b"].stored_kwh == pytest.approx((90, 180, 80, 0), abs=1e-6)
    flat = planned(made(2, site(2, price=[40, 49], batteries=(STORE,))))
    assert flat.sites["dc"].import_kw == pytest.approx((400, 400))


def test_wear_and_the_value_of_what_is_left_are_weighed():
    worn = replace(STORE, wear_per_kwh=0.06)  # 0.81 kWh at 100 bring 81 less 48.6 of wear: less than 40
    assert planned(made(2, site(2, price=[40, 100], batteries=(worn,)))).sites["dc"].import_kw[0] == pytest.approx(400)
    kept = replace(STORE, end_value_per_kwh=0.05)  # 0.9 kWh at 0.05 are worth 45 a MWh
    assert planned(made(1, site(1, price=40, batteries=(kept,)))).batteries["b"].stored_kwh == pytest.approx((90,))
    full = replace(STORE, stored_now_kwh=100.0, end_value_per_kwh=0.05)  # 0.9 kWh at 60 bring 54 for 50
    bill = evaluate(of := made(1, site(1, price=60, batteries=(full,))), planned(of))
    assert bill.storage == pytest.approx(0.05 * 100, abs=1e-3)


def test_energy_may_leave_the_site_only_where_it_is_allowed():
    small = pool(floor=1.0, value=0.0, count=100)
    full = replace(STORE, stored_now_kwh=100.0)
    for may, bought in ((False, 0.0), (True, -50.0)):
        where = site(1, price=100, batteries=(replace(full, may_export=may),))
        plan = planned(problem(hourly(1), [where], [inputs(small, 1)]))
        assert plan.sites["dc"].import_kw == pytest.approx((bought,), abs=1e-6)


def test_the_battery_keeps_limit_and_event_that_load_alone_would_break():
    full = replace(STORE, stored_now_kwh=100.0)
    called = event("e", (1, 2), 350.0, 400.0)
    plan = planned(made(3, site(3, price=0.0, batteries=(full,)), [called]))
    assert plan.sites["dc"].import_kw[1] <= 350 + 1e-6
    assert plan.sites["dc"].over_event_kw == (0.0, 0.0, 0.0)
    rules = greedy_plan(of := made(2, site(2, price=0.0, limit=360, batteries=(full,))))
    assert check_plan(of, rules) == ()
    assert rules.sites["dc"].import_kw == pytest.approx((360, 360))
    assert rules.batteries["b"].stored_kwh == pytest.approx((100 - 40 / 0.9, 100 - 80 / 0.9))


def test_a_battery_charges_above_an_event_for_the_hard_limit_after_it():
    """Users' floor takes 400 kW, and the limit after the event leaves 350: 50 kW out of the battery took 50 / 0.81. So
    also beside a job that must run for two hours, for which nothing above the event's cap is left."""
    called, idle = event("e", (0, 1), 401.0, 450.0), inputs(pool("batch", Work.BATCH, 10), 2)
    of = made(2, site(2, limit=[1e9, 351.0], batteries=(STORE,)), [called])
    for here in (of, replace(of, pools=(*of.pools, idle), jobs=(job("j", (0, 2), 5.0, 10, min_run_h=2.0),))):
        plan = solve_problem(here)
        assert check_plan(here, plan) == ()
        less = 1.0 if here is of else 0.0
        assert plan.sites["dc"].over_event_kw == pytest.approx(((50 - less) / 0.81 - less, 0.0), abs=2e-3)
        assert plan.sites["dc"].over_limit_kw == pytest.approx((0.0, 0.0), abs=2e-3)


def test_a_negative_price_never_charges_and_discharges_at_once(monkeypatch):
    """At -100 the linear model would burn: charge 100 kW and discharge 81 forever. One way only, the best is to fill
    it: 222 kWh at 90 % in three hours of 100, 100 and 22 kW."""
    of = made(4, site(4, price=-100.0, batteries=(STORE,)))
    arrays = write_arrays(declare(of))
    loose = solve_arrays(arrays, 10.0)
    assert both_kw(arrays, loose).max() > 1.0
    plan = planned(of)
    orders = plan.batteries["b"]
    assert all(min(pair) <= 1e-6 for pair in zip(orders.charge_kw, orders.discharge_kw, strict=True))
    # Enumerated: every choice of a direction for each of the four hours.
    charge, discharge = arrays.families["charge"], arrays.families["discharge"]
    costs = []
    for choice in range(16):
        high = arrays.high.copy()
        for t in range(4):
            high[(charge if choice >> t & 1 else discharge).start + t] = 0.0
        costs.append(solve_arrays(replace(arrays, high=high), 10.0).objective)
    assert plan.objective == pytest.approx(-min(costs))
    for most in (MOST_SOLVES, 0):  # by branching, and by the search
        monkeypatch.setattr("optimizer.oneway.MOST_SOLVES", most)
        exact = one_way(arrays, loose, lambda tried: solve_arrays(tried, 10.0), 5.0)
        assert (exact.answer.optimal, exact.answer.objective) == (True, pytest.approx(min(costs)))
        assert exact.gap < 1e-5
        assert both_kw(arrays, exact.answer).max() <= 1e-6
    hasty = one_way(arrays, loose, lambda tried: solve_arrays(tried, 10.0), 0.0)
    assert (hasty.answer.optimal, both_kw(arrays, hasty.answer).max() <= 1e-6) == (False, True)
    assert hasty.answer.objective >= min(costs) - 1e-6 >= hasty.bound - 2e-6


def test_solar_is_taken_first_and_spilled_only_when_nobody_can_have_it():
    sun = Generator("sun", (0.0,) * 3, (0.0, 300.0, 500.0), must_take=True)
    of = made(3, site(3, price=[50, 50, -20], generators=(sun,)))
    plan = planned(of)
    assert plan.sites["dc"].import_kw == pytest.approx((400, 100, 0), abs=1e-6)
    assert plan.generators["sun"].spilled_kw == pytest.approx((0, 0, 100), abs=1e-6)
    for rules in (greedy_plan(of), safe_plan(of)):
        assert check_plan(of, rules) == ()
        assert rules.sites["dc"].import_kw == pytest.approx((400, 100, 0), abs=1e-6)
    away = planned(made(3, site(3, price=50, generators=(replace(sun, may_export=True),))))
    assert away.sites["dc"].import_kw == pytest.approx((400, 100, -100))
    stored = planned(
        made(3, site(3, price=[50, 50, 10], generators=(sun,), batteries=(replace(STORE, end_value_per_kwh=0.02),)))
    )
    assert stored.generators["sun"].spilled_kw[2] == pytest.approx(0.0, abs=1e-6)  # the battery takes the rest


def test_an_engine_runs_when_the_grid_is_dearer_or_may_not_give_enough():
    gas = Generator("gas", (50.0,) * 3, (150.0,) * 3, cost_per_mwh=80.0)
    of = made(3, site(3, price=[60, 100, 60], limit=[1000, 1000, 300], generators=(gas,)))
    plan = planned(of)
    assert plan.generators["gas"].output_kw == pytest.approx((50, 150, 100))
    assert plan.sites["dc"].import_kw == pytest.approx((350, 250, 300))
    assert evaluate(of, plan).generation == pytest.approx(0.08 * 300)
    rules = greedy_plan(of)
    assert check_plan(of, rules) == ()
    assert rules.sites["dc"].over_limit_kw == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda b: replace(b, charge_kw=(60.0, 0.0)), "said"),
        (lambda b: replace(b, charge_kw=(50.0, 0.0), discharge_kw=(50.0, 0.0)), "at once"),
        (lambda b: replace(b, charge_kw=(150.0, 0.0)), "more than it can"),
        (lambda b: replace(b, stored_kwh=(1.0,)), "missing values"),
    ],
)  # fmt: skip
def test_the_checker_refuses_what_no_battery_can(change, said):
    of = made(2, site(2, batteries=(STORE,)))
    plan = solve_problem(of)
    wrong = replace(plan, batteries={"b": change(plan.batteries["b"])})
    assert any(said in fault.text for fault in check_plan(of, wrong))
    assert any("missing" in fault.text for fault in check_plan(of, replace(plan, batteries={})))


def test_the_checker_refuses_generation_that_is_not_there_and_a_problem_with_bad_numbers_is_none():
    sun = Generator("sun", (0.0,), (100.0,), must_take=True)
    of = made(1, site(1, generators=(sun,)))
    plan = solve_problem(of)
    more = replace(plan.generators["sun"], output_kw=(150.0,))
    assert any("gives 150" in fault.text for fault in check_plan(of, replace(plan, generators={"sun": more})))
    for bad in (replace(STORE, max_kwh=-1.0), replace(STORE, charge_efficiency=0.0), replace(STORE, min_kwh=300.0)):
        with pytest.raises(ProblemError, match=r"sites\[dc\]\.batteries\[b\]"):
            validate(made(1, site(1, batteries=(bad,))))
    with pytest.raises(ProblemError, match="generators"):
        validate(made(1, site(1, generators=(replace(sun, high_kw=(np.nan,)),))))


@pytest.mark.parametrize(
    ("start_cost", "now_kw", "runs"), [(0, 0, True), (32, 0, True), (34, 0, False), (34, 100, True)]
)
def test_an_engine_starts_for_a_dear_hour_only_where_that_saves_more_than_a_start(start_cost, now_kw, runs):
    """100 kW for an hour at 413 instead of 80 save 33.30. One that runs already goes on for nothing."""
    gas = Generator("gas", (0.0,) * 2, (100.0,) * 2, cost_per_mwh=80.0, start_cost=start_cost, output_now_kw=now_kw)
    here = problem(
        hourly(2), [site(2, price=[413.0, 50.0], other=399.9, generators=(gas,))], [inputs(pool(count=1), 2, load=0.0)]
    )
    plan = solve_problem(here)
    assert plan.generators["gas"].output_kw == pytest.approx((100.0 if runs else 0.0, 0.0))
    assert check_plan(here, plan) == ()
    started = start_cost if runs and not now_kw else 0.0
    assert evaluate(here, plan).generation == pytest.approx(8.0 * runs + started)


def test_a_start_is_never_saved_where_a_firm_event_needs_the_engine():
    gas = Generator("gas", (0.0,), (100.0,), cost_per_mwh=80.0, start_cost=5000.0)
    called = event("e", (0, 1), 399.0, 400.0)
    idle = inputs(pool(count=1), 1, load=0.0)
    here = problem(hourly(1), [site(1, other=399.9, generators=(gas,))], [idle], events=[called])
    plan = solve_problem(here)
    assert plan.generators["gas"].output_kw == pytest.approx((1.0,))
    assert check_plan(here, plan) == ()
