"""One suite over every signal source, its simulated twin included: what the port promises, whoever implements it."""

import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from math import isfinite

import pytest

from adapters import registry
from tests.support import openadr3
from tests.support.iso_sites import in_process, iso_sites
from tests.support.markets import serving, urdb_rate
from tests.support.signals import NOON, context, utc

HOUR = timedelta(hours=1)
HOURS = [0.3 + hour / 100 for hour in range(24)]
SAMPLES = {
    "awattar": {"country": "DE"},
    "electricity_maps": {"zone": "DE", "token": "file:key", "past": True, "forecast": True},
    "entsoe": {"zone": "FR", "key": "file:key"},
    "gridstatus": {"market": "CAISO", "location": "TH_NP15_GEN-APND", "history": "700d"},
    "http_json": {"rows": "data.prices", "time": "t", "value": "p.amount", "interval": "1h"},
    "octopus": {"tariff": "E-1R-AGILE-24-10-01-C"},
    "uk_carbon": {},
    "urdb": {"path": "rate.json", "timezone": "America/Chicago"},
    "watttime": {"region": "CAISO_NORTH", "username": "gridpace", "password": "file:key"},
    "constant": {"value": 81.5},
    "profile": {"hours": HOURS, "kind": "load", "timezone": "Asia/Kathmandu"},
    "simulated": {"faults": {"nan_share": 0.0, "gap_share": 0.1}},
    "csv": {"path": "prices.csv", "publication": "day_ahead"},
    "openadr3": {"program": "dr", "client_id": "ven", "client_secret": "file:vtn"},
    "tariff": {
        "timezone": "Europe/Berlin",
        "country": "DE",
        "periods": [
            {"name": "day", "price": 90, "hours": ["06:00-22:00"]},
            {"name": "night", "price": 60, "hours": ["22:00-06:00"]},
        ],
    },
}


CURRENCIES = {"awattar": "EUR", "entsoe": "EUR", "octopus": "GBP"}
UNITS = {
    "awattar": "EUR/MWh",
    "entsoe": "EUR/MWh",
    "octopus": "GBP/MWh",
    "profile": "fraction",
    "uk_carbon": "g/kWh",
    "watttime": "g/kWh",
    "electricity_maps": "g/kWh",
}
PATHS = {"http_json": "/own/?from={start}&to={end}"}


@pytest.fixture(scope="module")
def services():
    with serving() as (url, _):
        yield url


@pytest.fixture(scope="module")
def vtn():
    """A server of ours with a year of hourly prices."""
    prices = [{"id": n, "payloads": [openadr3.payload("PRICE", 0.02 + n % 24 / 1000)]} for n in range(48)]
    said = {"programID": "p1", "eventName": "spot", "intervals": prices}
    said |= {"payloadDescriptors": [openadr3.units("PRICE", "KWH", currency="USD")]}
    with openadr3.server() as running:
        running.vtn._create("events", said | openadr3.period(NOON - 24 * HOUR, "PT1H"), "bl", "e1")
        yield running.url


@pytest.fixture
def libraries(request, monkeypatch):
    """What libraries ask in a child, asked in this process of stand-ins."""
    name = request.node.callspec.params["source"]
    if name not in {"entsoe", "gridstatus"}:
        yield
        return
    monkeypatch.setattr(f"adapters.signals.{name}.ask_child", in_process)
    with iso_sites():
        yield


@pytest.fixture(params=sorted(registry.BUILTIN["signals"]))
def source(request, tmp_path, services, libraries, vtn):
    rows = "".join(f"{NOON + n * HOUR:%Y-%m-%dT%H:%M:%SZ},{n}\n" for n in range(-48, 48))
    (tmp_path / "prices.csv").write_text("t,p\n" + rows)
    (tmp_path / "key").write_text("hush")
    (tmp_path / "vtn").write_text("ven-secret")
    (tmp_path / "rate.json").write_text(json.dumps(urdb_rate()))
    fields = {"id": "it", "type": request.param} | SAMPLES[request.param]
    model = registry.config_model("signals", request.param)
    if request.param == "openadr3":
        fields["url"] = vtn
    elif "url" in model.model_fields:
        fields["url"] = services + PATHS.get(request.param, "")
    currency = CURRENCIES.get(request.param, "USD")
    return registry.create("signals", model.model_validate(fields), context(tmp_path, currency))


WINDOWS = [
    (NOON - HOUR, NOON + 6 * HOUR),
    (NOON + timedelta(minutes=7), NOON + timedelta(minutes=22)),
    (utc(2021, 11, 7), utc(2021, 11, 9)),
    (utc(2022, 3, 26), utc(2022, 3, 29)),
]


@pytest.mark.parametrize("window", WINDOWS)
def test_spans_are_utc_sorted_apart_finite_and_touch_the_window(source, window):
    start, end = window
    got = source.read(start, end, NOON)
    for span in got.spans:
        assert span.start.tzinfo is UTC
        assert span.end.tzinfo is UTC
        assert span.start < span.end
        assert isfinite(span.value)
        assert span.end > start
        assert span.start < end
    assert all(left.end <= right.start for left, right in pairwise(got.spans))
    assert got.published_at is None or got.published_at <= NOON


def test_name_and_unit_are_those_of_the_config(source, request):
    got = source.read(NOON, NOON + HOUR, NOON)
    assert got.name == "it"
    assert got.unit == UNITS.get(request.node.callspec.params["source"], "USD/MWh")


def test_the_same_moment_has_the_same_value_in_any_window(source):
    wide = source.read(NOON - 12 * HOUR, NOON + 12 * HOUR, NOON)
    for minutes in range(-600, 600, 45):
        at = NOON + timedelta(minutes=minutes)
        assert source.read(at, at + timedelta(minutes=10), NOON).at(at) == wide.at(at)


def test_what_is_known_never_shrinks_as_time_passes(source):
    def known(now: datetime):
        return {(span.start, span.value) for span in source.read(NOON - 24 * HOUR, NOON + 24 * HOUR, now).spans}

    moments = [NOON + hour * 3 * HOUR for hour in range(-4, 5)]
    assert all(known(earlier) <= known(later) for earlier, later in pairwise(moments))


def test_every_source_has_a_sample_here():
    assert set(SAMPLES) == set(registry.BUILTIN["signals"])
