"""Markets through the libraries that know them: the real libraries on stand-in web sites, and the child they run in."""

import time
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import pandas as pd
import pytest

from adapters import registry
from adapters.context import AdapterContext
from adapters.ports import SourceError
from adapters.signals import child, child_gridstatus
from adapters.signals.live import Ask, TryLater
from scheduler.clock import VirtualClock
from tests.support.iso_sites import in_process, iso_sites
from tests.support.markets import HOUR, value_at
from tests.support.signals import NOON, utc

DAY = timedelta(days=1)
LOCATIONS = {
    "CAISO": "TH_NP15_GEN-APND", "ERCOT": "HB_HUBAVG", "PJM": "51217", "MISO": "INDIANA.HUB", "NYISO": "WEST",
    "ISONE": ".H.INTERNAL_HUB", "SPP": "SPPNORTH_HUB",
}  # fmt: skip
ZONES = {"CAISO": "America/Los_Angeles", "ERCOT": "America/Chicago", "PJM": "America/New_York", "MISO": "EST",
         "NYISO": "America/New_York", "ISONE": "America/New_York", "SPP": "America/Chicago"}  # fmt: skip


@pytest.fixture
def make(tmp_path, monkeypatch):
    (tmp_path / "key").write_text("hush-hush")

    def made(now=NOON, currency="USD", **fields):
        monkeypatch.setattr(f"adapters.signals.{fields['type']}.ask_child", in_process)
        config = registry.config_model("signals", fields["type"]).model_validate({"id": "it", **fields})
        return registry.create("signals", config, AdapterContext(VirtualClock(now), tmp_path, currency=currency))

    return made


def gridstatus(market, **fields):
    key = {"key": "file:key"} if market == "PJM" else {}
    return {"type": "gridstatus", "market": market, "location": LOCATIONS[market], **key, **fields}


@pytest.mark.parametrize("market", LOCATIONS)
@pytest.mark.parametrize(
    ("now", "length"), [(utc(2022, 9, 6, 18), 24), (utc(2022, 11, 6, 20), 25), (utc(2022, 3, 13, 20), 23)]
)
def test_every_market_is_read_to_the_hour_on_days_of_23_24_and_25(make, market, now, length):
    zone = ZoneInfo(ZONES[market])
    today = now.astimezone(zone).date()
    start, end = (
        datetime(d.year, d.month, d.day, tzinfo=zone).astimezone(ZoneInfo("UTC")) for d in (today, today + DAY)
    )
    with iso_sites(today) as sites:
        sites.absent = today + DAY
        got = make(now, **gridstatus(market)).read(start, end + 2 * DAY, now)
    hours = length if market != "MISO" else 24
    inside = [(span.start, span.value) for span in got.spans if span.start >= start]
    assert inside == [(start + n * HOUR, value_at(start + n * HOUR)) for n in range(hours)]
    assert got.unit == "USD/MWh"


@pytest.mark.parametrize("market", LOCATIONS)
def test_tomorrow_is_told_once_it_is_there(make, market):
    with iso_sites() as sites:
        sites.absent = date(2022, 9, 8)
        got = make(**gridstatus(market)).read(NOON, NOON + 2 * DAY, NOON)
    midnight = datetime(2022, 9, 8, tzinfo=ZoneInfo(ZONES[market]))
    assert got.until(NOON) == midnight


@pytest.mark.parametrize(("market", "said"), [
    ("SPP", 'SPP: no values for location "HB_WEST"; there are SPPNORTH_HUB'),
    ("ISONE", 'ISONE: nothing came for location "HB_WEST"; does ISONE know it'),
])  # fmt: skip
def test_a_location_that_the_market_does_not_know_is_named(make, market, said):
    with iso_sites(), pytest.raises(SourceError, match=said):
        make(**gridstatus(market) | {"location": "HB_WEST"}).read(NOON, NOON + DAY, NOON)


def test_a_site_that_is_down_is_an_error_and_never_tells_the_key(make):
    with iso_sites() as sites:
        sites.status = 500
        for market in ("PJM", "NYISO", "MISO"):
            with pytest.raises(SourceError) as caught:
                make(**gridstatus(market)).read(NOON, NOON + DAY, NOON)
            assert str(caught.value).startswith(f"{market}: ")
            assert "hush" not in str(caught.value)


@pytest.mark.parametrize(("fields", "said"), [
    ({"market": "PJM", "location": "51217"}, "`key` is missing"),
    ({"market": "PJM", "location": "WESTERN HUB", "key": "file:key"}, "by number"),
    ({"market": "ERCOT", "location": None}, "`location` is missing"),
    ({"market": "ERCOT", "kind": "system_load", "unit": "USD/MWh"}, "MW for loads"),
    ({"market": "ERCOT", "location": "HB_WEST", "unit": "EUR/MWh"}, "USD/MWh"),
    ({"market": "AESO", "location": "x"}, "CAISO"),
])  # fmt: skip
def test_config_errors_say_what_is_missing(make, fields, said):
    with pytest.raises(ValueError, match=said):
        make(type="gridstatus", **fields)


# ---------------------------------------------------------------- the grid's load
class FakeIso:
    """An operator of the library, with the columns that its methods document."""

    default_timezone = "US/Central"

    def __init__(self, stamped=False):
        self.stamped = stamped

    def local_now(self):
        return pd.Timestamp(NOON).tz_convert(self.default_timezone)

    def get_load(self, date, end=None):
        times = pd.date_range(date, pd.Timestamp(NOON).tz_convert(self.default_timezone), freq="5min", inclusive="left")
        bounds = {} if self.stamped else {"Interval Start": times, "Interval End": times + pd.Timedelta("5min")}
        return pd.DataFrame({"Time": times, **bounds, "Load": [50_000.0 + n for n in range(len(times))]})

    def get_load_forecast(self, date):
        starts = pd.date_range(pd.Timestamp(NOON) - HOUR, periods=30, freq="h").tz_convert(self.default_timezone)
        frames = [
            pd.DataFrame({"Interval Start": starts, "Interval End": starts + HOUR, "Publish Time": published,
                          "System Total": value})
            for published, value in ((pd.Timestamp(NOON), 61_000.0), (pd.Timestamp(NOON) - HOUR, 9.0))
        ]  # fmt: skip
        return pd.concat(frames)


@pytest.mark.parametrize("stamped", [False, True])
def test_the_systems_load_is_metered_until_now_and_then_the_newest_forecast(monkeypatch, stamped):
    monkeypatch.setattr("gridstatus.Ercot", lambda: FakeIso(stamped))
    question = {
        "market": "ERCOT", "kind": "system_load", "start": (NOON - DAY).isoformat(), "end": (NOON + DAY).isoformat(),
        "now": NOON.isoformat(),
    }  # fmt: skip
    rows = child_gridstatus.rows(question)
    starts = [datetime.fromisoformat(row[0]) for row in rows]
    assert starts == sorted(set(starts))
    assert {row[2] for row in rows if row[0] >= NOON.isoformat()} == {61_000.0}
    assert rows[0][2] == 50_000.0
    assert max(datetime.fromisoformat(row[1]) for row in rows if row[2] != 61_000.0) == NOON


# ---------------------------------------------------------------- ENTSO-E
ENTSOE = {"type": "entsoe", "zone": "FR", "key": "file:key", "currency": "EUR"}


def test_entsoe_fills_repeated_points_that_the_document_leaves_out(make):
    with iso_sites() as sites:
        got = make(**ENTSOE).read(NOON, NOON + 12 * HOUR, NOON)
        assert "securityToken=hush-hush" in sites.asked[0]
    inside = [
        (span.start, span.end - span.start, span.value) for span in got.spans if NOON <= span.start < NOON + 12 * HOUR
    ]
    assert inside == [(NOON + n * HOUR, HOUR, value_at(NOON + n * HOUR) // 10 * 10) for n in range(12)]


@pytest.mark.parametrize(("change", "said"), [
    (lambda text: text.replace(">EUR<", ">PLN<"), "prices come in PLN, where EUR is declared"),
    (lambda text: text.replace(">MWH<", ">KWH<"), "prices come per KWH"),
])  # fmt: skip
def test_entsoe_in_another_currency_or_unit_is_refused(make, change, said):
    with iso_sites() as sites:
        sites.change = change
        with pytest.raises(SourceError, match=said):
            make(**ENTSOE).read(NOON, NOON + HOUR, NOON)


def test_entsoe_without_data_is_empty_and_no_error(make):
    nothing = (
        "<?xml version='1.0'?><Acknowledgement_MarketDocument><Reason><code>999</code>"
        "<text>No matching data found for Data item</text></Reason></Acknowledgement_MarketDocument>"
    )
    with iso_sites() as sites:
        sites.change = lambda _: nothing
        assert make(**ENTSOE).read(NOON, NOON + HOUR, NOON).spans == ()


def test_entsoe_bans_are_respected_and_unknown_zones_named(make):
    with iso_sites() as sites:
        sites.status = 429
        source = make(**ENTSOE)
        for _ in range(3):
            with pytest.raises(SourceError, match="ENTSO-E: HTTP 429"):
                source.read(NOON, NOON + HOUR, NOON)
        assert len(sites.asked) == 1
        with pytest.raises(SourceError, match='zone "XX" is not one'):
            make(**ENTSOE | {"zone": "XX"}).read(NOON, NOON + HOUR, NOON)


# ---------------------------------------------------------------- the child
@pytest.fixture
def probe(monkeypatch):
    monkeypatch.setattr(child, "MODULE", "tests.support.child_probe")

    def asked(library, timeout_s=20.0, **fields):
        ask = Ask(NOON, NOON + HOUR, NOON, time.monotonic() + timeout_s, NOON)
        return child.ask_child("MARKET", ask, {"library": library, "key": "hush-hush"}, fields.get("proxy"), None)

    return asked


def test_a_child_that_hangs_is_ended_at_the_deadline(probe):
    began = time.monotonic()
    with pytest.raises(SourceError, match="MARKET: no answer in time"):
        probe("hang", 0.5)
    assert time.monotonic() - began < 10


def test_a_child_that_dies_says_how_and_not_with_which_key(probe):
    with pytest.raises(SourceError, match=r"MARKET: the child ended with -9 \(MemoryError: no more for \*\*\*\)"):
        probe("die")


def test_a_child_that_says_something_else_has_no_answer(probe):
    with pytest.raises(SourceError, match="MARKET: the child ended with 0"):
        probe("babble")


def test_a_child_gets_nothing_of_the_daemons_environment_but_the_proxy_that_is_configured(probe, monkeypatch):
    monkeypatch.setenv("MY_SECRET", "hush")
    monkeypatch.setenv("HTTPS_PROXY", "http://elsewhere:1")
    with pytest.raises(SourceError) as caught:
        probe("environment", proxy="http://127.0.0.1:9")
    assert "HTTPS_PROXY,HTTP_PROXY" in str(caught.value)
    assert "SECRET" not in str(caught.value)


def test_the_real_child_answers_with_a_sentence_and_without_the_key():
    """Through a proxy that is not there: nothing leaves this machine."""
    ask = Ask(NOON, NOON + HOUR, NOON, time.monotonic() + 50, NOON)
    question = {"library": "entsoe", "zone": "FR", "currency": "EUR", "key": "hush-hush"}
    with pytest.raises(SourceError, match="ENTSO-E: ") as caught:
        child.ask_child("ENTSO-E", ask, question, "http://127.0.0.1:1", None)
    assert not isinstance(caught.value, TryLater)
    assert "hush" not in str(caught.value)
    assert "ended with" not in str(caught.value)


def test_a_library_that_is_not_installed_is_named_with_its_extra(make, monkeypatch):
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    with pytest.raises(registry.MissingExtra, match=r"pip install gridpace\[iso\]"):
        make(**gridstatus("SPP"))
