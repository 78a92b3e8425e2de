"""Prices and carbon that a program tells."""

from datetime import timedelta

import pytest

from adapters.dr.openadr3.objects import Descriptor, read_event
from adapters.dr.openadr3.orders import Known
from adapters.dr.openadr3.series import told_series
from adapters.ports import SourceError
from tests.support.openadr3 import HOUR, NOON, payload, period, units

DAY = (NOON.replace(hour=0), NOON.replace(hour=0) + timedelta(days=1))


def prices(*values, kind="PRICE", unit="KWH", currency="USD", start=NOON, each="PT1H", name="p", **more):
    intervals = [
        {"id": n, "payloads": [payload(kind, *(v if isinstance(v, list) else [v]))]} for n, v in enumerate(values)
    ]
    described = [units(kind, unit, currency=currency)] if unit else []
    return {"id": name, "intervals": intervals, "payloadDescriptors": described} | period(start, each) | more


def told(*events, kind="PRICE", **more):
    known = [Known(read_event(event), event, NOON) for event in events]
    series = told_series("vtn", known, kind, DAY, currency="USD", **more)
    return series.unit, [((s.start - NOON) / HOUR, (s.end - NOON) / HOUR, round(s.value, 6)) for s in series.spans]


def test_guide_7_3_three_prices_in_three_hours_are_one_each_and_per_mwh():
    assert told(prices([0.17, 0.03, -0.11], each="PT3H")) == ("USD/MWh", [(0, 1, 170), (1, 2, 30), (2, 3, -110)])


def test_guide_7_4_an_interval_that_is_twice_as_long():
    event = prices(0.17, 0.22)
    event["intervals"][1]["intervalPeriod"] = {"duration": "PT2H"}
    assert told(event)[1] == [(0, 1, 170), (1, 3, 220)]


def test_a_standing_tariff_fills_every_hour_of_the_day():
    event = prices(*[0.1 + hour / 100 for hour in range(24)], start=NOON - 40 * timedelta(days=1), duration="P9999Y")
    _, spans = told(event)
    assert len(spans) == 24
    assert spans[0] == (-12, -11, 220)


def test_of_overlapping_prices_the_more_important_and_then_the_later_counts():
    standing = prices(0.1, each="PT8H", name="standing")
    peak = prices(0.5, start=NOON + 2 * HOUR, name="peak")
    assert told(standing, peak)[1] == [(0, 2, 100), (2, 3, 500), (3, 8, 100)]
    assert told(standing | {"priority": 0}, peak | {"priority": 1})[1] == [(0, 8, 100)]


def test_carbon_and_the_programs_descriptor():
    assert told(prices(420, kind="GHG", unit=None), kind="GHG") == ("g/kWh", [(0, 1, 420)])
    descriptor = Descriptor.model_validate({"payloadType": "PRICE", "units": "MWH", "currency": "usd"})
    assert told(prices(170, unit=None), descriptors=[descriptor])[1] == [(0, 1, 170)]
    assert told(prices(1, kind="SIMPLE"))[1] == []


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (prices(0.1, unit=None), "no unit is declared"),
        (prices(0.1, unit="THERMS"), '"THERMS" is not a unit of energy'),
        (prices(0.1, currency="EUR"), "in EUR, but the config is in USD"),
        (prices("0.1"), "is not a number"),
        (prices(0.1, start="soon"), "not a time"),
    ],
)
def test_what_would_have_to_be_guessed_is_an_error_with_the_event(event, said):
    with pytest.raises(SourceError, match=f"event p: PRICE: .*{said}"):
        told(event)
