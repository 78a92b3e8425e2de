"""What each service over a network says, in its documented form, and what becomes of it."""

from datetime import UTC, datetime

import pytest

from adapters.ports import SourceError
from optimizer.domain import Span
from optimizer.reasons import Reason
from scheduler.clock import VirtualClock
from tests.support.live import MINUTE, at, make, values
from tests.support.markets import HALF, HOUR, serving, value_at, z
from tests.support.signals import NOON, utc


@pytest.fixture
def market():
    with serving() as (url, markets):
        yield url, markets


def test_octopus_pence_half_hours_in_any_order_and_over_pages_become_pounds_per_mwh(market, monkeypatch):
    url, markets = market
    monkeypatch.setattr("adapters.signals.octopus.PAGE", 20)
    source = make(url, type="octopus", tariff="E-1R-AGILE-24-10-01-C", currency="GBP")
    got = source.read(NOON, NOON + 12 * HOUR, NOON)
    assert got.unit == "GBP/MWh"
    assert values(got) == [(NOON + n * HALF, pytest.approx(value_at(NOON + n * HALF) * 10)) for n in range(24)]
    path = "/v1/products/AGILE-24-10-01/electricity-tariffs/E-1R-AGILE-24-10-01-C/standard-unit-rates/"
    assert [(asked, query["page"]) for asked, query, _ in markets.requests] == [(path, "1"), (path, "2")]
    taxed = make(url, type="octopus", tariff="E-1R-AGILE-24-10-01-C", currency="GBP", vat="included")
    assert taxed.read(NOON, NOON + HALF, NOON).spans[0].value == pytest.approx(value_at(NOON) * 10.5)


def test_octopus_day_that_ends_at_23_is_44_values_and_a_gap_never_zero(market):
    url, markets = market
    start = utc(2022, 7, 5, 23)  # midnight in London
    markets.known_until = start + 22 * HOUR
    got = make(url, type="octopus", tariff="E-1R-AGILE-24-10-01-C", currency="GBP").read(start, start + 24 * HOUR, NOON)
    assert len(got.spans) == 44
    assert got.until(start) == start + 22 * HOUR
    assert min(span.value for span in got.spans) > 0


def test_octopus_rates_of_another_way_of_paying_and_without_an_end(market):
    url, markets = market

    def flat(rows):
        rates = [{**rows[0], "valid_from": z(NOON - 99 * HOUR), "valid_to": None} for _ in range(2)]
        return [
            rates[0] | {"payment_method": "NON_DIRECT_DEBIT", "value_exc_vat": 31},
            rates[1] | {"payment_method": "DIRECT_DEBIT", "value_exc_vat": 29},
        ]

    markets.change = flat
    fields = {"type": "octopus", "tariff": "E-1R-VAR-22-11-01-C", "currency": "GBP"}
    assert make(url, **fields).read(NOON, NOON + HOUR, NOON).spans == (Span(NOON - 99 * HOUR, NOON + HOUR, 290.0),)
    other = make(url, **fields, payment="NON_DIRECT_DEBIT").read(NOON, NOON + HOUR, NOON)
    assert [span.value for span in other.spans] == [310.0]


def test_awattar_milliseconds_become_utc_and_another_unit_is_refused(market):
    url, markets = market
    source = make(url, type="awattar", country="DE", currency="EUR")
    got = source.read(NOON, NOON + 3 * HOUR, NOON)
    assert values(got) == [(NOON + n * HOUR, value_at(NOON + n * HOUR)) for n in range(3)]
    assert got.unit == "EUR/MWh"
    markets.change = lambda rows: [row | {"unit": "Cent/kWh"} for row in rows]
    with pytest.raises(SourceError, match=r'row 1: unit "Cent/kWh"'):
        make(url, type="awattar", country="DE", currency="EUR").read(NOON, NOON + HOUR, NOON)


def test_uk_carbon_takes_actuals_where_there_are_some_and_asks_for_a_fortnight_in_parts(market):
    url, markets = market

    def partly(rows):
        for row in rows:
            if row["from"] >= z(NOON, False):
                row["intensity"]["actual"] = None
        return rows

    markets.change = partly
    got = make(url, type="uk_carbon").read(NOON - 15 * 24 * HOUR, NOON + HOUR, NOON)
    assert len(markets.requests) == 2
    assert got.at(NOON - HALF) == round(value_at(NOON - HALF))
    assert got.at(NOON) == round(value_at(NOON)) + 3
    assert got.unit == "g/kWh"
    region = make(url, type="uk_carbon", region=13).read(NOON, NOON + HOUR, NOON)
    assert region.at(NOON) == round(value_at(NOON)) + 3
    assert markets.requests[-1][0].endswith("/regionid/13")


EM = {"type": "electricity_maps", "zone": "DE", "token": "file:key"}


def test_electricity_maps_free_plan_tells_a_day_and_names_what_is_estimated(market, tmp_path):
    url, markets = market
    (tmp_path / "key").write_text("hush")
    window = (NOON - 48 * HOUR, NOON + 24 * HOUR)
    got = make(url, base_dir=tmp_path, **EM).read(*window, NOON)
    assert values(got) == [(NOON - n * HOUR, round(value_at(NOON - n * HOUR))) for n in range(24, 0, -1)]
    assert [note.code for note in got.notes] == [Reason.SIGNAL_ESTIMATED]
    assert "3 h are estimated" in got.notes[0].text
    left = make(url, base_dir=tmp_path, estimated="leave_out", factors="direct", **EM).read(*window, NOON)
    assert len(left.spans) == 21
    assert markets.requests[-1][1] == {"zone": "DE", "emissionFactorType": "direct", "disableEstimations": "true"}


def test_electricity_maps_paid_plan_joins_past_and_forecast_in_parts_of_ten_days(market, tmp_path):
    url, markets = market
    (tmp_path / "key").write_text("hush")
    source = make(url, base_dir=tmp_path, past=True, forecast=True, **EM)
    got = source.read(NOON - 14 * 24 * HOUR, NOON + 24 * HOUR, NOON)
    assert [path.rpartition("/")[2] for path, _, _ in markets.requests] == ["past-range", "past-range", "forecast"]
    assert got.at(NOON - HOUR) == round(value_at(NOON - HOUR))
    assert got.at(NOON) == round(value_at(NOON)) + 5
    assert len(got.spans) == 15 * 24
    (tmp_path / "key").write_text("wrong")
    with pytest.raises(SourceError, match=r"HTTP 401 \(Invalid auth-token\)"):
        make(url, base_dir=tmp_path, **EM).read(NOON, NOON + HOUR, NOON)


WATT = {"type": "watttime", "region": "CAISO_NORTH", "username": "gridpace", "password": "file:key"}


def test_watttime_logs_in_again_when_its_token_has_run_out_and_turns_pounds_into_grams(market, tmp_path):
    url, markets = market
    (tmp_path / "key").write_text("hush")
    clock = VirtualClock(NOON)
    source = make(url, clock, base_dir=tmp_path, **WATT)
    got = source.read(NOON - HOUR, NOON + HOUR, NOON)
    assert got.at(NOON - HOUR) == pytest.approx(value_at(NOON - HOUR) * 10 * 0.45359237)
    assert got.at(NOON) == pytest.approx((value_at(NOON) * 10 + 1) * 0.45359237)
    assert got.unit == "g/kWh"
    markets.tokens += 1  # the server forgets the token
    at(clock, NOON + 6 * MINUTE)
    assert not source.read(NOON - HOUR, NOON + HOUR, clock.now()).notes
    at(clock, NOON + 32 * MINUTE)
    source.read(NOON - HOUR, NOON + HOUR, clock.now())
    paths = [path for path, _, _ in markets.requests]
    assert paths.count("/login") == 3
    markets.units = "kg_co2_per_mwh"
    with pytest.raises(SourceError, match='unit "kg_co2_per_mwh"'):
        make(url, base_dir=tmp_path, **WATT).read(NOON, NOON + HOUR, NOON)


def test_http_json_asks_as_told_and_reads_numbers_that_are_texts(market, tmp_path):
    url, markets = market
    (tmp_path / "key").write_text("hush\n")
    source = make(url, base_dir=tmp_path, header="X-Key", token="file:key", unit_path="meta.unit", unit_is="USD/MWh")
    got = source.read(NOON, NOON + 2 * HOUR, NOON)
    assert values(got) == [(NOON, value_at(NOON)), (NOON + HOUR, value_at(NOON + HOUR))]
    _, query, headers = markets.requests[0]
    assert query == {"from": "2022-09-06T12:00:00Z", "to": "2022-09-06T14:00:00Z"}
    assert headers["X-Key"] == "hush"
    with pytest.raises(SourceError, match=r'unit_path: "USD/MWh", where EUR/MWh must stand'):
        make(url, unit_path="meta.unit", unit_is="EUR/MWh").read(NOON, NOON + HOUR, NOON)


@pytest.mark.parametrize(("stamp", "fields"), [
    (lambda at: at.timestamp(), {"time_format": "unix"}),
    (lambda at: at.timestamp() * 1000, {"time_format": "unix_ms"}),
    (lambda at: (at + HOUR).isoformat(), {"hour": "ending"}),
    (lambda at: at.astimezone(UTC).strftime("%d.%m.%Y %H:%M"), {"time_format": "%d.%m.%Y %H:%M"}),
])  # fmt: skip
def test_http_json_reads_stamps_as_they_are_declared(market, stamp, fields):
    url, markets = market
    markets.change = lambda rows: [{"t": stamp(datetime.fromisoformat(row["t"])), "p": row["p"]} for row in rows]
    got = make(url, **fields).read(NOON, NOON + 2 * HOUR, NOON)
    assert values(got) == [(NOON, value_at(NOON)), (NOON + HOUR, value_at(NOON + HOUR))]


@pytest.mark.parametrize(("day", "hours"), [((2022, 3, 26, 23), 23), ((2022, 10, 29, 22), 25)])
def test_http_json_places_local_stamps_on_days_of_23_and_25_hours(market, day, hours):
    from zoneinfo import ZoneInfo

    url, markets = market
    zone, start = ZoneInfo("Europe/Berlin"), utc(*day)
    markets.change = lambda rows: [
        row | {"t": f"{datetime.fromisoformat(row['t']).astimezone(zone):%Y-%m-%d %H:%M}"} for row in rows
    ]
    got = make(url, timezone="Europe/Berlin").read(start, start + hours * HOUR, start)
    assert values(got) == [(start + n * HOUR, value_at(start + n * HOUR)) for n in range(hours)]


@pytest.mark.parametrize(("fields", "said"), [
    ({"value": "p["}, "is not JMESPath"),
    ({"url": "http://127.0.0.1/{begin}"}, "nothing that can be filled in"),
    ({"unit_is": "EUR/MWh"}, "go together"),
    ({"url": "http://me:secret@127.0.0.1/"}, "pattern"),
])  # fmt: skip
def test_http_json_config_errors_say_what_is_wrong(fields, said):
    with pytest.raises(ValueError, match=said):
        make("http://127.0.0.1:1", **fields)
