"""A tariff sheet over the real calendar: seasons, weekends, holidays, clock changes, demand charges."""

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from pydantic import ValidationError

from adapters.ports import SourceError
from adapters.signals.tariff import TariffSource
from adapters.signals.tariffconfig import TariffConfig
from optimizer.timegrid import TimeGrid, uniform_grid
from tests.support.signals import NOON, context, utc

PACIFIC = ZoneInfo("America/Los_Angeles")
SUMMER = {"name": "summer", "first": "06-01", "last": "09-30"}
SHEET = {
    "id": "tou", "type": "tariff", "timezone": "America/Los_Angeles", "unit": "USD/kWh", "country": "US",
    "subdivision": "CA",
    "seasons": [SUMMER, {"name": "winter", "first": "10-01", "last": "05-31"}],
    "periods": [
        {"name": "peak", "price": 0.40, "seasons": ["summer"], "days": ["weekday"], "hours": ["16:00-21:00"]},
        {"name": "part", "price": 0.25, "seasons": ["summer"], "days": ["weekday"],
         "hours": ["12:00-16:00", "21:00-23:00"]},
        {"name": "off", "price": 0.20, "seasons": ["summer"], "days": ["weekday"], "hours": ["23:00-12:00"]},
        {"name": "off", "price": 0.20, "seasons": ["summer"], "days": ["weekend"]},
        {"name": "winter", "price": 0.18, "seasons": ["winter"], "hours": ["06:00-02:00"]},
        {"name": "night", "price": 0.10, "seasons": ["winter"], "hours": ["02:00-06:00"]},
    ],
    "demand_charges": [
        {"name": "any", "price_per_kw": 18.2},
        {"name": "peak", "price_per_kw": 21.5, "periods": ["peak"], "seasons": ["summer"]},
    ],
}  # fmt: skip


def tariff(**changes) -> TariffSource:
    return TariffSource(TariffConfig.model_validate(SHEET | changes), context())


def price(source, *local):
    at = datetime(*local, tzinfo=PACIFIC)
    return source.read(at, at + timedelta(minutes=15), NOON).at(at)


@pytest.mark.parametrize(("local", "expected"), [
    ((2022, 9, 6, 15, 45), 250), ((2022, 9, 6, 16, 0), 400), ((2022, 9, 6, 20, 45), 400), ((2022, 9, 6, 21, 0), 250),
    ((2022, 9, 6, 3, 0), 200), ((2022, 9, 10, 17, 0), 200), ((2022, 9, 30, 17, 0), 400), ((2022, 10, 1, 17, 0), 180),
    ((2022, 1, 1, 1, 45), 180), ((2022, 1, 1, 2, 0), 100),
])  # fmt: skip
def test_prices_by_season_day_and_local_hour(local, expected):
    assert price(tariff(), *local) == pytest.approx(expected)


def test_labor_day_is_priced_as_a_weekend():
    assert price(tariff(), 2022, 9, 5, 17) == pytest.approx(200)
    assert price(tariff(country=None, subdivision=None), 2022, 9, 5, 17) == pytest.approx(400)


@pytest.mark.parametrize(("day", "quarters", "night_quarters"), [
    ((2022, 3, 13), 92, 12), ((2022, 3, 14), 96, 16), ((2022, 11, 6), 100, 16),
])  # fmt: skip
def test_a_local_day_has_92_96_or_100_quarter_hours(day, quarters, night_quarters):
    start = datetime(*day, tzinfo=PACIFIC)
    end = datetime(*day, tzinfo=PACIFIC) + timedelta(days=1)
    spans = tariff().read(start, end, NOON).spans
    assert spans[0].start == start
    assert spans[-1].end == end
    lengths = [(span.end - span.start) / timedelta(minutes=15) for span in spans]
    assert sum(lengths) == quarters
    assert sum(n for n, span in zip(lengths, spans, strict=True) if span.value == 100) == night_quarters


@pytest.mark.parametrize(("changes", "text"), [
    ({"seasons": [SUMMER, {"name": "winter", "first": "10-02", "last": "05-31"}]},
     "seasons: 10-01 lies in no season"),
    ({"seasons": [SUMMER, {"name": "winter", "first": "09-30", "last": "05-31"}]},
     "seasons: 09-30 lies in summer and winter"),
    ({"periods": SHEET["periods"][1:], "demand_charges": []},
     "periods: summer mon 16:00 is in no period; periods: summer tue 16:00 is in no period"),
    ({"periods": [*SHEET["periods"], {"name": "x", "price": 1, "days": ["sat"], "seasons": ["winter"]}]},
     "periods: winter sat 00:00 is in winter and x"),
    ({"periods": [{"name": "x", "price": 1, "days": ["weekday", "sat", "sun"]}], "demand_charges": []},
     "periods: summer holiday 00:00 is in no period"),
    ({"periods": [{"name": "x", "price": 1, "seasons": ["sumer"]}]},
     'periods[0].seasons: "sumer" is not a season of this tariff. Did you mean "summer"?'),
    ({"periods": [{"name": "x", "price": 1}]}, 'demand_charges[1].periods: "peak" is not a period of this tariff.'),
    ({"periods": [{"name": "x", "price": 1, "hours": ["07:10-08:00"]}]}, "quarter-hours"),
    ({"country": None}, "subdivision: needs country"),
    ({"kind": "carbon"}, "kind: a tariff is a price"),
])  # fmt: skip
def test_a_tariff_that_does_not_price_each_moment_once_is_refused(changes, text):
    with pytest.raises(ValidationError) as caught:
        tariff(**changes)
    assert text in str(caught.value)


def test_an_unknown_country_or_state_is_named():
    with pytest.raises(SourceError, match=r"tou: country, subdivision: .*ZZ"):
        tariff(subdivision="ZZ")


def test_demand_charges_follow_period_season_and_billing_month():
    start = datetime(2022, 9, 30, 15, tzinfo=PACIFIC)
    grid = uniform_grid(start, start + timedelta(hours=12), timedelta(hours=1))
    charges = {charge.id: charge for charge in tariff().demand_charges(grid, {"tou/any/2022-09": 5000.0})}
    assert set(charges) == {"tou/any/2022-09", "tou/any/2022-10", "tou/peak/2022-09"}
    assert sum(charges["tou/any/2022-09"].active) == 9
    assert charges["tou/any/2022-10"].active == (False,) * 9 + (True,) * 3
    assert charges["tou/peak/2022-09"].active == (False,) + (True,) * 5 + (False,) * 6
    assert (charges["tou/any/2022-09"].peak_so_far_kw, charges["tou/any/2022-10"].peak_so_far_kw) == (5000.0, 0.0)
    assert charges["tou/peak/2022-09"].price_per_kw == 21.5


def test_an_interval_partly_in_a_charged_period_counts():
    grid = TimeGrid((utc(2022, 9, 6, 22, 30), utc(2022, 9, 6, 23, 30)))
    assert [charge.id for charge in tariff().demand_charges(grid, {})] == ["tou/any/2022-09", "tou/peak/2022-09"]
