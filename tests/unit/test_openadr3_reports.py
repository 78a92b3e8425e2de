"""Reports to an OpenADR 3 server: when they are due, what they hold, and that none is sent twice or made up."""

from datetime import UTC, timedelta
from zoneinfo import ZoneInfo

import pytest

from adapters.dr.openadr3.http import ServerError
from adapters.dr.openadr3.intervals import timeline
from adapters.dr.openadr3.objects import read_event
from adapters.dr.openadr3.schedule import due_reports, next_due_at
from adapters.dr.polled import EventFigures
from scheduler.store.store import Store
from tests.support.loops import START, lab
from tests.support.openadr3 import HOUR, MINUTE, NOON, feed, payload, period, server, simple
from tests.unit.test_openadr3_loops import channel


@pytest.fixture(autouse=True)
def _secrets(monkeypatch):
    monkeypatch.setenv("VEN_SECRET", "ven-secret")


def asking(count=6, start=NOON, each="PT1H", loops=None, **asked):
    intervals = [{"id": 10 + n, "payloads": [payload("SIMPLE", 0)]} for n in range(count)]
    event = {"id": "e1", "programID": "p1", "intervals": intervals} | period(start, each)
    event["reportDescriptors"] = [{"payloadType": "USAGE"} | asked]
    return event | ({"duration": loops} if loops else {})


def schedule(event, until=NOON + 48 * HOUR, step=HOUR / 2):
    """Every report as it comes due: (hour it is made, ids that it covers)."""
    read = read_event(event)
    asked, line = read.report_descriptors[0], timeline(read, NOON, "", UTC, False)
    found, last, now = [], -1, NOON
    while now <= until:
        for due in due_reports(read, line, asked, NOON, now, last):
            found.append(((due.at - NOON) / HOUR, [slot.id for slot in due.slots]))
            last = due.number
        now += step
    return found


def test_guide_8_3_all_defaults_are_one_report_after_the_last_interval_over_all_of_them():
    assert schedule(asking(3)) == [(3, [10, 11, 12])]
    assert schedule(asking(3, historical=False)) == [(0, [10, 11, 12])]


def test_guide_7_5_a_report_every_two_intervals():
    event = asking(startInterval=1, numIntervals=2, frequency=2, repeat=3)
    assert schedule(event) == [(2, [10, 11]), (4, [12, 13]), (6, [14, 15])]


def test_guide_7_5_rolling_forecasts():
    event = asking(startInterval=0, numIntervals=3, frequency=1, repeat=3, historical=False)
    assert schedule(event) == [(0, [10, 11, 12]), (1, [11, 12, 13]), (2, [12, 13, 14])]


def test_guide_7_5_a_subset_of_the_intervals():
    assert schedule(asking(startInterval=1, numIntervals=3)) == [(4, [11, 12, 13])]


def test_a_looping_event_reports_at_the_end_of_each_loop():
    found = schedule(asking(3, loops="PT9H"))
    assert found == [(3, [10, 11, 12]), (6, [10, 11, 12]), (9, [10, 11, 12])]
    assert len(schedule(asking(3, loops="P9999Y"))) == 16


def test_guide_8_7_an_implied_grid_gives_48_hours_every_hour():
    event = asking(0, startInterval=0, numIntervals=48, historical=False, frequency=1, repeat=-1)
    found = schedule(event, until=NOON + 3 * HOUR)
    assert [(at, ids[0], len(ids)) for at, ids in found] == [(0, 0, 48), (1, 1, 48), (2, 2, 48), (3, 3, 48)]


def test_an_implied_grid_without_a_zone_begins_by_the_zone_of_the_config():
    event = read_event(asking(0, start="2026-07-01T12:00:00", startInterval=0, numIntervals=1, frequency=1, repeat=-1))
    asked, line = event.report_descriptors[0], timeline(event, NOON, "", UTC, False)
    pacific = ZoneInfo("America/Los_Angeles")
    assert next_due_at(event, line, asked, NOON, NOON, pacific) == NOON + 8 * HOUR
    (first,) = due_reports(event, line, asked, NOON, NOON + 8 * HOUR, None, pacific)
    assert first.slots[0].start == NOON + 7 * HOUR


def test_do_it_now_and_late_events_are_not_back_filled():
    event = read_event(asking(6, startInterval=0, numIntervals=1, frequency=1, repeat=-1))
    asked, line = event.report_descriptors[0], timeline(event, NOON, "", UTC, False)
    (only,) = due_reports(event, line, asked, NOON + 4 * HOUR, NOON + 4 * HOUR, None)
    assert (only.number, only.slots[0].id) == (3, 13)
    first = due_reports(event, line, asked, NOON + 90 * MINUTE, NOON + 4 * HOUR, None)
    assert [due.number for due in first] == [1, 2, 3], "nor is what came due before the first was sent left out"
    later = due_reports(event, line, asked, NOON, NOON + 4 * HOUR, 1)
    assert [due.number for due in later] == [2, 3], "what was missed while the server was lost is sent"
    assert next_due_at(event, line, asked, NOON, NOON + 4 * HOUR) == NOON + 5 * HOUR
    assert next_due_at(event, line, asked, NOON, NOON + 6 * HOUR) is None


def test_an_endless_grid_of_seconds_costs_nothing_to_follow():
    event = read_event(asking(0, each="PT2S", startInterval=0, numIntervals=1, frequency=1, repeat=-1))
    asked, line = event.report_descriptors[0], timeline(event, NOON, "", UTC, False)
    now = NOON + timedelta(days=1)
    assert [due.at for due in due_reports(event, line, asked, now, now, None)] == [now]
    assert len(due_reports(event, line, asked, NOON, now, None)) <= 21
    assert next_due_at(event, line, asked, NOON, now) == now + timedelta(seconds=2)


USUAL = {"DEMAND": "KW", "BASELINE": "KW", "OPERATING_STATE": None, "LOAD_SHED_DELTA_AVAILABLE": "KW"}
"""Unit of a report where none is asked for."""


class Meter:
    """Figures that a test sets."""

    def __init__(self):
        self.kw, self.share, self.told = (
            4000.0,
            1.0,
            EventFigures(import_kw=4000.0, available_kw=900.0, baseline_kw=4500.0),
        )

    def measured_kw(self, start, end):
        return self.kw, self.share

    def planned_kw(self, start, end):
        return 3900.0

    def look(self, event_id):
        return self.told


def told(running):
    return list(running.vtn.objects["reports"].values())


def values(report):
    return [{p["type"]: p["values"][0] for p in i["payloads"]} for i in report["resources"][0]["intervals"]]


def put(running, event):
    running.vtn.put_event("p1", event["id"], **{k: v for k, v in event.items() if k not in {"id", "programID"}})


@pytest.mark.parametrize(
    ("kind", "units", "value", "quality"),
    [
        ("USAGE", None, 4000.0, "OK"),
        ("USAGE", "MWH", 4.0, "OK"),
        ("DEMAND", None, 4000.0, "OK"),
        ("READING", "KW", 4000.0, "OK"),
        ("BASELINE", None, 4500.0, "OK"),
        ("DELTA_USAGE", None, -500.0, "OK"),
        ("USAGE_FORECAST", None, 3900.0, "ESTIMATED"),
        ("LOAD_SHED_DELTA_AVAILABLE", None, 900.0, "ESTIMATED"),
        ("OPERATING_STATE", None, "RUNNING_NORMAL", "OK"),
    ],
)
def test_each_kind_of_report_is_sent_with_its_unit_and_quality(kind, units, value, quality):
    with server() as running, feed(running.url) as vtn:
        put(running, asking(1, payloadType=kind, units=units))
        vtn.poll(NOON)
        vtn.report(Meter(), NOON + HOUR)
        (report,) = told(running)
        assert values(report) == [{kind: value, "DATA_QUALITY": quality}]
        assert report["resources"][0]["intervals"][0]["id"] == 10
        times = report["resources"][0]["intervals"][0]["intervalPeriod"]
        assert times == {"start": "2026-07-01T12:00:00Z", "duration": "PT3600S"}
        assert report["payloadDescriptors"][0].get("units") == (units or USUAL.get(kind, "KWH"))


def test_case_25_what_was_not_measured_is_missing_and_never_a_zero():
    with server() as running, feed(running.url) as vtn:
        put(running, asking(1))
        vtn.poll(NOON)
        meter = Meter()
        meter.kw, meter.share = None, 0.0
        vtn.report(meter, NOON + HOUR)
        assert values(told(running)[0]) == [{"DATA_QUALITY": "MISSING"}]


def test_case_26_an_exporting_site_is_reported_as_it_is_and_never_as_a_zero():
    """The schema wants USAGE and DEMAND from 0 on; a zero would hide the export, so the sign is told."""
    with server() as running, feed(running.url) as vtn:
        put(running, asking(1))
        vtn.poll(NOON)
        meter = Meter()
        meter.kw = -250.0
        vtn.report(meter, NOON + HOUR)
        assert values(told(running)[0]) == [{"USAGE": -250.0, "DATA_QUALITY": "OK"}]


def test_what_was_measured_in_part_is_estimated():
    with server() as running, feed(running.url) as vtn:
        put(running, asking(1, aggregate=True))
        vtn.poll(NOON)
        meter = Meter()
        meter.share = 0.5
        vtn.report(meter, NOON + HOUR)
        assert values(told(running)[0]) == [{"USAGE": 4000.0, "DATA_QUALITY": "ESTIMATED"}]
        assert told(running)[0]["resources"][0]["resourceName"] == "AGGREGATED_REPORT"


def test_case_24_sub_intervals_repeat_the_events_ids():
    with server() as running, feed(running.url) as vtn:
        put(running, asking(1, each="PT10M", reportIntervals="SUB_INTERVALS"))
        vtn.poll(NOON)
        vtn.report(Meter(), NOON + HOUR)
        intervals = told(running)[0]["resources"][0]["intervals"]
        assert [(i["id"], i["intervalPeriod"]["duration"]) for i in intervals] == [(10, "PT300S"), (10, "PT300S")]


def test_a_report_is_sent_once_over_a_restart_and_after_an_answer_that_was_lost(tmp_path):
    store = Store.open(tmp_path / "books.db")
    with server() as running:
        put(running, asking(1))
        with feed(running.url, store) as vtn:
            vtn.poll(NOON)
            post = vtn.client.post

            def lost(path, body):
                post(path, body)
                raise ServerError("no answer in time")

            vtn.client.post = lost
            vtn.report(Meter(), NOON + HOUR)
            assert "reports are not taken" in vtn.poll(NOON + HOUR).notes[0].text
        with feed(running.url, store) as vtn:
            vtn.poll(NOON)
            vtn.report(Meter(), NOON + HOUR)
            vtn.report(Meter(), NOON + HOUR)
        assert len(told(running)) == 1
    store.close()


def test_a_report_that_can_not_be_made_is_said_by_name():
    with server() as running, feed(running.url) as vtn:
        put(running, asking(1, payloadType="STORAGE_CHARGE_LEVEL"))
        put(running, asking(1, payloadType="DEMAND", units="THERMS") | {"id": "e2"})
        vtn.poll(NOON)
        vtn.report(Meter(), NOON + HOUR)
        said = " ".join(note.text for note in vtn.poll(NOON).notes)
        assert "STORAGE_CHARGE_LEVEL is not reported by this site" in said
        assert "DEMAND in THERMS is not reported" in said
        assert told(running) == []


def test_an_ad_hoc_state_is_told_when_it_changes():
    with server() as running, feed(running.url) as vtn:
        put(running, asking(1, payloadType="OPERATING_STATE", frequency=0))
        vtn.poll(NOON)
        meter = Meter()
        for minute in range(4):
            vtn.report(meter, NOON + minute * MINUTE)
        meter.told = EventFigures(import_kw=1.0, state="active", opt="in", reason="cap")
        vtn.report(meter, NOON + 4 * MINUTE)
        states = [
            value["OPERATING_STATE"] for report in told(running) for value in values(report) if "DATA_QUALITY" in value
        ]
        assert states == ["RUNNING_NORMAL", "RUNNING_CURTAILED"]


def test_from_the_loops_what_was_measured_and_how_an_event_was_answered(tmp_path):
    with server() as running, lab(tmp_path, channel(running.url, "min_kw: 12,")) as made:
        made.run(2 * MINUTE, 60.0)
        event = simple(0, 0, start=START + 5 * MINUTE, each="PT10M")
        event["reportDescriptors"] = [{"payloadType": "DEMAND"}, {"payloadType": "USAGE_FORECAST", "historical": False}]
        put(running, event)
        put(running, simple(1, start=START + HOUR) | {"id": "small"})
        made.parts.feeds.turn("elrp")
        made.run(3 * MINUTE, 20.0)
        assert made.parts.feeds._due_s["elrp"] == 180, "the thread wakes when the forecast is due"
        made.parts.feeds.turn("elrp")
        made.run(24 * MINUTE, 20.0)
        made.parts.feeds.turn("elrp")
        by_type = {
            kind: value for report in told(running) for interval in values(report) for kind, value in interval.items()
        }
        assert by_type["DEMAND"] == pytest.approx(made.state.tick.import_kw["lab"], rel=0.2)
        assert by_type["USAGE_FORECAST"] > 0
        assert by_type["X_GRIDPACE_OPT"] == "out"
        assert "below the program's smallest reduction" in by_type["X_GRIDPACE_REASON"]
        assert by_type["X_GRIDPACE_OFFER_KW"] >= 12
