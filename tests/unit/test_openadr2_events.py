"""OpenADR 2.0b events as the library hands them over: steps, gaps, open ends, random starts, and what is refused."""

import asyncio
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from adapters.context import AdapterContext
from adapters.dr.openadr2 import IN, OUT, OpenAdr2Session
from adapters.dr.openadr2_book import Book, messages, next_held
from adapters.dr.openadr2_config import OpenAdr2Config
from adapters.dr.openadr2_event import read_event
from adapters.ports import EventRefused
from scheduler.clock import VirtualClock
from scheduler.ledger.ledger import Ledger, ProgramTerms
from scheduler.store.store import Store

START = datetime(2026, 7, 1, 12, tzinfo=UTC)
HOUR, ZERO, MOST = timedelta(hours=1), timedelta(0), timedelta(hours=12)
CONFIG = OpenAdr2Config.model_validate(
    {"type": "openadr2", "url": "http://127.0.0.1/x", "ven_name": "lab", "dispatch_unit": "MW",
     "delta": "negative_reduces", "levels": {"1": {"reduce_percent": 10}, "3": {"limit_kw": 38}}}
)  # fmt: skip
ABOUT = {"site": "lab", "program": "elrp", "source": "openadr2"}


def event(*intervals, signal="SIMPLE", kind="level", duration=None, tolerance=None, **about):
    total = sum((lasts for lasts, _ in intervals), ZERO) if duration is None else duration
    return {
        "event_descriptor": {"event_id": "e1", "modification_number": 0, "event_status": "far", **about},
        "active_period": {"dtstart": START, "duration": total, "tolerance": tolerance},
        "event_signals": [
            {"signal_name": signal, "signal_type": kind,
             "intervals": [{"duration": lasts, "signal_payload": value} for lasts, value in intervals]}
        ],
    }  # fmt: skip


def told(said, now=START - HOUR, held=None):
    asked = read_event(said, CONFIG)
    return messages(asked, next_held(held, asked, now, MOST), now, ABOUT)


def spans(message):
    return [((t.start - START) / HOUR, (t.end - START) / HOUR, t.limit_kw, t.reduce_percent) for t in message.targets]


def test_level_0_is_a_gap_that_makes_another_event_of_what_follows():
    first, second = told(event((HOUR, 1.0), (HOUR, 3.0), (HOUR, 0.0), (HOUR, 1.0)))
    assert (first.id, second.id) == ("e1", "e1.1")
    assert spans(first) == [(0, 1, None, 10), (1, 2, 38, None)]
    assert spans(second) == [(3, 4, None, 10)]


def test_a_part_that_is_there_no_more_is_withdrawn():
    asked = read_event(event((HOUR, 1.0), (HOUR, 0.0), (HOUR, 1.0)), CONFIG)
    held = next_held(None, asked, START, MOST)
    shorter = read_event(event((HOUR, 1.0)), CONFIG)
    both = messages(shorter, next_held(held, shorter, START, MOST), START, ABOUT)
    assert [(message.id, message.version, message.cancelled) for message in both] == [
        ("e1", 1, False),
        ("e1.1", 1, True),
    ]


def test_the_active_period_cuts_intervals_off():
    (only,) = told(event((HOUR, 1.0), (HOUR, 3.0), duration=HOUR * 1.5))
    assert spans(only) == [(0, 1, None, 10), (1, 1.5, 38, None)]


def test_duration_0_is_told_in_parts_with_rising_versions():
    said = read_event(event((ZERO, 3.0)), CONFIG)
    held = next_held(None, said, START, MOST)
    assert spans(messages(said, held, START, ABOUT)[0]) == [(0, 12, 38, None)]
    assert next_held(held, said, START + 5 * HOUR, MOST) == held
    later = next_held(held, said, START + 6 * HOUR, MOST)
    assert later.version == 1
    assert spans(messages(said, later, START + 6 * HOUR, ABOUT)[0]) == [(6, 18, 38, None)]


def test_a_random_start_is_drawn_once_and_kept_over_a_restart():
    store = Store.in_memory()
    said = event((HOUR, 1.0), tolerance={"tolerate": {"startafter": timedelta(minutes=30)}})
    asked = read_event(said, CONFIG)
    held = next_held(None, asked, START - HOUR, MOST)
    assert 0 < held.late_s < 1800
    Book(store, "elrp").keep("e1", held)
    again = Book(store, "elrp").held["e1"]
    assert next_held(again, asked, START, MOST) == held
    assert messages(asked, again, START, ABOUT)[0].start == START + timedelta(seconds=held.late_s)


def test_what_changes_from_poll_to_poll_is_no_new_version():
    first = read_event(event((HOUR, 1.0)), CONFIG)
    second = read_event(event((HOUR, 1.0), event_status="active", created_date_time=START), CONFIG)
    assert next_held(next_held(None, first, START, MOST), second, START, MOST).version == 0


@pytest.mark.parametrize(
    ("kind", "value", "field", "wanted"),
    [
        ("setpoint", 0.04, "limit_kw", 40.0),
        ("multiplier", 0.7, "reduce_percent", 30.0),
        ("delta", -0.005, "reduce_kw", 5.0),
    ],
)
def test_dispatch_in_the_units_and_by_the_sign_of_the_config(kind, value, field, wanted):
    ((message,)) = told(event((HOUR, value), signal="LOAD_DISPATCH", kind=kind))
    assert getattr(message.targets[0], field) == pytest.approx(wanted)


@pytest.mark.parametrize(("kind", "value"), [("multiplier", 1.2), ("delta", 0.005)])
def test_an_order_to_draw_more_asks_nothing(kind, value):
    assert told(event((HOUR, value), signal="LOAD_DISPATCH", kind=kind)) == []


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (event((ZERO, 1.0), (HOUR, 1.0)), "before the last"),
        (event((HOUR, 2.0)), "level 2"),
        (event((HOUR, float("nan"))), "no number"),
        (event((HOUR, -1.0), signal="LOAD_DISPATCH", kind="setpoint"), "below 0"),
        (event((HOUR, 1.0), signal="LOAD_CONTROL", kind="x-loadControlCapacity"), "ask nothing"),
        ({"event_descriptor": {"event_id": "e1", "modification_number": 0, "event_status": "far"}}, "cannot be read"),
        ({}, "event_descriptor"),
    ],
)
def test_what_is_refused_says_why(said, why):
    with pytest.raises(EventRefused, match=why):
        read_event(said, CONFIG)


@pytest.fixture
def session(tmp_path):
    """A session whose server's list is `listed`, over a ledger; `said` are its notes."""
    store = Store.in_memory()
    found = OpenAdr2Session(CONFIG, AdapterContext(VirtualClock(START - HOUR), tmp_path, store))
    found.ledger, found.said, found.listed, found.created = Ledger(store), [], [], {}

    def accept(message):
        load = {"baseline_kw": 60.0, "available_kw": 40.0, "now": START - HOUR}
        return found.ledger.accept(message, defaults=ProgramTerms(id="elrp"), **load)

    found._desk = SimpleNamespace(program="elrp", site="lab", longest=MOST, accept=accept, say=found.said.append)
    found._book = Book(store, "elrp")
    return found


def resync(session, *listed):
    async def request_event():
        return "oadrDistributeEvent", {"request_id": "r", "events": listed}

    async def created_event(request_id, event_id, opt, modification):
        session.created[event_id] = opt

    client = SimpleNamespace(request_event=request_event, created_event=created_event, responded_events={})
    asyncio.run(session._resynced(client))
    return [row.id for row in session.ledger.active(START)]


def test_an_event_without_an_id_hides_no_other_and_withdraws_none(session):
    one, other = event((HOUR, 3.0)), event((HOUR, 3.0), event_id="e2")
    nameless = event((HOUR, 3.0))
    del nameless["event_descriptor"]["event_id"]
    assert resync(session, one) == ["e1"]
    assert resync(session, nameless, other) == ["e1", "e2"], "the nameless one may be e1"
    assert session.created == {"e1": IN, "e2": IN}
    assert "event_id" in session.said[-1].text
    assert asyncio.run(session._on_event(nameless)) == OUT
    assert asyncio.run(session._on_event(event((HOUR, 3.0), event_id="\ud800"))) == OUT
    assert "surrogates" in session.said[-1].text
    assert resync(session, other) == ["e2"]


def test_an_event_that_comes_to_ask_nothing_is_not_declined(session):
    assert resync(session, event((HOUR, 3.0))) == ["e1"]
    assert resync(session, event((HOUR, 0.0), modification_number=1)) == []
    assert session.created == {"e1": IN}
    assert not session.said
