"""Reserve, solved by hand: only what could be shed within the notice and for the whole time is sold."""

from dataclasses import replace

import pytest

from optimizer.assets import Battery, ReserveOffer
from optimizer.check import check_plan
from optimizer.domain import Work
from optimizer.evaluate import evaluate
from optimizer.fallback import greedy_plan
from optimizer.solve import solve_problem
from tests.support.problems import hourly, inputs, job, pool, problem, site

CHAT = pool(floor=0.5)
"""400 kW at full power, 200 kW at its floor of one half (200 W a GPU)."""


def offer(count, price=0.01, most=1000.0, sustain_s=0.0, notice_s=60.0):
    prices = tuple(price) if isinstance(price, (list, tuple)) else (price,) * count
    return ReserveOffer("r", prices, most, notice_s, sustain_s)


def planned(where, pools=None, jobs=()):
    count = len(where.price_per_mwh)
    of = problem(hourly(count), [where], pools or [inputs(CHAT, count)], jobs)
    plan = solve_problem(of)
    assert check_plan(of, plan) == ()
    assert evaluate(of, plan).total == pytest.approx(plan.objective)
    assert check_plan(of, greedy_plan(of)) == ()
    return of, plan


def test_what_is_drawn_above_the_floor_is_offered_through_the_pue_and_no_more():
    of, plan = planned(site(1, pue=1.5, reserves=(offer(1),)))
    assert plan.reserves["r"].offered_kw == pytest.approx((300.0,))
    assert evaluate(of, plan).reserve == pytest.approx(-0.01 * 300)
    more = {"r": replace(plan.reserves["r"], offered_kw=(301.0,))}
    assert any("could be shed" in fault.text for fault in check_plan(of, replace(plan, reserves=more)))
    assert any("missing" in fault.text for fault in check_plan(of, replace(plan, reserves={})))


def test_a_good_price_keeps_power_up_that_energy_alone_would_cap():
    """At 2.5 a kWh the last 100 kW (worth 2) don't pay; 0.6 for holding them ready makes them pay."""
    assert planned(site(1, price=2500.0, reserves=(offer(1, 0.4),)))[1].reserves["r"].offered_kw == pytest.approx(
        (100,)
    )
    assert planned(site(1, price=2500.0, reserves=(offer(1, 0.6),)))[1].reserves["r"].offered_kw == pytest.approx(
        (200,)
    )


def test_an_offer_must_last_into_the_next_interval():
    """6,000 a MWh leave nothing above the floor in the second hour; a call in the first that lasts reaches it."""
    short = planned(site(2, price=[50, 6000], reserves=(offer(2),)))[1]
    assert short.reserves["r"].offered_kw == pytest.approx((0.0, 0.0), abs=1e-6)  # the notice of a minute reaches over
    at_once = planned(site(2, price=[50, 6000], reserves=(offer(2, notice_s=0.0),)))[1]
    assert at_once.reserves["r"].offered_kw == pytest.approx((200.0, 0.0), abs=1e-6)


def test_the_ramp_bounds_what_the_notice_allows():
    where = site(1, reserves=(offer(1, notice_s=120.0),), ramp_down_kw_per_min=30.0)
    assert planned(where)[1].reserves["r"].offered_kw == pytest.approx((60.0,))


def test_a_battery_backs_what_its_energy_can_sustain_and_jobs_that_cannot_stop_back_nothing():
    """60 kWh at 0.9 over half an hour: 108 kW, but it gives no more than 90. 50 GPUs of soft work draw 10 kW."""
    busy = inputs(pool(floor=1.0, value=0.0), 1)
    for stored, kw in ((60.0, 90.0), (20.0, 36.0)):
        battery = Battery("b", stored, 0.0, 200.0, 100.0, 90.0, 0.9, 0.9, wear_per_kwh=9.0, end_value_per_kwh=0.0)
        where = site(1, reserves=(offer(1, sustain_s=1800.0),), batteries=(battery,))
        assert planned(where, [busy])[1].reserves["r"].offered_kw == pytest.approx((kw,), rel=1e-4)
    batch = inputs(pool("batch", Work.BATCH, 100), 2)
    soft, hard = job("j", (0, 1), 50.0, 100), job("j", (0, 1), 50.0, 100, preemptible=False)
    paying = site(2, reserves=(offer(2, [0.01, 0.0], notice_s=0.0),))
    assert planned(paying, [batch], [soft])[1].reserves["r"].offered_kw[0] == pytest.approx(10.0)
    assert planned(paying, [batch], [hard])[1].reserves["r"].offered_kw == pytest.approx((0.0, 0.0), abs=1e-6)
