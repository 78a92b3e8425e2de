"""Sites in the model, solved by hand: PUE, limits, events with ramps and rebound, demand charge, ramps."""

from dataclasses import replace

import numpy as np
import pytest

from optimizer.check import check_plan
from optimizer.domain import Battery, DemandCharge, Prices, Span, Work
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


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_floor_gives_to_a_hard_limit_and_no_further_to_however_many_events_at_once(count):
    called = [event(f"e{number}", (0, 2), 250.0, penalty_per_kwh=5000.0) for number in range(count)]
    training = [inputs(pool("train", Work.TRAINING, floor=1.0), 2)]
    made = problem(hourly(2), [site(2, limit=[390.0, 1e9])], training, events=called)
    plan = solve_problem(made)
    assert plan.sites["dc"].import_kw == pytest.approx((390, 400))
    assert check_plan(made, plan) == ()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_battery_keeps_a_hard_limit_before_however_many_emergencies_at_once(count):
    """Its 20 kWh are enough for the limit of the first hour, and for a part of what is asked in the second one."""
    called = [event(f"e{number}", (1, 2), 20.0, emergency=True) for number in range(count)]
    store = Battery("b", 20.0, 0.0, 20.0, 0.0, 20.0, 1.0, 1.0, 0.0, 0.0, False)
    made = problem(
        hourly(2), [site(2, limit=[380.0, 1e9], batteries=(store,))], [inputs(pool(floor=1.0), 2)], [], called
    )
    plan = solve_problem(made)
    assert plan.sites["dc"].import_kw == pytest.approx((380, 200))
    assert plan.batteries["b"].discharge_kw == pytest.approx((20, 0))


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


def test_while_a_program_s_event_lasts_its_ramp_holds_if_it_is_the_slower_one():
    """An event of the first four hours that asks for nothing but its pace: 60 kW up and 120 kW down an hour, and 600
    both ways after it. Half an hour lies between now and the middle of the first; 200 kW is the floor."""
    price = [50.0, 9000.0, 50.0, 9000.0, 50.0]
    where = site(5, price=price, ramp_up_kw_per_min=10.0, ramp_down_kw_per_min=10.0, import_now_kw=400.0)
    paced = event("e", (0, 4), 1000.0, ramp_up_kw_per_min=1.0, ramp_down_kw_per_min=2.0)
    prices = Prices(change_per_kw=0.0, ramp_per_kw=1000.0)
    steps = planned(5, where, [paced], prices=prices).sites["dc"].import_kw
    assert steps == pytest.approx((340, 220, 280, 200, 400))
    alone = planned(5, site(5, price=price, import_now_kw=400.0), [paced], prices=prices)
    assert alone.sites["dc"].import_kw == pytest.approx((340, 220, 280, 200, 400)), "without a ramp of the site's own"


def test_an_event_that_begins_inside_an_interval_slows_the_rest_of_it():
    """It asks for nothing but its pace, from a quarter before the third hour on: an hour's rise of 60 kW becomes one of
    45 and 3, and then one of 12."""
    where = site(3, price=[9000.0, 50.0, 50.0], ramp_up_kw_per_min=1.0, ramp_down_kw_per_min=10.0, import_now_kw=300.0)
    paced = event("e", (1.75, 3), 1000.0, ramp_up_kw_per_min=0.2, ramp_down_kw_per_min=0.2)
    prices = Prices(change_per_kw=0.0, ramp_per_kw=1000.0)
    assert planned(3, where, prices=prices).sites["dc"].import_kw == pytest.approx((200, 260, 320))
    assert planned(3, where, [paced], prices=prices).sites["dc"].import_kw == pytest.approx((200, 248, 260))
    two = [paced, replace(paced, id="f", ramp_up_kw_per_min=float("inf")), event("g", (1.5, 1.6), 1000.0)]
    assert planned(3, where, two, prices=prices).sites["dc"].import_kw == pytest.approx((200, 248, 260))


def test_an_event_sets_its_own_pace_downwards():
    slow = site(2, ramp_down_kw_per_min=0.1, ramp_up_kw_per_min=0.1, import_now_kw=400.0)
    plan = planned(2, slow, [event("e", (1, 2), 250.0)], prices=Prices(ramp_per_kw=100.0))
    assert plan.sites["dc"].import_kw == pytest.approx((400, 250))


def test_targets_may_change_inside_an_event():
    spans = (Span(START, START + HOUR, 350.0), Span(START + HOUR, START + 2 * HOUR, 250.0))
    plan = planned(2, site(2), [replace(event("e", (0, 2)), targets=spans)])
    assert plan.sites["dc"].import_kw == pytest.approx((350, 250))


def test_sites_differ_in_price_limit_pue_and_weather_and_a_job_goes_where_it_is_cheapest_at_the_meter():
    """Of two halls the one with the cheaper MWh has the worse PUE: 60 x 1.2 = 72 against 50 x 1.6 = 80, until in the
    second hour it is cold there (1.1: 55). There its limit of 31 kW leaves 28.2 kW of IT power, 18.2 above idle."""
    places = ("warm", "cold")
    pools = [inputs(pool(f"batch-{name}", Work.BATCH, 100, site=name), 2) for name in places]
    where = [site(2, "warm", price=60.0, pue=1.2), site(2, "cold", price=50.0, pue=[1.6, 1.1], limit=[500.0, 31.0])]
    names = tuple(f"batch-{name}" for name in places)
    jobs = [job("first", (0, 1), 30.0, 100, names), job("second", (1, 2), 30.0, 100, names)]
    of = problem(hourly(2), where, pools, jobs)
    plan = solve_problem(of)
    assert (plan.jobs["first"].pool, plan.jobs["second"].pool) == ("batch-warm", "batch-cold")
    # 30 GPUs of work at 5 per kW take 6 kW above the 10 kW that 100 idle cards draw.
    assert plan.sites["warm"].import_kw == pytest.approx((1.2 * 16, 1.2 * 10))
    assert plan.sites["cold"].import_kw == pytest.approx((1.6 * 10, 1.1 * 16))
    tight = replace(of, sites=(where[0], replace(where[1], limit_kw=(500.0, 14.0))))
    assert solve_problem(tight).jobs["second"].pool == "batch-warm"


def test_carbon_moves_work_by_its_price_alone():
    grams = replace(site(2, price=50.0), carbon_g_per_kwh=(800.0, 100.0))
    work, batch = [job("j", (0, 2), 30.0, 100)], [inputs(pool("batch", Work.BATCH, 100), 2)]
    for tonne, hour in ((0.0, 0), (80.0, 1)):
        prices = Prices(change_per_kw=0.0, carbon_per_tonne=tonne)
        dear = replace(grams, price_per_mwh=(50.0, 60.0))
        plan = solve_problem(problem(hourly(2), [dear], batch, work, prices=prices))
        assert plan.jobs["j"].work_gpus[hour] == pytest.approx(30.0)


def test_a_limit_and_an_event_may_change_in_every_interval():
    spans = (Span(START, START + HOUR, 380.0), Span(START + HOUR, START + 2 * HOUR, 340.0))
    called = replace(event("e", (0, 2), 380.0), targets=spans)
    plan = planned(3, site(3, limit=[390.0, 360.0, 320.0]), [called])
    assert plan.sites["dc"].import_kw == pytest.approx((380.0, 340.0, 320.0))


def test_ramps_hold_downwards_as_well_as_upwards():
    """60 kW a hour: from 400 kW the price of the second hour would cap at 200 at once; it gets there in steps."""
    where = site(4, price=[50, 6000, 6000, 50], ramp_down_kw_per_min=1.0, ramp_up_kw_per_min=1.0)
    plan = planned(4, where, prices=Prices(change_per_kw=0.0, ramp_per_kw=1000.0))
    steps = np.diff(plan.sites["dc"].import_kw)
    assert np.abs(steps).max() <= 60.0 + 1e-6
    assert steps.min() == pytest.approx(-60.0)
    assert steps.max() == pytest.approx(60.0)
