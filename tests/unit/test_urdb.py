"""Tariffs of the US Utility Rate Database: tables, tiers, demand charges, and what is told instead of guessed."""

import json
from datetime import timedelta

import pytest

from adapters.ports import SourceError
from adapters.signals.urdb import UrdbConfig, UrdbSource
from optimizer.timegrid import uniform_grid
from tests.support.markets import urdb_rate
from tests.support.signals import NOON, context, utc

HOUR = timedelta(hours=1)
MONDAY = utc(2022, 7, 4, 5)  # midnight in Chicago, and a holiday


def make(folder, told=None, **fields):
    (folder / "rate.json").write_text(told if isinstance(told, str) else json.dumps(told or urdb_rate()))
    fields = {"id": "bill", "type": "urdb", "path": "rate.json", "timezone": "America/Chicago", **fields}
    return UrdbSource(UrdbConfig.model_validate(fields), context(folder))


def test_periods_follow_local_hours_of_weekdays_weekends_and_holidays(tmp_path):
    tuesday = MONDAY + 24 * HOUR
    source = make(tmp_path)
    day = source.read(tuesday, tuesday + 24 * HOUR, NOON)
    assert [(span.start, span.value) for span in day.spans] == [
        (tuesday, pytest.approx(105.0)), (tuesday + 8 * HOUR, 250.0), (tuesday + 20 * HOUR, pytest.approx(105.0)),
    ]  # fmt: skip
    assert day.unit == "USD/MWh"
    assert source.read(MONDAY, MONDAY + 24 * HOUR, NOON).at(MONDAY + 12 * HOUR) == 250.0
    free = make(tmp_path, country="US").read(MONDAY, MONDAY + 24 * HOUR, NOON)
    assert [span.value for span in free.spans] == [pytest.approx(105.0)]
    saturday = MONDAY + 5 * 24 * HOUR
    assert len(source.read(saturday, saturday + 48 * HOUR, NOON).spans) == 1
    january = utc(2022, 1, 4, 6)
    assert len(source.read(january, january + 24 * HOUR, NOON).spans) == 1


@pytest.mark.parametrize(("monthly_kwh", "price"), [(900, 300.0), (50_000, 210.0), (50_001, 105.0), (None, 105.0)])
def test_the_next_kwh_costs_what_its_tier_says(tmp_path, monthly_kwh, price):
    got = make(tmp_path, monthly_kwh=monthly_kwh).read(MONDAY, MONDAY + HOUR, NOON)
    assert got.spans[0].value == pytest.approx(price)


def test_demand_is_charged_by_period_and_at_any_time_month_by_month(tmp_path):
    start = utc(2022, 8, 31, 5)  # Wednesday, local midnight; September is still summer
    grid = uniform_grid(start, start + 48 * HOUR, HOUR)
    charges = {c.id: c for c in make(tmp_path).demand_charges(grid, {"bill/demand-1/2022-08": 900.0})}
    assert set(charges) == {
        f"bill/{name}/{month}" for name in ("demand-0", "demand-1", "demand-any") for month in ("2022-08", "2022-09")
    }
    day = charges["bill/demand-1/2022-08"]
    assert (day.price_per_kw, day.peak_so_far_kw) == (18.5, 900.0)
    assert [n for n, active in enumerate(day.active) if active] == list(range(8, 20))
    assert charges["bill/demand-any/2022-09"].price_per_kw == 6.0
    assert sum(charges["bill/demand-any/2022-09"].active) == 24
    small = make(tmp_path, peak_kw=400).demand_charges(grid, {})
    assert {c.price_per_kw for c in small if "any" in c.id} == {4.0}


def test_what_is_not_reckoned_with_is_said(tmp_path):
    told = urdb_rate(demandratchetpercentage=[0.8] * 12, coincidentratestructure=[[{"rate": 3}]], enddate=1_650_000_000)
    notes = make(tmp_path, told).read(NOON, NOON + HOUR, NOON).notes
    assert [next(word for word in ("ratchet", "coincident", "ended") if word in note.text) for note in notes] == [
        "ratchet", "coincident", "ended",
    ]  # fmt: skip
    assert make(tmp_path).read(NOON, NOON + HOUR, NOON).notes == ()


@pytest.mark.parametrize(("told", "said"), [
    ("{", "not JSON"),
    ({"items": []}, "0 records fit"),
    ({"items": [urdb_rate(), urdb_rate(label="other")]}, "name one by `label`: 5374efea9bef51471a6965d0, other"),
    (urdb_rate(energyweekdayschedule=[[0] * 24] * 11), "energyweekdayschedule: List should have at least 12"),
    (urdb_rate(energyweekdayschedule=[[0] * 23 + [2]] * 12), r"energyweekdayschedule\[0\]: there is no period 2"),
    (urdb_rate(energyratestructure=[[{"rate": "free"}], [{"rate": 1}]]), r"energyratestructure\.0\.0\.rate"),
    (urdb_rate(energyratestructure=[[{"unit": "kWh/kW", "max": 1}, {"unit": "kWh/kW"}], [{}]]), "tiers by kWh/kW"),
    (urdb_rate(demandrateunit="hp"), "demandrateunit: charges by hp"),
    (urdb_rate(flatdemandmonths=[1] * 12), r"flatdemandmonths\[0\]: there is no period 1"),
])  # fmt: skip
def test_a_record_that_cannot_be_followed_names_its_field(tmp_path, told, said):
    with pytest.raises(SourceError, match=rf"rate\.json: .*{said}"):
        make(tmp_path, told)


def test_a_record_is_chosen_by_its_label(tmp_path):
    told = {"items": [urdb_rate(), urdb_rate(label="other", energyratestructure=[[{"rate": 1}], [{"rate": 2}]])]}
    assert make(tmp_path, told, label="other").read(NOON, NOON + HOUR, NOON).spans[0].value in {1000.0, 2000.0}
