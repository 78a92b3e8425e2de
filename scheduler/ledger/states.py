"""One row of the event ledger, and which state it is in at any moment.

Why states are computed and not stepped: a clock that jumps an hour ahead and comes back must find the event where it
was. A row holds what was agreed and what was withdrawn; its state is a pure function of row and time.

    received -> refused
    received -> scheduled -> near -> ramping_in -> active -> ramping_out -> done
    received -> awaiting -> declined, or scheduled and on (a voluntary event)
    cancelled and superseded end a row: at once before its start, by its ramp out once it has begun
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from optimizer.domain import GridEvent, Span
from optimizer.envelope import event_limit_kw

INSTANT = timedelta(microseconds=1)


class EventState(StrEnum):
    """Life of one version of an event."""

    RECEIVED = "received"
    REFUSED = "refused"
    AWAITING = "awaiting"
    DECLINED = "declined"
    SCHEDULED = "scheduled"
    NEAR = "near"
    RAMPING_IN = "ramping_in"
    ACTIVE = "active"
    RAMPING_OUT = "ramping_out"
    DONE = "done"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"


@dataclass(frozen=True)
class EventRow:
    """One version of an event as the ledger holds it.

    `key` is program/id, `number` the order of receipt, `due_from` the moment from which the target is fully owed,
    `target_kw` the strictest cap that was asked (inf: none).
    `voided`: it puts no cap on anything (any more). `cancelled_version`: highest version that was withdrawn.
    `withdrawn_by`: the operator who withdrew it. `opt`: "in", "out", or "pending" for a voluntary event that is not
    answered yet and will be by `answer_by`. `rank`: its program's among ranked ones; `hard`: it yields to no priority.
    """

    key: str
    version: int
    event: GridEvent
    received_at: datetime
    due_from: datetime
    near_s: float
    answer: str
    number: int
    target_kw: float
    refused: bool = False
    voided: bool = False
    cancelled: bool = False
    superseded: bool = False
    cancelled_version: int = -1
    withdrawn_by: str = ""
    opt: str = "in"
    answer_by: datetime | None = None
    rank: int | None = None
    hard: bool = False

    @property
    def id(self) -> str:
        """Key of this version."""
        return f"{self.key}#{self.version}"

    @property
    def binds(self) -> bool:
        """True when it caps, capped or will cap something."""
        return not (self.refused or self.voided) and self.opt == "in"

    @property
    def pending(self) -> bool:
        """True when it waits for the site's answer."""
        return not (self.refused or self.voided) and self.opt == "pending"

    @property
    def released_at(self) -> datetime:
        """End of the ramp out."""
        return self.event.end + timedelta(seconds=self.event.ramp_out_s)

    @property
    def over_at(self) -> datetime:
        """End of all that it asks, the rebound limit included."""
        return self.released_at + timedelta(seconds=self.event.rebound_s)

    @property
    def shown_until(self) -> datetime:
        """Until when it is news: the end of all that it asks, or would ask; its receipt where it asks nothing."""
        return self.over_at if self.binds or self.pending else self.received_at

    @property
    def known_version(self) -> int:
        """Highest version that was accepted or withdrawn."""
        return max(self.version, self.cancelled_version)

    def state(self, now: datetime) -> EventState:
        """State at `now`."""
        if self.refused:
            return EventState.REFUSED
        if self.opt != "in" and not self.voided:
            return EventState.AWAITING if self.opt == "pending" else EventState.DECLINED
        if self.voided or now >= self.released_at:
            return self._end_state()
        if now < self.event.start:
            near = now >= self.event.start - timedelta(seconds=self.near_s)
            return EventState.NEAR if near else EventState.SCHEDULED
        if now >= self.event.end:
            return EventState.RAMPING_OUT
        return EventState.ACTIVE if now >= self.due_from else EventState.RAMPING_IN

    def _end_state(self) -> EventState:
        if self.cancelled:
            return EventState.CANCELLED
        return EventState.SUPERSEDED if self.superseded else EventState.DONE

    def in_flight(self, now: datetime) -> bool:
        """True between its start and the end of its ramp out."""
        return self.binds and self.event.start <= now < self.released_at

    def left(self, now: datetime) -> EventRow:
        """The row without the rest of the event: nothing before its start; from inside it, out by the ramp, beginning
        at the cap in force now (which is not yet the target while it ramps in)."""
        if now <= self.event.start:
            return replace(self, voided=True)
        if now >= self.event.end:
            return self
        begin = max(self.event.start, now - INSTANT)
        last = Span(begin, now, event_limit_kw(self.event, now))
        least_s = max(0.0, self.event.baseline_kw - last.value) / self.event.ramp_up_kw_per_min * 60.0
        ramp_out_s, targets = max(self.event.ramp_out_s, least_s), (*cut(self.event.targets, begin), last)
        return replace(self, event=replace(self.event, end=now, targets=targets, ramp_out_s=ramp_out_s))


@dataclass(frozen=True, slots=True)
class Transition:
    """One event changed its state."""

    id: str
    version: int
    site: str
    before: EventState
    after: EventState
    at: datetime


@dataclass(frozen=True, slots=True)
class Delivery:
    """What was measured during [start, end): energy below the baseline and over the cap, the worst excess once the ramp
    in was over, and over how many samples and seconds it was counted."""

    delivered_kwh: float = 0.0
    over_kwh: float = 0.0
    worst_over_kw: float = 0.0
    samples: int = 0
    seconds: float = 0.0


def cut(spans: tuple[Span, ...], end: datetime) -> tuple[Span, ...]:
    """The part of `spans` before `end`."""
    return tuple(replace(span, end=min(span.end, end)) for span in spans if span.start < end)


def counted(held: Delivery, row: EventRow, now: datetime, import_kw: float, seconds: float) -> Delivery:
    """The delivery after `seconds` at `import_kw`. Energy below the baseline counts with its sign."""
    over_kw = max(0.0, import_kw - event_limit_kw(row.event, now))
    return Delivery(
        delivered_kwh=held.delivered_kwh + (row.event.baseline_kw - import_kw) * seconds / 3600,
        over_kwh=held.over_kwh + over_kw * seconds / 3600,
        worst_over_kw=max(held.worst_over_kw, over_kw) if now >= row.due_from else held.worst_over_kw,
        samples=held.samples + 1,
        seconds=held.seconds + seconds,
    )
