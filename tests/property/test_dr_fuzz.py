"""Whatever a utility's side sends, a channel takes it or refuses it by name, and raises nothing else."""

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from adapters.dr.dsxflex_book import Book
from adapters.dr.dsxflex_config import DsxFlexConfig
from adapters.dr.dsxflex_inbox import Inbox
from adapters.dr.dsxflex_jws import Keys
from adapters.dr.openadr2_book import messages, next_held
from adapters.dr.openadr2_config import OpenAdr2Config
from adapters.dr.openadr2_event import read_event
from adapters.ports import EventRefused
from scheduler.ledger.resolve import ProgramTerms, nameless, nonsense

NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)
DSX = DsxFlexConfig.model_validate(
    {"type": "dsxflex", "broker": "mqtt://127.0.0.1", "agent": "a", "isv": "acme", "feed": "main-a", "sign_kid": "k",
     "sign_key": "file:none", "unsigned": True}
)  # fmt: skip
ADR2 = OpenAdr2Config.model_validate(
    {"type": "openadr2", "url": "http://127.0.0.1/x", "ven_name": "lab", "dispatch_unit": "kW",
     "delta": "positive_reduces", "levels": {"1": {"reduce_percent": 10}}}
)  # fmt: skip

odd = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12), st.just([]), st.just({}),
    st.sampled_from(["0001-01-01T00:00:00Z", "9999-12-31T23:59:59+00:00", "2026-07-01T13:00:00Z", "now", "1e999"]),
    st.lists(st.integers(), max_size=2), st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
)  # fmt: skip


def twisted(draw, value):
    """A document in which some parts are something else."""
    if draw(st.integers(0, 11)) == 0:
        return draw(odd)
    if isinstance(value, dict):
        return {key: twisted(draw, item) for key, item in value.items() if draw(st.integers(0, 19))}
    return [twisted(draw, item) for item in value] if isinstance(value, list) else value


@st.composite
def load_targets(draw):
    kw = draw(st.sampled_from([{"value": 40, "unit": "kilowatt"}, None]))
    interval = {"start_time": "2026-07-01T13:00:00Z", "end_time": "2026-07-01T14:00:00Z"}
    good = {
        "specversion": "1.0.2", "id": str(UUID(int=draw(st.integers(0, 2**128 - 1)), version=4)),
        "source": "//grid/v1/isv/acme", "type": "grid.loadtarget.set.v1", "time": "2026-07-01T12:00:00Z",
        "datacontenttype": "application/json", "subject": "loadtarget", "traceparent": f"00-{'a' * 32}-{'b' * 16}-01",
        "data": {"targets": [{"interval": interval, "load_constraint": kw, "feed_tags": ["main-a"]}]},
    }  # fmt: skip
    return twisted(draw, good)


@given(load_targets())
def test_a_load_target_is_taken_or_refused(envelope):
    try:
        found = Inbox(DSX, Keys(())).read_targets(json.dumps(envelope).encode(), NOW, NOW)
    except EventRefused:
        return
    assert found is not None
    book = Book().painted(found.pieces)
    assert all(piece.start < piece.end and (piece.kw is None or piece.kw >= 0) for piece in book.pieces)


@given(st.binary(max_size=200))
def test_bytes_are_taken_or_refused(body):
    with suppress(EventRefused):
        Inbox(DSX, Keys(())).read_targets(body, NOW, NOW)


@st.composite
def events(draw):
    lasts = st.sampled_from([timedelta(0), timedelta(hours=1), timedelta(days=2_900_000)])
    value = st.sampled_from([0.0, 1.0, 40.0, -3.0])
    name, kind = draw(st.sampled_from([("SIMPLE", "level"), ("LOAD_DISPATCH", "setpoint"), ("LOAD_DISPATCH", "delta")]))
    intervals = [{"duration": draw(lasts), "signal_payload": draw(value)} for _ in range(draw(st.integers(1, 3)))]
    good = {
        "event_descriptor": {"event_id": "e1", "modification_number": 0, "event_status": "far", "priority": 1},
        "active_period": {
            "dtstart": draw(st.sampled_from([NOW, datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)])),
            "duration": draw(lasts),
        },
        "event_signals": [{"signal_name": name, "signal_type": kind, "intervals": intervals}],
    }
    return twisted(draw, good)


@given(events())
def test_a_2_0b_event_is_taken_or_refused(event):
    try:
        asked = read_event(event, ADR2)
        held = next_held(None, asked, NOW, timedelta(hours=12))
        found = messages(asked, held, NOW, {"site": "lab", "program": "p", "source": "s"})
    except EventRefused:
        return
    for message in found:
        nameless(message) or nonsense(message, ProgramTerms(), NOW)
