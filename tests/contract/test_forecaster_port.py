"""One suite over every forecaster: what a fan of paths promises, whoever learned it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from optimizer.forecast import LOAD, Outlook, extend
from optimizer.forecast_learned import Recall
from optimizer.forecasters import FORECASTERS
from optimizer.reasons import Reason
from tests.support.signals import series

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
CHICAGO = ZoneInfo("America/Chicago")
START = datetime(2022, 9, 25, tzinfo=UTC)
DAYS = 42
FALL_BACK, RECALL = datetime(2022, 11, 6, 5, tzinfo=UTC), Recall(CHICAGO)


@pytest.fixture(params=sorted(FORECASTERS))
def another(request):
    return FORECASTERS[request.param]


@pytest.fixture
def forecaster(another):
    return another()


@cache
def prices(days=DAYS + 3):
    """Dear at local 18:00, with errors that fade and now and then a spike."""
    rng, error, values = np.random.default_rng(5), 0.0, []
    for hour in range(24 * days):
        local = (START + hour * HOUR).astimezone(CHICAGO)
        error = 0.8 * error + rng.normal(0.0, 4.0) + (80.0 if rng.random() < 0.004 else 0.0)
        values.append(50.0 + 20.0 * np.cos((local.hour - 18) * np.pi / 12.0) + error)
    return np.array(values)


def known(until: datetime, values=None):
    count = (until - START) // HOUR
    return series((prices() if values is None else values)[:count].tolist(), START)


def test_bands_hold_as_often_as_they_say(forecaster):
    inside, above = [], []
    for number in range(72):
        moment = START + 39 * DAY + number * HOUR
        fan = forecaster(known(moment), None, moment, moment + 6 * HOUR, RECALL)
        true = prices()[(moment - START) // HOUR + 3]
        low, high = (fan.quantile(share)[3] for share in (0.1, 0.9))
        inside.append(low <= true <= high)
        above.append(true > fan.quantile(0.5)[3])
    assert 0.65 <= np.mean(inside) <= 0.95
    assert 0.25 <= np.mean(above) <= 0.75


def test_quantiles_are_in_order_and_what_is_reckoned_with_lies_between_middle_and_mean(forecaster):
    moment = START + 40 * DAY
    fan = forecaster(known(moment), None, moment, moment + 30 * HOUR, RECALL)
    assert fan.start == moment
    assert fan.paths.shape[1] == 30
    assert np.isfinite(fan.paths).all()
    assert (np.diff([fan.quantile(share) for share in (0.05, 0.5, 0.95)], axis=0) >= 0).all()
    assert np.allclose(fan.reckoned(1.0), fan.mean)
    assert np.allclose(fan.reckoned(0.5), (fan.mean + fan.middle) / 2)
    assert (fan.middle <= fan.mean + 1e-9).all()


def test_the_dear_hour_is_the_local_one_over_a_day_of_25_hours(forecaster):
    fan = forecaster(known(FALL_BACK), None, FALL_BACK, FALL_BACK + 25 * HOUR, RECALL)
    assert fan.paths.shape[1] == 25
    dearest = FALL_BACK + int(np.argmax(fan.mean)) * HOUR
    assert abs(dearest.astimezone(CHICAGO).hour - 18) <= 1
    cheapest = FALL_BACK + int(np.argmin(fan.mean[:20])) * HOUR
    assert abs(cheapest.astimezone(CHICAGO).hour - 6) <= 2


def test_gaps_in_the_past_are_stepped_over_and_one_at_the_end_is_not_learned_from(forecaster):
    moment = START + 40 * DAY
    whole = known(moment)
    spans = tuple(span for span in whole.spans if not START + 20 * DAY <= span.start < START + 20 * DAY + 7 * HOUR)
    holed = forecaster(replace(whole, spans=spans), None, moment, moment + 12 * HOUR, RECALL)
    assert np.isfinite(holed.paths).all()
    assert forecaster(replace(whole, spans=spans[:-1]), None, moment, moment + 12 * HOUR, RECALL) is None


def test_less_than_two_weeks_teach_nothing_and_the_usual_day_answers(forecaster):
    moment = START + 9 * DAY
    assert forecaster(known(moment), None, moment, moment + DAY, RECALL) is None
    got, notes = extend(known(moment), moment, moment + DAY, Outlook(CHICAGO, forecaster=forecaster))
    assert got.until(moment) == moment + DAY
    assert "by the same hour of the last 14 days" in notes[0].text


def test_what_is_not_public_changes_nothing_and_the_same_past_gives_the_same_fan(forecaster, another):
    moment = START + 40 * DAY + 7 * HOUR
    other = prices().copy()
    other[(moment - START) // HOUR :] = -999.0
    fans = [forecaster(known(moment, each), None, moment, moment + DAY, RECALL) for each in (prices(), other)]
    fans.append(another()(known(moment), None, moment, moment + DAY, RECALL))
    assert all(np.array_equal(fans[0].paths, fan.paths) for fan in fans)


def test_what_was_learned_today_is_forgotten_when_a_past_value_is_revised_or_a_price_is_published(forecaster, another):
    moment, later = START + 40 * DAY + 7 * HOUR, START + 40 * DAY + 9 * HOUR
    revised = prices().copy()
    revised[39 * 24 : 39 * 24 + 9] += 30.0
    told = series(prices()[: 41 * 24].tolist(), START, name="da")
    forecaster(known(moment), None, moment, moment + DAY, RECALL)
    for values, reference in ((prices(), None), (revised, None), (revised, told)):
        asked = (known(later, values), reference, later, later + 15 * HOUR, RECALL)
        assert np.array_equal(forecaster(*asked).paths, another()(*asked).paths)


def test_a_day_ahead_price_of_zero_is_not_believed(forecaster):
    moment = START + 40 * DAY
    ahead = series([*prices()[: 40 * 24].tolist(), *[0.0] * 24], START, name="da")
    got, notes = extend(known(moment), moment, moment + DAY, Outlook(CHICAGO, forecaster=forecaster), reference=ahead)
    assert min(span.value for span in got.spans if span.start >= moment) > 10.0
    assert Reason.FORECAST_ZERO in {note.code for note in notes}


def test_load_that_is_missing_is_never_taken_for_none(forecaster):
    moment = START + 40 * DAY
    outlook = replace(LOAD, zone=CHICAGO, share=0.9, forecaster=forecaster)
    busy = [0.5 + 0.3 * np.sin(n * np.pi / 12) for n in range(40 * 24)]
    holed = [None if 200 <= n < 320 else value for n, value in enumerate(busy)]
    for values in (holed, [*holed[:-3], None, None, None], [None] * (40 * 24)):
        got, _ = extend(series(values, START, name="load"), moment, moment + DAY, outlook)
        ahead = [span.value for span in got.spans if span.start >= moment]
        assert len(ahead) >= 24
        assert min(ahead) > 0.15
        assert max(ahead) <= 1.0
