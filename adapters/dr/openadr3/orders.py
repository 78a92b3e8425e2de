"""From the events of one OpenADR 3 program to messages for the ledger: a pure function of what the server said.

Why a function and no state machine: duplicates, disorder, restarts and lost polls then can't matter. Whatever way the
present set of events came about, it gives the same messages, and the ledger compares them with what it holds.
Of events with the same kind of order the one of higher priority (lower number) holds where they overlap; of equal
ones both are handed on, and the ledger keeps the stricter.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, tzinfo
from itertools import pairwise
from typing import Any

from adapters.dr.openadr3.config import OpenAdr3Config
from adapters.dr.openadr3.intervals import MOST_SLOTS, Slot, Timeline, timeline
from adapters.dr.openadr3.objects import Descriptor, Event, described
from adapters.dr.openadr3.overlay import overlaid, strictest
from adapters.dr.openadr3.payloads import (
    CAPACITY,
    LIMIT,
    OBEYED,
    PRICES,
    RESERVATION,
    SUBSCRIPTION,
    Ask,
    Refused3,
    asks_of,
    is_order,
    kind_of,
    singly,
)
from adapters.dr.openadr3.times import FOREVER
from adapters.ports import EventMessage, EventTarget

MOST_TARGETS = 1000
"""More than so many targets of one order are handed over day by day."""
ROLL = timedelta(days=2)
LOWEST = 1_000_000
"""Priority of an event that states none."""


@dataclass(frozen=True)
class Known:
    """One event as the server last said it, and when that was first seen ("now" counts from there)."""

    event: Event
    raw: Mapping[str, Any]
    seen_at: datetime


@dataclass(frozen=True)
class Fault:
    """Something of an event that is not followed, for a person to see."""

    event_id: str
    text: str
    alert: bool = False
    conflict: bool = False


@dataclass
class _Order:
    """What one event asks of one kind."""

    known: Known
    kind: str
    asks: list[Ask]
    rolling: bool

    @property
    def priority(self) -> int:
        """Lower is more important."""
        priority = self.known.event.priority
        return LOWEST if priority is None else priority


@dataclass
class Orders:
    """Messages for the ledger, what is not followed, and the events that can't be read (what is held of them stays), or
    whose capacity limits can't (those stay)."""

    messages: list[EventMessage] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    unread: set[str] = field(default_factory=set)
    unread_limits: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Reader3:
    """Reads events of one program for one site. `descriptors` are the program's own."""

    config: OpenAdr3Config
    program: str
    site: str
    zone: tzinfo
    descriptors: Sequence[Descriptor] = ()

    def orders(self, known: Iterable[Known], now: datetime) -> Orders:
        """What the events ask from `now` on."""
        found, orders = Orders(), list[_Order]()
        for one in known:
            try:
                orders += self._orders_of(one, now, found)
            except ValueError as error:
                found.unread.add(one.event.id)
                found.faults.append(Fault(one.event.id, str(error), _may_limit(one.event)))
        _by_priority(orders, found)
        _with_subscriptions(orders, found)
        for order in orders:
            found.messages += self._messages(order, now)
        return found

    def _orders_of(self, known: Known, now: datetime, found: Orders) -> list[_Order]:
        """An event's asks by kind. Raises ValueError where its times can't be read."""
        event, orders, refused = known.event, list[_Order](), dict[str, None]()
        lines = {exact: self._timeline(known, randomized=not exact) for exact in (True, False)}
        if max(line.ends for line in lines.values()) <= now:
            return []
        kinds = {kind_of(p.type) for interval in event.intervals for p in interval.payloads} - PRICES
        for kind in sorted(kinds, key=_rank):
            line = lines[kind in CAPACITY]
            slots, rolling = _in_sight(line, now)
            before = len(refused)
            asks = self._asks(event, kind, slots, refused)
            if kind in CAPACITY and len(refused) > before:
                found.unread_limits.add(event.id)
            if asks:
                orders.append(_Order(known, kind, asks, rolling))
        found.faults += [Fault(event.id, text, _alarming(text)) for text in refused]
        if refused and not orders and any(is_order(kind) for kind in kinds):
            found.messages.append(self._refusal(known, lines[False], "; ".join(refused), now))
        return orders

    def _timeline(self, known: Known, randomized: bool) -> Timeline:
        return timeline(known.event, known.seen_at, f"{self.config.ven_name}/{self.site}", self.zone, randomized)

    def _asks(self, event: Event, kind: str, slots: Iterable[Slot], refused: dict[str, None]) -> list[Ask]:
        asks = list[Ask]()
        for slot in slots:
            for payload in (one for several in slot.payloads for one in singly(several)):
                if kind_of(payload.type) != kind:
                    continue
                descriptor = described(payload.type, event.payload_descriptors, self.descriptors)
                try:
                    asks += asks_of(slot, payload, descriptor, self.config)
                except Refused3 as error:
                    told = f" ({str(payload.values[0])[:128]})" if kind.startswith("ALERT_") and payload.values else ""
                    refused[f"{payload.type[:64]}{told}: {error}"] = None
                    if kind in {LIMIT, SUBSCRIPTION} and asks:  # what can't be read lifts no limit
                        asks.append(replace(asks[-1], target=replace(asks[-1].target, start=slot.start, end=slot.end)))
        return asks

    def _messages(self, order: _Order, now: datetime) -> list[EventMessage]:
        """One message for each unbroken run of targets that is not over."""
        event = order.known.event
        messages = []
        for lane, targets in enumerate(_lanes(order.asks)):
            runs = _runs(targets)
            for index, run in enumerate(runs):
                if run[-1].end <= now:
                    continue
                marks = [order.kind] if order.kind != _main_kind(event) else []
                # Runs of an event without end move with the days; only their times tell them apart.
                dated = index > 0 or (order.rolling and len(runs) > 1)
                marks += [f"{run[0].start:%Y%m%dT%H%M%SZ}"] if dated else []
                marks += [str(lane)] if lane else []
                messages.append(self._message(order, "~".join((event.id, *marks)), run))
        return messages

    def _message(self, order: _Order, name: str, run: Sequence[EventTarget]) -> EventMessage:
        event = order.known.event
        return EventMessage(
            id=name,
            version=0,
            site=self.site,
            start=run[0].start,
            end=run[-1].end,
            targets=tuple(run),
            priority=event.priority,
            hard=order.kind in CAPACITY,
            emergency=order.kind.startswith("ALERT_"),
            program=self.program,
            source="openadr3",
            name=(event.event_name or order.kind)[:128],
            raw={"event": plain(order.known.raw), "asked": [_plain_target(target) for target in run]},
            standing=order.rolling,
        )

    def _refusal(self, known: Known, line: Timeline, text: str, now: datetime) -> EventMessage:
        """A message that stands in the books for an event of which nothing can be followed."""
        start, end = (line.start, line.ends) if line.slots else (now, now)
        return EventMessage(
            id=known.event.id, version=0, site=self.site, start=start, end=end, targets=(), program=self.program,
            source="openadr3", name=(known.event.event_name or "")[:128], raw={"event": plain(known.raw)}, fault=text,
        )  # fmt: skip


def plain(raw: Mapping[str, Any]) -> dict[str, Any]:
    """An event without what servers change on their own: dates that have no zone and say nothing."""
    return {key: value for key, value in raw.items() if key.lower().replace("_", "") not in _OWN_DATES}


_OWN_DATES = {"createddatetime", "modificationdatetime"}


def _plain_target(target: EventTarget) -> list[Any]:
    values = target.limit_kw, target.reduce_kw, target.reduce_percent
    return [target.start.isoformat(), target.end.isoformat(), *values]


def _in_sight(line: Timeline, now: datetime) -> tuple[tuple[Slot, ...], bool]:
    """All slots of an event, or those of yesterday to tomorrow where it goes on for ever or for too many."""
    if line.ends < FOREVER:
        slots = line.between(line.start, line.ends)
        if len(slots) < min(MOST_TARGETS, MOST_SLOTS):
            return slots, False
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    shown = (slot for slot in line.between(midnight, midnight + ROLL) if slot.end > midnight)
    return tuple(slot.cut(midnight, midnight + ROLL) for slot in shown)[:MOST_TARGETS], True


def _by_priority(orders: list[_Order], found: Orders) -> None:
    """Where a more important order of the same kind overlaps, its value stands in the less important one; said."""
    by_kind = defaultdict[str, list[_Order]](list)
    for order in orders:
        if order.kind not in {SUBSCRIPTION, RESERVATION}:
            by_kind[order.kind].append(order)
    for kind, same in by_kind.items():
        covers: list[EventTarget] = []
        levels = sorted({order.priority for order in same})
        for priority in levels if len(levels) > 1 else ():
            level = [order for order in same if order.priority == priority]
            for order in level:
                kept = [piece for ask in order.asks for piece in overlaid(ask, covers)]
                if kept != order.asks:
                    said = "without priority" if priority == LOWEST else f"of priority {priority}"
                    text = f"{kind} {said} yields to events of higher priority where they overlap"
                    found.faults.append(Fault(order.known.event.id, text, conflict=True))
                order.asks = kept
            # What has been overlaid says the same as its cover there, so that the strictest of both is the cover's.
            covers = strictest([*covers, *(ask.target for order in level for ask in order.asks)])


def _with_subscriptions(orders: list[_Order], found: Orders) -> None:
    """A subscription, raised by what was reserved beside it, holds wherever no limit does."""
    reserved = [order for order in orders if order.kind == RESERVATION]
    if not any(order.kind == SUBSCRIPTION for order in orders):
        text = f"{RESERVATION}: there is no subscription that it could raise"
        found.faults += [Fault(order.known.event.id, text, alert=True) for order in reserved]
    limits = strictest([ask.target for order in orders if order.kind == LIMIT for ask in order.asks])
    extra = [ask.target for order in reserved for ask in order.asks]
    for order in orders:
        if order.kind == SUBSCRIPTION:
            raised = [piece for ask in order.asks for piece in _raised(ask, extra)]
            order.asks = [piece for ask in raised for piece in overlaid(ask, limits)]
    orders[:] = [order for order in orders if order.kind != RESERVATION]


def _raised(ask: Ask, extra: Sequence[EventTarget]) -> list[Ask]:
    """The ask in pieces, each with the capacity reserved for it."""
    span = ask.target
    mine = [one for one in extra if one.start < span.end and one.end > span.start]
    inner = {cut for one in mine for cut in (one.start, one.end) if span.start < cut < span.end}
    pieces = []
    for start, end in pairwise(sorted({span.start, span.end} | inner)):
        more = sum(one.limit_kw or 0.0 for one in mine if one.start <= start and one.end >= end)
        pieces.append(replace(ask, target=EventTarget(start, end, (span.limit_kw or 0.0) + more)))
    return pieces


def _lanes(asks: Sequence[Ask]) -> list[list[EventTarget]]:
    """Targets in rows in which none overlaps another, in the order of time."""
    lanes: list[list[EventTarget]] = []
    for target in sorted((ask.target for ask in asks), key=lambda target: (target.start, target.end)):
        lane = next((lane for lane in lanes if lane[-1].end <= target.start), None)
        if lane is None:
            lanes.append([target])
        else:
            lane.append(target)
    return lanes


def _runs(targets: Sequence[EventTarget]) -> list[list[EventTarget]]:
    """Targets that follow each other without a gap, together."""
    runs: list[list[EventTarget]] = []
    for target in targets:
        if runs and runs[-1][-1].end == target.start:
            runs[-1].append(target)
        else:
            runs.append([target])
    return runs


def _rank(kind: str) -> tuple[int, str]:
    """The order of obedience: hard caps, alerts, dispatch, levels."""
    if kind.startswith("ALERT_"):
        return len(CAPACITY), kind
    return (OBEYED.index(kind) + (kind not in CAPACITY), kind) if kind in OBEYED else (len(OBEYED) + 1, kind)


def _main_kind(event: Event) -> str:
    """The kind whose messages bear the event's own id."""
    kinds = {kind_of(payload.type) for interval in event.intervals for payload in interval.payloads}
    return min(kinds - {RESERVATION} or kinds, key=_rank)


def _may_limit(event: Event) -> bool:
    return any(kind_of(p.type) in CAPACITY for interval in event.intervals for p in interval.payloads)


def _alarming(text: str) -> bool:
    return "ALERT_" in text or "CAPACITY" in text
