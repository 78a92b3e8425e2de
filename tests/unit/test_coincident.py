"""Coincident peaks: the rule by hand, the plan by hand, and the way from a signal through the books to the problem."""

from datetime import UTC, date, datetime, timedelta
from math import exp
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from optimizer.assets import CoincidentCharge
from optimizer.coincident import PeakRule, in_top, likely_window, probabilities, shares
from optimizer.domain import Series, Span, Work
from optimizer.evaluate import evaluate
from optimizer.explain import explain_job, explain_pool
from optimizer.reasons import Reason
from optimizer.solve import solve_problem
from optimizer.timegrid import TimeGrid, uniform_grid
from scheduler.backtest.account import settle
from scheduler.backtest.outcome import Outcome
from scheduler.problem import build_problem, signal_window
from tests.support.loops import SITE, lab
from tests.support.problems import HOUR, START, hourly, inputs, job, pool, problem, site

CHICAGO = ZoneInfo("America/Chicago")
SUMMER = PeakRule(CHICAGO, frozenset({6, 7, 8, 9}))


def test_a_days_chance_is_the_count_of_orders_in_which_it_stays_on_top():
    assert in_top(1, 1, 1, 1) == pytest.approx(1 / 2)
    assert in_top(2, 2, 5, 1) == 0.0  # another day is already higher
    assert in_top(1, 2, 1, 1) == pytest.approx(2 / 3)
    assert in_top(2, 2, 1, 2) == pytest.approx(1 / 3)
    # The chances of all seen days add up to the peaks minus those that unseen days will take.
    total = sum(in_top(rank, 30, 92, 5) for rank in range(1, 31))
    assert total == pytest.approx(5 * 30 / 122)


def test_within_a_day_the_chance_falls_with_the_load_by_the_error_of_its_forecast():
    assert shares((100.0, 99.0), 0.01) == pytest.approx((1 / (1 + exp(-1)), exp(-1) / (1 + exp(-1))))
    assert sum(shares((70.0, 80.0, 79.9), 0.01)) == pytest.approx(1.0)


def load(day, values):
    start = datetime(day.year, day.month, day.day, tzinfo=CHICAGO).astimezone(UTC)
    return [Span(start + n * HOUR, start + (n + 1) * HOUR, value) for n, value in enumerate(values)]


def test_the_last_day_of_the_month_is_the_peak_for_sure_or_not_at_all():
    spans = load(date(2024, 8, 31), [60.0] * 16 + [80.0] + [60.0] * 7)
    grid = uniform_grid(spans[15].start, spans[18].start, HOUR)
    booked = {date(2024, 8, d): 79.0 for d in range(1, 31)}
    sure = probabilities(grid, Series("l", "MW", tuple(spans)), SUMMER, booked)
    assert sure == pytest.approx((0.0, 1.0, 0.0), abs=1e-6)
    assert sum(probabilities(grid, Series("l", "MW", tuple(spans)), SUMMER, booked | {date(2024, 8, 3): 81.0})) == 0
    assert likely_window(grid, sure) == (spans[16].start, spans[17].start, pytest.approx(1.0, abs=1e-6))
    # Five-minute steps share the hour; a month that does not count has no peak.
    fine = uniform_grid(spans[16].start, spans[17].start, timedelta(minutes=5))
    assert probabilities(fine, Series("l", "MW", tuple(spans)), SUMMER, booked) == pytest.approx((1 / 12,) * 12)
    winter = PeakRule(CHICAGO, frozenset({1, 2}))
    assert sum(probabilities(grid, Series("l", "MW", tuple(spans)), winter, booked)) == 0


def test_five_days_count_when_the_season_is_the_whole_summer():
    day, rule = date(2024, 9, 30), PeakRule(CHICAGO, SUMMER.months, by_month=False, top=5)
    spans = load(day, [60.0] * 16 + [80.0] + [60.0] * 7)
    grid = uniform_grid(spans[16].start, spans[17].start, HOUR)
    days = rule.season(day)[:-1]
    booked = {d: 90.0 if n < 4 else 70.0 for n, d in enumerate(days)}
    assert probabilities(grid, Series("l", "MW", tuple(spans)), rule, booked) == pytest.approx((1.0,), abs=1e-6)
    assert sum(probabilities(grid, Series("l", "MW", tuple(spans)), rule, booked | {days[-1]: 90.0})) == 0


def test_an_interval_pays_its_probability_and_the_plan_caps_until_the_next_watt_is_worth_it():
    """1,000 GPUs of SIMPLE: slopes 5, 3 and 2 GPUs per kW, at a value of 1 per GPU-hour. At 60 per kW and p = 0.04 a kW
    in that hour costs 2.4 and 0.05 of energy: the last segment (2 per kWh) doesn't pay, the one before does (3)."""
    charge = CoincidentCharge("4cp", 60.0, (0.0, 0.04))
    made = problem(hourly(2), [site(2, coincident=(charge,))], [inputs(pool(floor=0.0), 2)])
    plan = solve_problem(made)
    assert plan.sites["dc"].import_kw == pytest.approx((400.0, 300.0))
    assert plan.pools["chat"].reasons == (Reason.FULL_POWER, Reason.COINCIDENT_PEAK)
    assert "4cp lies here with p = 0.04 and costs 60 USD/kW" in explain_pool(made, plan, "chat", 1)
    bill = evaluate(made, plan)
    assert bill.coincident_peak == pytest.approx(60 * 0.04 * 300)
    assert bill.energy == pytest.approx(0.05 * 700)
    assert bill.total == pytest.approx(plan.objective)


def test_a_job_waits_for_the_hour_after_the_peak_and_says_so():
    charge = CoincidentCharge("4cp", 60.0, (0.4, 0.0))
    batch = inputs(pool("batch", Work.BATCH, 100), 2)
    made = problem(hourly(2), [site(2, coincident=(charge,))], [batch], [job("j", (0, 2), 60.0, 100)])
    plan = solve_problem(made)
    assert plan.jobs["j"].work_gpus == pytest.approx((0.0, 60.0), abs=1e-6)
    assert plan.jobs["j"].reasons[0] is Reason.COINCIDENT_PEAK
    assert "the grid's peak 4cp" in explain_job(made, plan, "j")


def test_a_backtest_settles_the_expected_charge():
    grid = TimeGrid((START, START + HOUR, START + 2 * HOUR))
    charge = CoincidentCharge("4cp", 10.0, (0.5, 0.0))
    truth = problem(grid, [site(2, price=0.0, coincident=(charge,))], [inputs(pool(value=0.0), 2)])
    done = Outcome(grid, {"dc": np.array([100.0, 900.0])}, {"chat": np.zeros(2)}, {})
    assert settle(truth, done).costs.coincident_peak == pytest.approx(500.0)


CONFIGURED = SITE.replace(
    "     ramp_kw_per_min",
    "     coincident_peaks: [{id: 4cp, price_per_kw: 60, system_load: grid, months: [6, 7, 8, 9]},\n"
    "       {id: alert, price_per_kw: 10, probability: told, interval: 1h}],\n"
    "     ramp_kw_per_min",
).replace(
    "signals:\n",
    "signals:\n"
    "  - {id: told, type: constant, kind: probability, unit: percent, value: 6}\n"
    "  - {id: grid, type: profile, kind: system_load, unit: GW, timezone: America/Los_Angeles, hours: ["
    + ", ".join(["40"] * 17 + ["50"] + ["40"] * 6) + "]}\n",
)  # fmt: skip


def test_the_loops_know_the_grids_peaks_and_keep_them_over_a_restart(tmp_path):
    with lab(tmp_path, lambda _: CONFIGURED) as site_lab:
        site_lab.plan()
        inputs_ = site_lab.state.problem.sites[0]
        peak, told = inputs_.coincident
        assert told.probability[0] == pytest.approx(0.06 / 12)
        best = max(zip(peak.probability, site_lab.state.problem.grid.starts, strict=True))[1]
        assert best.astimezone(ZoneInfo("America/Los_Angeles")).hour == 17
        notes = [note.text for note in site_lab.state.plan.notes if note.code is Reason.COINCIDENT_PEAK]
        assert any("4cp likely Tue 17:00-18:00, p = " in text for text in notes)
        store, yesterday = site_lab.ctx.store, date(2022, 9, 5).isoformat()
        assert store.peak_kw("lab/4cp/system", yesterday) == pytest.approx(50_000.0)
        # A peak of early in the month, long out of the signal's reach, makes today's nearly hopeless.
        store.raise_peak("lab/4cp/system", "2022-09-01", 70_000.0)
        from scheduler.collect import collect

        now = site_lab.clock.now()
        seen = collect(site_lab.ctx.sources, signal_window(site_lab.ctx, now), now, site_lab.ctx.memory, None)
        again = build_problem(site_lab.ctx, site_lab.state, seen, now)
        assert sum(again.sites[0].coincident[0].probability) == 0.0
