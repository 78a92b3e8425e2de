"""Sites in the model, solved by hand: PUE, limits, events with ramps and rebound, demand charge, ramps."""

from dataclasses import replace

import pytest

from optimizer.check import check_plan
from optimizer.domain import DemandCharge, Prices, Span, Work
from optimizer.reasons import Reason
from optimizer.solve import solve_problem
from tests.support.problems import HOUR, START, event, hourly, inputs, job, pool, problem, site

CHAT = pool(floor=0.5)


def planned(count, where, events=(), pools=None, jobs=(), prices=None):
    return solve_problem(problem(hourly(count), [where], pools or [inputs(CHAT, count)], jobs, events, prices))


def test_import_is_all_it_power_through_the_pue():
    plan = planned(2, site(2, pue=[1.2, 1.5], other=50.0))
    assert plan.sites["dc"].import_kw == pytest.approx((1.2 * 450, 1.5 * 450))


def test_limit_binds_and_its_dual_is_what_a_kwh_is_worth():
    plan = planned(1, site(1, price=50.0, limit=350.0))
    assert plan.sites["dc"].import_kw == pytest.approx((350,))
    assert plan.pools["chat"].reasons == (Reason.SITE_LIMIT,)
    assert plan.sites["dc"].marginal_per_mwh == pytest.approx((2000,))


def test_a_limit_counts_at_the_meter_not_at_the_cards():
    plan = planned(1, site(1, price=50.0, limit=420.0, pue=1.2))
    assert plan.sites["dc"].import_kw == pytest.approx((420,))
    assert plan.pools["chat"].cap_w == (350,)
    assert plan.sites["dc"].marginal_per_mwh == pytest.approx((2000 / 1.2,))


def test_event_binds_with_its_ramp_and_its_rebound():
    called = event("e", (1, 2), 300.0, 400.0, ramp_in_s=1800.0, ramp_out_s=3600.0, rebound_kw=380.0, rebound_s=3600.0)
    plan = planned(6, site(6), [called])
    assert plan.sites["dc"].import_kw == pytest.approx((400, 325, 350, 380, 400, 400))
    reasons = plan.pools["chat"].reasons
    assert reasons[:4] == (Reason.FULL_POWER, Reason.DR_EVENT, Reason.REBOUND_LIMIT, Reason.REBOUND_LIMIT)


def test_an_emergency_goes_below_a_floor_and_its_rebound_limit_does_not():
    """In the second hour training's floor gives for the hard limit of 290 kW, and no further for the rebound's 250."""
    called = event("e", (0, 1), 220.0, 400.0, rebound_kw=250.0, rebound_s=3600.0, emergency=True)
    training = [inputs(pool("train", Work.TRAINING, floor=0.8), 2)]
    made = problem(hourly(2), [site(2, limit=[400.0, 290.0])], training, events=[called])
    plan = solve_problem(made)
    assert plan.sites["dc"].import_kw == pytest.approx((220, 290))
    assert check_plan(made, plan) == ()


def test_the_stricter_of_two_events_counts():
    both = [event("a", (0, 2), 350.0), event("b", (1, 2), 300.0)]
    assert planned(2, site(2), both).sites["dc"].import_kw == pytest.approx((350, 300))


def test_a_firm_event_is_met_whatever_its_penalty_and_a_best_effort_one_when_it_pays():
    cheap = event("e", (0, 1), 300.0, penalty_per_kwh=0.1)
    assert planned(1, site(1), [cheap]).sites["dc"].import_kw == pytest.approx((300,))
    offer = replace(cheap, firm=False)
    assert planned(1, site(1), [offer]).sites["dc"].import_kw == pytest.approx((400,))
    assert planned(1, site(1), [offer]).sites["dc"].over_event_kw == pytest.approx((100,))
    paid = replace(offer, credit_per_kwh=3.0)
    assert planned(1, site(1), [paid]).sites["dc"].import_kw == pytest.approx((300,))


def test_an_event_before_deadlines_and_the_shortfall_said_at_once():
    batch = inputs(pool("batch", Work.BATCH, 1000), 2)
    work = job("j", (0, 2), 1600.0, 1000)
    called = event("e", (0, 1), 150.0)
    plan = planned(2, site(2), [called], [batch], [work])
    assert plan.sites["dc"].import_kw[0] == pytest.approx(150)
    assert Reason.DEADLINE_UNREACHABLE in {note.code for note in plan.notes}
    out_of_reach = event("e", (0, 1), 150.0)
    shortfall = planned(1, site(1), [out_of_reach])
    assert shortfall.sites["dc"].over_event_kw == pytest.approx((50,))
    assert "50.0 kW" in next(note.text for note in shortfall.notes if note.code is Reason.EVENT_UNREACHABLE)


def test_a_new_peak_is_paid_for_only_above_the_one_already_billed():
    batch = [inputs(pool("batch", Work.BATCH, 1000), 4)]
    work = [job("j", (0, 4), 1500.0, 1000)]
    charge = DemandCharge("month", 10.0, 0.0, (True,) * 4)
    flat = planned(4, site(4, price=[10, 90, 90, 10], demand_charges=(charge,)), (), batch, work)
    assert max(flat.sites["dc"].import_kw) - min(flat.sites["dc"].import_kw) < 1.0
    billed = replace(charge, peak_so_far_kw=400.0)
    free = planned(4, site(4, price=[10, 90, 90, 10], demand_charges=(billed,)), (), batch, work)
    first, second, third, fourth = free.sites["dc"].import_kw
    assert first + fourth > second + third + 100
    offpeak = replace(charge, active=(False, True, True, False))
    assert planned(4, site(4, demand_charges=(offpeak,)), (), batch, work).sites["dc"].import_kw[0] > 200


def test_a_site_rises_and_falls_no_faster_than_its_ramp_and_starts_from_now():
    price = [50.0, 9000.0, 50.0, 50.0]
    slow = site(4, price=price, ramp_up_kw_per_min=1.0, ramp_down_kw_per_min=2.0, import_now_kw=350.0)
    steps = planned(4, slow, prices=Prices(change_per_kw=0.0, ramp_per_kw=100.0)).sites["dc"].import_kw
    assert steps == pytest.approx((360, 240, 300, 360))  # 30 min up, then 120 kW down and 60 kW up an hour


def test_an_event_sets_its_own_pace_downwards():
    slow = site(2, ramp_down_kw_per_min=0.1, ramp_up_kw_per_min=0.1, import_now_kw=400.0)
    plan = planned(2, slow, [event("e", (1, 2), 250.0)], prices=Prices(ramp_per_kw=100.0))
    assert plan.sites["dc"].import_kw == pytest.approx((400, 250))


def test_targets_may_change_inside_an_event():
    spans = (Span(START, START + HOUR, 350.0), Span(START + HOUR, START + 2 * HOUR, 250.0))
    plan = planned(2, site(2), [replace(event("e", (0, 2)), targets=spans)])
    assert plan.sites["dc"].import_kw == pytest.approx((350, 250))
