"""Prices and carbon from an OpenADR 3 server: read only, by the code that reads orders, held to unit and currency."""

from datetime import timedelta

import pytest

from adapters import registry
from adapters.context import AdapterContext
from adapters.ports import SourceError
from optimizer.reasons import Reason
from scheduler.clock import VirtualClock
from tests.support import openadr3
from tests.support.openadr3 import HOUR, NOON, payload, period, units


@pytest.fixture
def vtn():
    with openadr3.server() as running:
        yield running


def put(running, name, payloads, descriptor, **more):
    said = {"programID": "p1", "eventName": name, "payloadDescriptors": [descriptor]}
    said["intervals"] = [{"id": n, "payloads": [one]} for n, one in enumerate(payloads)]
    running.vtn._create("events", said | more, "bl", name)


def make(running, folder, **fields):
    (folder / "secret").write_text("ven-secret")
    fields = {"id": "utility", "type": "openadr3", "url": running.url, "program": "dr", "client_id": "ven",
              "client_secret": "file:secret", "timeout": "5s"} | fields  # fmt: skip
    config = registry.config_model("signals", "openadr3").model_validate(fields)
    clock = VirtualClock(NOON)
    return registry.create("signals", config, AdapterContext(clock, folder, currency="USD")), clock


def told(source, now=NOON):
    got = source.read(NOON - HOUR, NOON + 6 * HOUR, now)
    return [((span.start - NOON) / HOUR, round(span.value, 6)) for span in got.spans], got


def test_three_prices_in_one_interval_are_three_hours_and_per_mwh(vtn, tmp_path):
    put(
        vtn, "spot", [payload("PRICE", 0.17, 0.03, 0.11)], units("PRICE", "KWH", currency="USD"), **period(NOON, "PT3H")
    )
    source, _ = make(vtn, tmp_path)
    spans, got = told(source)
    assert spans == [(0, 170), (1, 30), (2, 110)]
    assert (got.unit, got.published_at) == ("USD/MWh", NOON)


def test_nothing_is_written_at_the_server(vtn, tmp_path):
    put(vtn, "spot", [payload("PRICE", 0.1)], units("PRICE", "KWH"), **period(NOON, "PT1H"))
    told(make(vtn, tmp_path)[0])
    written = [(method, path) for method, path in vtn.vtn.log if method != "GET"]
    assert {path.rpartition("/")[2] for _, path in written} <= {"token"}
    assert not vtn.vtn.objects["vens"]


def test_carbon_comes_in_grams_and_orders_are_left_alone(vtn, tmp_path):
    put(vtn, "co2", [payload("GHG", 300), payload("GHG", 250)], units("GHG", "GHG"), **period(NOON, "PT1H"))
    put(vtn, "cap", [payload("IMPORT_CAPACITY_LIMIT", 9)], units("IMPORT_CAPACITY_LIMIT", "KW"), **period(NOON, "PT1H"))
    spans, got = told(make(vtn, tmp_path, kind="carbon")[0])
    assert (spans, got.unit) == ([(0, 300), (1, 250)], "g/kWh")


@pytest.mark.parametrize(("descriptor", "said"), [
    (units("PRICE", "KWH", currency="EUR"), "it is in EUR, but the config is in USD"),
    (units("PRICE", "THERMS"), "not a unit of energy"),
])  # fmt: skip
def test_another_currency_or_unit_is_an_error_with_the_events_id(vtn, tmp_path, descriptor, said):
    put(vtn, "spot", [payload("PRICE", 0.1)], descriptor, **period(NOON, "PT1H"))
    with pytest.raises(SourceError, match=rf"event spot: PRICE: .*{said}"):
        told(make(vtn, tmp_path)[0])


def test_a_malformed_event_hides_no_other_and_a_withdrawn_price_is_gone(vtn, tmp_path):
    put(vtn, "spot", [payload("PRICE", 0.1)], units("PRICE", "KWH"), **period(NOON, "PT1H"))
    put(vtn, "next", [payload("PRICE", 0.2)], units("PRICE", "KWH"), **period(NOON + HOUR, "PT1H"))
    vtn.vtn.objects["events"]["odd"] = {
        "id": "odd", "programID": "p1", "intervals": "none", "objectType": "EVENT", "modificationDateTime": "x",
    }  # fmt: skip
    source, clock = make(vtn, tmp_path)
    spans, got = told(source)
    assert spans == [(0, 100), (1, 200)]
    assert [note.code for note in got.notes] == [Reason.EVENT_UNREAD]
    del vtn.vtn.objects["events"]["next"], vtn.vtn.objects["events"]["odd"]
    clock.sleep(301)
    spans, got = told(source, clock.now())
    assert (spans, got.notes) == ([(0, 100)], ())


def test_an_event_whose_values_are_no_prices_hides_no_other_and_is_named(vtn, tmp_path):
    put(vtn, "spot", [payload("PRICE", 0.1)], units("PRICE", "KWH"), **period(NOON, "PT1H"))
    put(vtn, "odd", [payload("PRICE", "n/a")], units("PRICE", "KWH"), **period(NOON + HOUR, "PT1H"))
    put(vtn, "euro", [payload("PRICE", 1)], units("PRICE", "KWH", currency="EUR"), **period(NOON + HOUR, "PT1H"))
    spans, got = told(make(vtn, tmp_path)[0])
    assert spans == [(0, 100)]
    assert [note.code for note in got.notes] == [Reason.EVENT_UNREAD] * 2
    said = " ".join(note.text for note in got.notes)
    assert "event odd: PRICE: 'n/a' is not a number" in said
    assert "event euro: PRICE: it is in EUR" in said


def test_a_server_that_is_lost_leaves_its_prices_with_their_age(vtn, tmp_path):
    put(vtn, "spot", [payload("PRICE", 0.1)], units("PRICE", "KWH"), **period(NOON, "PT1H"))
    source, clock = make(vtn, tmp_path)
    told(source)
    vtn.vtn.users = {}
    vtn.vtn.tokens.clear()
    clock.sleep(3000)
    spans, got = told(source, clock.now())
    assert (spans, got.published_at) == ([(0, 100)], NOON)
    assert [note.code for note in got.notes] == [Reason.STALE_SIGNAL]


@pytest.mark.parametrize(("fields", "said"), [
    ({"payload": "GHG"}, "GHG is carbon"),
    ({"url": "http://vtn.example.net/x"}, "not encrypted"),
    ({"client_secret": None}, "go together"),
    ({"unit": "USD/kWh"}, "None"),
])  # fmt: skip
def test_config_errors(vtn, tmp_path, fields, said):
    with pytest.raises(ValueError, match=said):
        make(vtn, tmp_path, **fields)


def test_the_default_refresh_is_five_minutes(vtn, tmp_path):
    source, clock = make(vtn, tmp_path)
    for _ in range(3):
        told(source)
    asked = len(vtn.vtn.log)
    told(source)
    assert len(vtn.vtn.log) == asked > 0
    clock.sleep(timedelta(minutes=6).total_seconds())
    told(source, clock.now())
    assert len(vtn.vtn.log) > asked
