"""Forecasts that learn from their errors: what fades, what stays, how wide bands are, and that nothing looks ahead."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.support.controllers import Gridpace
from benchmarks.support.market import DUTY, Market, walk
from optimizer.forecast import PRICE, Outlook, expect, extend, without_zeros
from optimizer.forecast_base import profile, samples, slots, smooth
from optimizer.forecast_errors import ErrorModel, learn, present
from optimizer.forecast_learned import Learned, Recall, learn_signal, look_ahead, mixed
from optimizer.reasons import Reason, Severity
from optimizer.rivals.rule import corrected, share_now
from optimizer.timegrid import planning_grid
from scheduler.backoff import LEAST, BaseLoadErrors, backed_off
from tests.support.signals import NOON, series

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
START = datetime(2022, 3, 1, tzinfo=UTC)
DAYS = 40


def ar_errors(fade, count=24 * 200, seed=1):
    rng, errors = np.random.default_rng(seed), [0.0]
    for shock in rng.normal(0.0, 0.2, count):
        errors.append(fade * errors[-1] + shock)
    return np.array(errors[1:])


def noisy_prices(seed=3, days=DAYS):
    """A day's shape with errors that fade."""
    hours = np.arange(24 * days)
    return 50.0 + 20.0 * np.sin(hours * np.pi / 12.0) + 40.0 * ar_errors(0.8, 24 * days, seed)


def test_how_fast_errors_fade_is_learned_not_guessed():
    for fade in (0.5, 0.9):
        values, scale = np.sinh(4.0 + ar_errors(fade)), 1.0
        model = learn(values, np.full(len(values), 4.0), scale, 1.0)
        now = present(np.sinh(np.array([4.0] * 71 + [4.5])), np.full(72, 4.0), scale, 1.0, 1)
        errors = model.weights @ now.regressors
        assert errors[0] == pytest.approx(0.5 * fade, abs=0.05)
        assert errors[3] == pytest.approx(0.5 * fade**4, abs=0.06)
        assert abs(errors[20]) < 0.08


def test_nine_in_ten_values_lie_below_the_band_of_nine_tenths():
    values, base = np.sinh(4.0 + ar_errors(0.8)), np.full(24 * 200, 4.0)
    half = len(values) // 2
    model = learn(values[:half], base[:half], 1.0, 1.0)
    below = []
    for origin in range(half + 72, len(values) - 6, 5):
        now = present(values[origin - 72 : origin], base[:72], 1.0, 1.0, 0)
        below.append(values[origin + 4] <= np.quantile(model.ahead(now, base[:6], 1), 0.9, axis=0)[4])
    assert np.mean(below) == pytest.approx(0.9, abs=0.05)


def test_errors_more_violent_than_ever_seen_are_taken_to_stay():
    values, base = np.sinh(4.0 + ar_errors(0.5)), np.full(24 * 200, 4.0)
    model = learn(values, base, 1.0, 1.0)
    calm = present(np.sinh(np.array([4.0] * 69 + [4.8, 4.9, 5.0])), base[:72], 1.0, 1.0, 3)
    wild = present(np.sinh(np.array([4.0] * 69 + [7.0, 3.0, 7.0])), base[:72], 1.0, 1.0, 3)
    assert calm.violence <= model.calm < wild.violence
    usual, unusual = (np.median(model.ahead(now, base[:12], 1), axis=0) for now in (calm, wild))
    assert usual[11] < np.sinh(4.3)
    assert unusual[11] > np.sinh(6.0)


def test_two_weeks_are_needed_to_learn_from():
    values = np.sinh(4.0 + ar_errors(0.8))
    assert learn(values[: 13 * 24], np.full(13 * 24, 4.0), 1.0, 1.0) is None
    assert learn(values[: 20 * 24], np.full(20 * 24, 4.0), 1.0, 1.0) is not None


def test_the_day_before_prices_slope_through_their_hours_and_keep_each_hours_mean():
    drawn = smooth(np.repeat([10.0, 20.0, 60.0], 4), 4)
    assert drawn.reshape(3, 4).mean(axis=1) == pytest.approx([10.0, 20.0, 60.0])
    assert drawn[4:8].tolist() == pytest.approx([16.25, 18.75, 21.25, 23.75])
    assert set(drawn[:4]) == {10.0}
    assert set(drawn[8:]) == {60.0}


@given(st.lists(st.floats(-500.0, 5000.0), min_size=2, max_size=30))
def test_a_slope_stays_between_the_neighbouring_hours(hours):
    """Where a peak ends, the first quarters after it were once drawn below 0, which made scarce evenings look cheap."""
    drawn = smooth(np.repeat(hours, 4), 4).reshape(-1, 4)
    assert drawn.mean(axis=1) == pytest.approx(hours, abs=1e-9)
    edged = np.pad(hours, 1, mode="edge")
    around = np.stack([edged[:-2], edged[1:-1], edged[2:]])
    assert (drawn >= around.min(axis=0)[:, None] - 1e-9).all()
    assert (drawn <= around.max(axis=0)[:, None] + 1e-9).all()


def test_a_days_profile_uses_only_the_days_before_it_and_counts_its_own_kind_most():
    friday = datetime(2022, 9, 2, tzinfo=UTC)
    marks = slots(friday, HOUR, 24 * 11, UTC)
    weekend = marks[2].astype(bool)
    expected = profile(np.where(weekend, 10.0, 90.0)[: 24 * 10], *marks, 0.1)
    assert np.isnan(expected[:24]).all()
    assert expected[24] == pytest.approx(90.0)
    assert expected[24 * 8 + 5] < 50.0 < expected[24 * 6 + 5]


def test_samples_of_longer_and_shorter_spans_are_means_and_gaps_stay_gaps():
    known = series([8.0, 4.0, None, 2.0], step=timedelta(minutes=20))
    got = samples(known, NOON, timedelta(minutes=30), 3)
    assert got[0] == pytest.approx((8.0 * 20 + 4.0 * 10) / 30)
    assert np.isnan(got[1:]).all()


def test_a_forecast_of_zero_is_not_believed_but_free_power_is():
    ahead = series([0.0, 30.0], NOON + HOUR, name="da")
    day_ahead = replace(ahead, spans=(*series([40.0] * 48, NOON - 47 * HOUR).spans, *ahead.spans))
    real_time = series([40.0] * 48, NOON - 47 * HOUR)
    got, notes = extend(real_time, NOON, NOON + 3 * HOUR, Outlook(), reference=day_ahead)
    assert got.at(NOON + HOUR) > 20.0
    assert (notes[0].code, notes[0].severity) == (Reason.FORECAST_ZERO, Severity.WARNING)
    free = series([0.0] * 96, NOON - 48 * HOUR)
    assert without_zeros(free, NOON) == (free, ())


def test_extend_learns_where_there_are_two_weeks_and_says_so():
    known = series(noisy_prices().tolist(), START)
    end = known.spans[-1].end
    got, notes = extend(known, end, end + 30 * HOUR, Outlook())
    assert got.until(end) == end + 30 * HOUR
    assert "by its usual day and the errors of the last 60 days" in notes[0].text
    high, _ = extend(known, end, end + 30 * HOUR, Outlook(share=0.9))
    above = [left.value > right.value for left, right in zip(high.spans, got.spans, strict=True) if left.start >= end]
    assert all(above)


@settings(max_examples=20)
@given(st.integers(0, 47), st.integers(0, 1000))
def test_what_is_not_public_changes_no_forecast(hours, seed):
    values = noisy_prices()
    moment = START + (DAYS - 3) * timedelta(days=1) + hours * HOUR
    known = (moment - START) // HOUR
    other = values.copy()
    other[known:] = np.random.default_rng(seed).normal(0.0, 1000.0, len(values) - known)
    fans = [
        look_ahead(series(each.tolist(), START), None, moment, moment + 20 * HOUR, Recall(ZoneInfo("America/Chicago")))
        for each in (values, other)
    ]
    assert np.array_equal(fans[0].paths, fans[1].paths)


@pytest.mark.parametrize("lagged", [False, True])
def test_the_benchmarks_controller_sees_nothing_before_its_time(lagged):
    values, zone = noisy_prices(), ZoneInfo("America/New_York")
    starts = tuple(START + n * HOUR for n in range(len(values)))
    true = Market("m", zone, starts, HOUR, values, None)
    first, last = true.days()[-2]
    for index in (first, first + 7, last - 1):
        known = index if lagged else index + 1
        changed = replace(true, price=np.concatenate((values[:known], np.full(len(values) - known, -999.0))))
        seen = [Gridpace(each, lagged).prices(index, last) for each in (true, changed)]
        if lagged or known < last:
            assert np.array_equal(*seen)


def test_the_plan_of_one_job_is_the_sorted_one_in_every_interval():
    values = noisy_prices(days=18)
    made = Market("m", ZoneInfo("UTC"), tuple(START + n * HOUR for n in range(len(values))), HOUR, values, None)
    day = made.days()[16:17]
    run = walk(made, Gridpace(made, False, plan_every=1).choose, day)
    assert run.sum() == pytest.approx(DUTY * 24)
    assert 0.3 < made.share(run, day) <= 1.0


def test_the_rule_runs_now_when_now_is_among_the_cheapest_that_remain():
    assert share_now(np.array([5.0, 1.0, 9.0, 4.0]), 2.0) == 0.0
    assert share_now(np.array([5.0, 1.0, 9.0, 4.0]), 2.5) == 0.5
    assert share_now(np.array([5.0, 6.0, 9.0]), 1.0) == 1.0
    assert corrected(np.array([10.0, 10.0]), 4.0, 1).tolist() == pytest.approx([13.8, 13.61])


def test_a_plan_stays_as_far_below_a_limit_as_the_meter_was_above_the_model():
    seen = BaseLoadErrors()
    for error in range(LEAST - 1):
        seen.see({"dc": float(error), "pool": 99.0}, frozenset({"dc"}))
    assert seen.margin_kw("dc", 0.5) == 0.0
    seen.see({"dc": float(LEAST - 1)}, frozenset({"dc"}))
    assert seen.margin_kw("dc", 0.5) == pytest.approx((LEAST - 1) / 2)
    assert seen.margin_kw("pool", 0.5) == 0.0
    kept, notes = backed_off((500.0, 5.0), 10.0, "dc", 0.95, NOON)
    assert kept == (490.0, 0.0)
    assert [note.code for note in notes] == [Reason.BACK_OFF]
    assert backed_off((5000.0,), 10.0, "dc", 0.95, NOON) == ((4990.0,), ())
    below = BaseLoadErrors()
    for _ in range(LEAST):
        below.see({"dc": -5.0}, frozenset({"dc"}))
    assert below.margin_kw("dc", 0.95) == 0.0


def test_a_plan_reckons_with_half_of_what_rare_high_paths_add_and_its_scenarios_with_the_same_mean():
    spiky = noisy_prices() * np.where(np.random.default_rng(1).random(24 * DAYS) < 0.02, 12.0, 1.0)
    known = series(spiky.tolist(), START)
    grid = planning_grid(known.spans[-1].end, timedelta(hours=12), HOUR)
    low, half, mean = (expect(known, grid, replace(PRICE, tail=tail)) for tail in (0.0, PRICE.tail, 1.0))
    assert PRICE.tail == 0.5
    assert np.mean(np.array(mean.values) - low.values) > 1.0
    assert np.allclose(half.values, (np.array(low.values) + mean.values) / 2.0)
    for each in (low, half, mean):
        assert np.allclose(each.paths.mean(axis=0), each.values)


def test_day_ahead_prices_and_the_usual_day_count_by_how_right_they_were():
    rng = np.random.default_rng(2)
    usual, told = rng.normal(4.0, 0.5, 240), rng.normal(4.0, 0.5, 240)
    assert np.allclose(mixed(told[:200], usual, told), told)
    assert np.allclose(mixed(usual[:200], usual, told), usual)
    assert np.allclose(mixed(0.75 * told[:200] + 0.25 * usual[:200], usual, told), 0.75 * told + 0.25 * usual)
    assert np.allclose(mixed(2.0 * told[:200] - usual[:200], usual, told), told)
    gone = np.where(np.arange(240) % 7 == 0, np.nan, told)
    assert np.allclose(mixed(told[:200], usual, gone), np.where(np.isfinite(gone), told, usual))
    assert np.allclose(mixed(told[:200], np.full(240, np.nan), told), told)


def told_model(told):
    """A day-ahead price that has always been right, and nothing else that was learned."""
    base = np.arcsinh(np.array(told) / 20.0)
    quiet = ErrorModel(20.0, 1.0, np.zeros((26, 4)), np.zeros((1, 26)), 9.0, 9.0)
    return Learned(START, HOUR, 0, base, quiet, np.array(told))


def test_beside_day_ahead_prices_half_counts_that_the_last_error_fades_in_money():
    """70 instead of 40: six hours later half of the 30 is left; and the other half of the forecast expects no error."""
    fan = told_model([40.0] * 20).fan(np.array([40.0, 40.0, 70.0]), 3, 20)
    assert fan.reckoned(0.5)[5] == pytest.approx((40.0 + 40.0 + 15.0) / 2)
    assert fan.about(0.5).mean(axis=0) == pytest.approx(fan.reckoned(0.5))
    lagged = told_model([40.0] * 20).fan(np.array([40.0, 40.0, 70.0]), 3, 20, lead=2)
    assert lagged.reckoned(0.5) == pytest.approx(fan.reckoned(0.5)[1:])


def test_who_learned_from_a_third_of_the_days_counts_a_third_of_that_half():
    """Errors that last whole days: learned, half or a sixth of what is reckoned with."""
    whole = told_model([40.0] * 20)
    lasting = replace(whole, model=replace(whole.model, weights=np.tile([0.0, 1.0, 0.0, 0.0], (26, 1))))
    recent = np.array([40.0, 40.0, 70.0])
    for practice, weight in ((1.0, 1 / 2), (1 / 3, 1 / 6)):
        found = replace(lasting, practice=practice).fan(recent, 3, 20).reckoned(0.5)
        assert found[5] == pytest.approx((1.0 - weight) * 55.0 + weight * 70.0)
    prices = series(np.tile([30.0, 50.0], 24 * 10), START)
    learned = learn_signal(prices, None, START + 20 * DAY, START + 21 * DAY, Recall(UTC, 60))
    assert learned.practice == pytest.approx(1 / 3)


def test_a_day_ahead_spike_that_did_not_come_makes_no_quiet_hour_cheaper_than_any_was():
    fan = told_model([40.0, 30.0, 5000.0, 40.0, np.nan, 4000.0]).fan(np.array([42.0, 31.0, 35.0]), 3, 6)
    assert fan.second[0] == 31.0
    assert np.isnan(fan.second[1])
    assert fan.second[2] == pytest.approx(4000.0 + (35.0 - 5000.0) * 0.5 ** (3 / 6))
