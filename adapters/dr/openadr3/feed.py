"""A utility's OpenADR 3 server as a channel: what it says at present becomes messages for the ledger.

Why polling is the truth: notifications come twice, late, out of order or never, and a retained one may speak of an
event that is gone. A call or a message only makes us read. What is missing from a whole and successful reading was
withdrawn; an error, or half a list, withdraws nothing, and what was said last goes on by its own times.
"""

from __future__ import annotations

import hmac
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from typing import Any

from adapters.context import AdapterContext
from adapters.dr.openadr3.config import OpenAdr3Config
from adapters.dr.openadr3.http import ServerError, VtnClient
from adapters.dr.openadr3.intervals import timeline
from adapters.dr.openadr3.listener import Listener
from adapters.dr.openadr3.objects import Descriptor, Event, MalformedEvent, Program, read_event, target_names
from adapters.dr.openadr3.orders import Fault, Known, Reader3, plain
from adapters.dr.openadr3.party import Party
from adapters.dr.openadr3.reports import Reports
from adapters.dr.openadr3.times import read_moment
from adapters.dr.polled import FeedNews, SiteFigures
from adapters.fields import parse_zone
from adapters.ports import AdapterError, EventRefused
from optimizer.reasons import Note, Reason, Severity

KIND = "openadr3_event"
"""Kind of the records of events whose times count from when they were first seen, or that have no end."""
FORGET_S = 7 * 86_400.0
SKEW_SAID_S = 10.0
MOST_FAULTS = 50
CUE_LIMIT = 1024 * 1024


@dataclass(frozen=True)
class _Seen:
    """The events of one whole reading, and those that could not be read by id ("" for nameless ones)."""

    events: Mapping[str, Known]
    malformed: Mapping[str, str]


class OpenAdr3:
    """`EventFeed` of one program. `context.extras` carries `program` and `site`, the ids in the config."""

    Config = OpenAdr3Config

    def __init__(self, config: OpenAdr3Config, context: AdapterContext) -> None:
        self.config, self._context = config, context
        self.program_id, self.site = str(context.extras["program"]), str(context.extras["site"])
        self.client = VtnClient(config, context, time.monotonic)
        self.party = Party(config, self.client, config.program or self.program_id, self.site)
        self._zone = parse_zone(config.timezone)
        self._lock = threading.Lock()
        self._known = _remembered(context, self.program_id)
        self._malformed: Mapping[str, str] = {}
        self._descriptors: Sequence[Descriptor] = ()
        self._read = False
        self._lost = self._unenrolled = self._untold = ""
        self.on_cue: Callable[[], None] = lambda: None
        """Called when the server said over MQTT that something changed; set by whoever polls."""
        self._listener = Listener(config, self.client, self.party, context, self._heard)
        self._reports = Reports(config, self.client, self.party, context.records, self.program_id)

    # ------------------------------------------------------------ EventFeed
    def poll(self, now: datetime) -> FeedNews:
        """See `EventFeed`."""
        with self._lock:
            self._ask(now)
            reader = Reader3(self.config, self.program_id, self.site, self._zone, self._descriptors)
            orders = reader.orders(self._known.values(), now)
            unread = orders.unread | set(self._malformed)
            malformed = [Fault(name or "(without an id)", text, True) for name, text in self._malformed.items()]
            return FeedNews(
                messages=tuple(orders.messages),
                complete=self._read,
                unread=frozenset(unread),
                unread_limits=frozenset(orders.unread_limits),
                notes=self._notes([*malformed, *orders.faults, *self._reports.faults], now),
            )

    def report(self, figures: SiteFigures, now: datetime) -> datetime | None:
        """See `EventReporter`."""
        with self._lock:
            known = tuple(self._known.values()) if self._read and not self._lost else ()
        try:
            following = self._reports.send(known, figures, self._zone, now)
            self._untold = ""
        except ServerError as error:
            following, self._untold = None, str(error)
        return following

    def cue(self, headers: Mapping[str, str], body: bytes) -> None:
        """Check the bearer token of a call. What it says is not used: it may be doubly encoded, old, or about another
        program. Raises EventRefused."""
        if len(body) > CUE_LIMIT:
            raise EventRefused(f"the body is larger than {CUE_LIMIT} bytes", 413)
        secret = self.config.callback_secret
        given = {name.lower(): value for name, value in headers.items()}.get("authorization", "")
        expected = f"Bearer {secret.reveal(self._context.base_dir)}" if secret is not None else ""
        if not expected or not hmac.compare_digest(given.encode(), expected.encode()):
            raise EventRefused("not authenticated", 401)
        told = notification(body)
        if told is None:
            raise EventRefused("the body is not a notification", 400)

    def close(self) -> None:
        """End the connections."""
        self._listener.close()
        self.client.close()

    def check(self) -> str:
        """Read once, changing nothing there, and say what there is. Raises AdapterError."""
        program = self.party.program()
        count = len(self._events(program))
        return f'program "{self.party.name}" with {count} events'

    # ------------------------------------------------------------ what others read
    def known(self) -> tuple[tuple[Known, ...], Sequence[Descriptor]]:
        """The events as last said, prices among them, and the program's descriptors: for prices and for reports."""
        with self._lock:
            return tuple(self._known.values()), self._descriptors

    # ------------------------------------------------------------ reading
    def _heard(self) -> None:
        self.on_cue()

    def _ask(self, now: datetime) -> None:
        """Read the server's events; when anything fails, all stays as it was and is said."""
        try:
            program = self.party.program()
            self._enrol()
            items = self._events(program)
        except ServerError as error:
            self._lost = str(error)
            self.party.enrolled = False  # a server that comes back may have forgotten us
            return
        seen = self._seen(items, program, now)
        self._remember(seen.events)
        self._known, self._malformed, self._read, self._lost = dict(seen.events), seen.malformed, True, ""
        self._descriptors = program.payload_descriptors if program is not None else ()

    def _enrol(self) -> None:
        """Make our objects there. What the server does not let us make is said and keeps no event from being read."""
        config = self.config
        callback = f"{config.callback.rstrip('/')}/dr/{self.program_id}" if config.callback else ""
        token = config.callback_secret.reveal(self._context.base_dir) if config.callback_secret is not None else ""
        try:
            self.party.enrol(callback, token)
            if config.mqtt:
                self._listener.ensure()
            self._unenrolled = ""
        except AdapterError as error:
            self._unenrolled = str(error)

    def _events(self, program: Program | None) -> list[Any]:
        """All events. Over several pages one may slip through while others come and go, so that what then seems to be
        gone is asked once more."""
        if program is None:
            return []
        query: dict[str, Any] = {"programID": program.id} | self.party.target_query()
        items, whole = self.client.every("/events", **query)
        if not whole and set(self._known) - {_text(item, "id") for item in items}:
            again, _ = self.client.every("/events", **query)
            items = [*{_text(item, "id"): item for item in [*items, *again]}.values()]
        return items

    def _seen(self, items: Sequence[Any], program: Program | None, now: datetime) -> _Seen:
        """Event by event, so that a malformed one hides no other; one that was right before keeps its last word."""
        events: dict[str, Known] = {}
        malformed: dict[str, str] = {}
        for raw in items:
            if program is not None and _text(raw, "programID", "program_id") not in {"", program.id}:
                continue  # some servers ignore the filter
            former = self._known.get(_text(raw, "id"))
            if former is not None and former.raw == raw:
                events[former.event.id] = former
                continue
            try:
                event = read_event(raw)
            except MalformedEvent as error:
                malformed[error.event_id] = str(error)
                if former is not None:
                    events[former.event.id] = former
                continue
            if self._meant_for_us(event):
                seen_at = former.seen_at if former is not None and _same_times(former.event, event) else now
                events[event.id] = Known(event, raw, seen_at)
        return _Seen(events, malformed)

    def _meant_for_us(self, event: Event) -> bool:
        names = target_names(event.targets)
        ours = {*self.config.targets, self.config.ven_name, self.config.resource or self.config.ven_name}
        return not (names and self.config.targets) or bool(names & ours)

    # ------------------------------------------------------------ memory
    def _remember(self, events: Mapping[str, Known]) -> None:
        """Keep what a restart could not find out again, before anything is made of it."""
        records = self._context.records
        if records is None:
            return
        for name, known in events.items():
            former = self._known.get(name)
            if former is not None and (former.raw, former.seen_at) == (known.raw, known.seen_at):
                continue
            if _needs_memory(known) or (former is not None and _needs_memory(former)):
                value = {"raw": dict(known.raw), "seen_at": known.seen_at.isoformat()}
                records.put(KIND, f"{self.program_id}/{name}", value)
        for name in set(self._known) - set(events):
            if _needs_memory(self._known[name]):
                records.put(KIND, f"{self.program_id}/{name}", {"forget_after_s": FORGET_S})

    # ------------------------------------------------------------ what people are told
    def _notes(self, faults: Sequence[Fault], now: datetime) -> tuple[Note, ...]:
        notes = [
            Note(
                Reason.EVENT_CONFLICT if fault.conflict else Reason.EVENT_UNREAD,
                fault.event_id,
                f"event {fault.event_id} of {self.program_id}: {fault.text}",
                Severity.INFO if fault.conflict else Severity.ALERT if fault.alert else Severity.WARNING,
                now,
            )
            for fault in _joined(faults)[:MOST_FAULTS]
        ]
        place = f"program {self.program_id}"
        if self._lost:
            text = f"{place}: {self._lost}; what was ordered before stays in force"
            notes.append(Note(Reason.CHANNEL_LOST, self.program_id, text, Severity.ALERT, now))
        elif self.party.missing:
            notes.append(
                Note(Reason.CHANNEL_LOST, self.program_id, f"{place}: {self.party.missing}", Severity.ALERT, now)
            )
        if self._unenrolled and not self._lost:
            text = f"{place}: events are read, but we are not enrolled: {self._unenrolled}"
            notes.append(Note(Reason.CHANNEL_LOST, f"{self.program_id} enrolment", text, Severity.WARNING, now))
        if self._listener.trouble:
            text = (
                f"{place}: MQTT: {self._listener.trouble}; events are read every {self.config.poll.total_seconds():g} s"
            )
            notes.append(Note(Reason.CHANNEL_LOST, f"{self.program_id} notifier", text, Severity.WARNING, now))
        if self._untold and not self._lost:
            text = f"{place}: reports are not taken: {self._untold}"
            notes.append(Note(Reason.CHANNEL_LOST, f"{self.program_id} reports", text, Severity.WARNING, now))
        if not self.config.verify:
            text = f"{place}: the server's certificate is not checked; anybody in between can send events"
            notes.append(Note(Reason.CHANNEL_LOST, f"{self.program_id} certificate", text, Severity.WARNING, now))
        skew_s = self.client.skew_s
        if skew_s is not None and abs(skew_s) > SKEW_SAID_S:
            text = f"{place}: the server's clock is {skew_s:+.0f} s from ours; events begin by ours"
            notes.append(Note(Reason.CLOCK_STEP, f"{self.program_id} server", text, Severity.WARNING, now))
        return tuple(notes)


def notification(body: bytes) -> Mapping[str, Any] | None:
    """A notification's fields, also where the JSON stands in a JSON string; None when it is none."""
    try:
        told = json.loads(body)
        told = json.loads(told) if isinstance(told, str) else told
    except (ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) else None


def _joined(faults: Sequence[Fault]) -> list[Fault]:
    """One fault an event and kind of fault, all texts in it."""
    found: dict[tuple[str, bool], Fault] = {}
    for fault in faults:
        key = fault.event_id, fault.conflict
        held = found.get(key)
        merged = replace(fault, text=f"{held.text}; {fault.text}", alert=held.alert or fault.alert) if held else fault
        found[key] = merged
    return list(found.values())


def _needs_memory(known: Known) -> bool:
    """Whether its times can't be told from what the server says alone, or it must go on without the server."""
    event = known.event
    periods = [event.interval_period, *(interval.interval_period for interval in event.intervals)]
    try:
        counted = any(p.start and read_moment(p.start) is None for p in periods if p is not None)
        line = timeline(event, known.seen_at, "")
    except ValueError:
        return False
    return counted or line.standing or line.every is not None


def _same_times(one: Event, other: Event) -> bool:
    return _times(one) == _times(other)


def _times(event: Event) -> str:
    said = [event.duration, event.interval_period, [(i.interval_period, i.payloads) for i in event.intervals]]
    return sha256(repr(said).encode()).hexdigest()


def _text(raw: Any, *names: str) -> str:
    found = next((raw[name] for name in names if name in raw), "") if isinstance(raw, Mapping) else ""
    return found if isinstance(found, str) else ""


def _remembered(context: AdapterContext, program: str) -> dict[str, Known]:
    """Events that an earlier run kept."""
    found = {}
    records = context.records.all(KIND) if context.records is not None else {}
    for key, value in records.items():
        if key.startswith(f"{program}/") and "raw" in value:
            event = read_event(value["raw"])
            found[event.id] = Known(event, value["raw"], datetime.fromisoformat(value["seen_at"]))
    return found


__all__ = ["OpenAdr3", "notification", "plain"]
