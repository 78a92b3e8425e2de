"""The demand-response ledger: one row for each event whatever brought it, idempotent, versioned, safe to replay.

Why it answers only after the disk has: an acknowledgement is a promise to a utility. Each message is resolved, written
(row, answer and the message as it arrived, in one transaction) and only then answered; a duplicate gets the same
answer again. The truth does not depend on the order of arrival: the highest version counts, and of equal ones the
cancellation.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from adapters.ports import EventMessage, EventRefused
from optimizer.domain import GridEvent
from optimizer.reasons import Note
from scheduler.ledger import conflicts
from scheduler.ledger.books import Books
from scheduler.ledger.policy import not_owed
from scheduler.ledger.resolve import (
    TOLERANCE_KW,
    ProgramTerms,
    asked_kw,
    cap_kw,
    nameless,
    nonsense,
    printable,
    resolve,
    slowed,
)
from scheduler.ledger.rows import SILENT, answered, awaited, bare_message, key_of, row_without_event, withdrawn
from scheduler.ledger.shown import event_status
from scheduler.ledger.states import Delivery, EventRow, EventState, Transition, counted
from scheduler.ledger.together import Together
from scheduler.service import EventAnswer
from scheduler.status import EventStatus
from scheduler.store.store import Store, StoreDegraded

__all__ = ["Ledger", "ProgramTerms", "Transition"]

SHOWN = timedelta(days=2)
MOST_SHOWN = 200
LONGEST_GAP_S = 120.0


class Ledger:
    """Thread-safe. All is read back from the store at construction: a restart continues where a kill ended."""

    def __init__(self, store: Store) -> None:
        self._lock = threading.RLock()
        self._books = Books(store)
        self._together = Together(self._lock, self._books.together)
        self._now: datetime | None = None
        self._counted_at: dict[str, datetime] = {}

    # ------------------------------------------------------------ messages
    def accept(
        self, message: EventMessage, *, baseline_kw: float, available_kw: float, defaults: ProgramTerms, now: datetime
    ) -> EventAnswer:
        """Take one verified message; durable when it returns. `baseline_kw`: the site's import without the event,
        `available_kw`: what it can shed now.

        Raises StoreDegraded (nothing acknowledged), and EventRefused where the site's load is not known.
        """
        return self._together.do(lambda: self._taken(message, (baseline_kw, available_kw), defaults, now))

    def follow(
        self, message: EventMessage, *, baseline_kw: float, available_kw: float, defaults: ProgramTerms, now: datetime
    ) -> EventAnswer | None:
        """As `accept`, for a sender that tells its present orders again and again and counts no versions: what differs
        from its last word becomes the next version, and None means that nothing changed."""

        def step() -> EventAnswer | None:
            version = self._books.next_version(message)
            if version is None:
                return None
            return self._taken(replace(message, version=version), (baseline_kw, available_kw), defaults, now)

        return self._together.do(step)

    def differs(self, message: EventMessage) -> bool:
        """Whether `follow` would change anything."""
        with self._lock:
            return self._books.next_version(message) is not None

    def followed(self, program: str, source: str, now: datetime) -> tuple[EventRow, ...]:
        """Events of a program that came by a channel, are not over and were not withdrawn."""
        with self._lock:
            return self._books.followed(program, source, now)

    def _taken(
        self, message: EventMessage, load_kw: tuple[float, float], terms: ProgramTerms, now: datetime
    ) -> EventAnswer:
        """The answer to a message, the former one where it was seen before."""
        if not (math.isfinite(load_kw[0]) and load_kw[0] >= 0 and math.isfinite(load_kw[1])):
            raise EventRefused("the site's load is not known at present; send the event again", 503)
        self._now = now
        known = self._books.answer(message)
        return self._again(message, known) if known is not None else self._judged(message, load_kw, terms, now)

    def _judged(
        self, message: EventMessage, load_kw: tuple[float, float], terms: ProgramTerms, now: datetime
    ) -> EventAnswer:
        """What becomes of a message that was not seen before; `load_kw` is baseline and what can be shed."""
        if fault := nameless(message):
            return self._refused(message, fault, now)
        head = self._books.heads.get(key_of(message))
        if message.cancelled:
            return self._cancelled(message, head, now)
        if head is not None and message.version <= head.known_version:
            return self._ignored(message, head, now)
        if head is not None and head.withdrawn_by and message.program != "operator":
            reason = f"{head.withdrawn_by} withdrew this event; ask the operator"
            return self._keep(message, (), self._answer(message, "cancelled", "out", reason), now)
        rows = self._books.rows.values()
        if fault := nonsense(message, terms, now) or not_owed(message, rows, terms.calls, terms.least_notice_s, now):
            return self._refused(message, fault, now)
        return self._agreed(message, head, load_kw, terms, now)

    def _agreed(
        self,
        message: EventMessage,
        head: EventRow | None,
        load_kw: tuple[float, float],
        terms: ProgramTerms,
        now: datetime,
    ) -> EventAnswer:
        """Opt in, or out where the terms say that a shortfall is refused."""
        goes_on = head is not None and head.binds and not head.cancelled and now < head.released_at
        former = head if goes_on else None
        base_kw = former.event.baseline_kw if former else load_kw[0]
        # What a running event sheds already counts as well: below its own baseline, not below today's draw.
        free_kw = load_kw[1] + max(0.0, base_kw - load_kw[0])
        short_kw = asked_kw(message, base_kw) - free_kw
        short = short_kw > TOLERANCE_KW
        if short and message.firm and not message.emergency and terms.shortfall == "refuse":
            more = f"{short_kw:.0f} kW more than the {free_kw:.0f} kW that the site can shed"
            fault = f"asks for {more}, and must be firm; {free_kw:.0f} kW can be had"
            return self._refused(message, fault, now, free_kw)
        event, due_from = resolve(message, self._books.shown_id(message), base_kw, terms, former, now)
        event = replace(event, firm=event.firm and not short)
        target_kw = min(cap_kw(target, base_kw) for target in message.targets if target.end > now)
        parts = [f"cap {target_kw:.0f} kW against a baseline of {base_kw:.0f} kW"]
        parts += [f"best effort: {free_kw:.0f} kW can be shed, {short_kw:.0f} kW are missing"] if short else []
        parts += ["started already, counted from now"] if message.start < now and former is None else []
        parts += [] if former else slowed(message, base_kw, terms)
        row = EventRow(
            key=key_of(message),
            version=message.version,
            event=event,
            received_at=now,
            due_from=due_from,
            near_s=terms.near_s,
            answer="",
            number=self._books.next_number(),
            target_kw=target_kw,
            rank=terms.rank,
            hard=message.hard,
        )
        yields, beside = conflicts.told(row, self._books.bound())
        row = replace(row, answer="; ".join([*parts, *beside]))
        if terms.voluntary and not event.emergency and not (former is not None and former.in_flight(now)):
            row = awaited(row, terms, now)
        elif terms.voluntary and not event.emergency:
            row = answered(row, "in", row.answer)
        answer = self._answer(message, row.state(now), row.opt, "; ".join([row.answer, *yields]), row)
        asked = head if head is not None and head.opt != "in" else None
        rows = (*self._succeeded(former or asked, row, now), row)
        return self._keep(message, rows, replace(answer, available_kw=free_kw), now)

    def _succeeded(self, former: EventRow | None, row: EventRow, now: datetime) -> tuple[EventRow, ...]:
        """The former version as it is from now on: replaced at once where the new one carries on, else left by its ramp
        (and its rebound limit stays)."""
        if former is None:
            return ()
        if not former.binds:
            return (replace(former, voided=True, superseded=True),) if former.opt != "in" and not former.voided else ()
        if row.opt != "in":  # it is asked anew: what was answered to the former version ends with it
            return (replace(former.left(now), superseded=True),)
        carried_on = row.event.start <= now
        ended = replace(former, voided=True) if carried_on else former.left(now)
        if carried_on:
            self._books.carry_on(former, row)
        return (replace(ended, superseded=True),)

    def _cancelled(self, message: EventMessage, head: EventRow | None, now: datetime) -> EventAnswer:
        """Withdraw what is held, or remember that it was withdrawn before it came."""
        if head is None:
            tomb = row_without_event(message, self._books.next_number(), now, "cancelled before it was announced")
            row = replace(tomb, voided=True, cancelled=True, cancelled_version=message.version)
            return self._keep(message, (row,), self._answer(message, "cancelled", "out", row.answer), now)
        if message.version < head.known_version:
            return self._ignored(message, head, now)
        row = withdrawn(replace(head, cancelled_version=message.version), now)
        return self._keep(message, (row,), self._answer(message, row.state(now), "out", row.answer, row), now)

    def cancel(self, event_id: str, by: str, now: datetime) -> EventAnswer:
        """The operator withdraws an event (its id as shown, or program/id); later versions of it stay withdrawn.
        From inside it the site leaves by the ramp. Raises KeyError when unknown, StoreDegraded."""
        with self._lock:
            self._now = now
            row = self._books.find(event_id)
            row = replace(withdrawn(row, now), withdrawn_by=printable(by) or "the operator")
            row = replace(row, answer=f"{row.answer} (by {row.withdrawn_by})")
            message = bare_message(row)
            answer = self._answer(message, row.state(now), "out", row.answer, row)
            self._books.keep(message, (row,), None, now, by=row.withdrawn_by)
            return answer

    # ------------------------------------------------------------ answers
    def _again(self, message: EventMessage, known: tuple[EventAnswer, bool]) -> EventAnswer:
        """The answer that was given, with the state of now."""
        answer, same = known
        head = self._books.heads.get(key_of(message))
        state: str = answer.state
        if head is not None and head.version == message.version and answer.opt != "out" and self._now is not None:
            state = head.state(self._now)
        other = "" if same else "; this message differs from the one first received under this version and was ignored"
        return replace(answer, state=str(state), duplicate=True, reason=answer.reason + other)

    def _ignored(self, message: EventMessage, head: EventRow, now: datetime) -> EventAnswer:
        """A version that came too late."""
        if head.cancelled_version >= message.version:
            state, reason = "cancelled", f"version {head.cancelled_version} cancelled it"
        else:
            state, reason = "superseded", f"version {head.version} is held; version {message.version} is ignored"
        return self._keep(message, (), self._answer(message, state, "out", reason), now)

    def _refused(
        self, message: EventMessage, fault: str, now: datetime, available_kw: float | None = None
    ) -> EventAnswer:
        """Kept for people to see; whatever was held of this event stays in force. `available_kw` is the next-best
        offer where less would have been taken."""
        row = replace(row_without_event(message, self._books.next_number(), now, fault), refused=True)
        answer = replace(self._answer(message, "refused", "out", fault), available_kw=available_kw)
        return self._keep(message, (row,), answer, now)

    def _keep(
        self, message: EventMessage, rows: tuple[EventRow, ...], answer: EventAnswer, now: datetime
    ) -> EventAnswer:
        self._books.keep(message, rows, answer, now)
        return answer

    def _answer(
        self, message: EventMessage, state: str, opt: str, reason: str, row: EventRow | None = None
    ) -> EventAnswer:
        target_kw = row.target_kw if row is not None and row.event.targets else None
        baseline_kw = row.event.baseline_kw if row is not None and row.event.targets else None
        by = row.answer_by if row is not None else None
        name = printable(message.id)
        return EventAnswer(name, message.version, str(state), opt, reason, target_kw, baseline_kw, answer_by=by)

    # ------------------------------------------------------------ the loops
    def active(self, now: datetime) -> tuple[GridEvent, ...]:
        """Every event that asks something now or later, its ramps and its rebound limit included, conflicts settled."""
        with self._lock:
            yielding = self._books.settled()
            rows = [row for row in self._books.bound() if now < row.over_at]
            return tuple(yielding[row.id].event if row.id in yielding else row.event for row in rows)

    def running(self, now: datetime) -> tuple[EventRow, ...]:
        """Events between their start and the end of their ramp out."""
        with self._lock:
            return tuple(row for row in self._books.bound() if row.in_flight(now))

    def awaiting(self) -> tuple[EventRow, ...]:
        """Voluntary events that wait for the site's answer."""
        with self._lock:
            return tuple(row for row in self._books.live.values() if row.pending)

    def voluntary(self) -> tuple[EventRow, ...]:
        """Every voluntary event that was not withdrawn, whatever it was answered."""
        with self._lock:
            rows = self._books.rows.values()
            return tuple(row for row in rows if row.event.voluntary and not (row.refused or row.voided))

    def decide(self, event_id: str, opt: str, reason: str, by: str, now: datetime) -> EventAnswer:
        """Answer a voluntary event, "in" or "out"; durable when it returns, and what a repeat of its message is told.
        Raises KeyError when unknown, ValueError when it waits for no answer, StoreDegraded."""
        with self._lock:
            self._now = now
            row = self._books.find(event_id)
            if not row.pending or now >= row.event.start:
                raise ValueError(f"event {event_id} waits for no answer; it is {row.state(now)}")
            return self._decided(row, opt, reason, by, now)

    def _decided(self, row: EventRow, opt: str, reason: str, by: str, now: datetime) -> EventAnswer:
        row = answered(row, opt, reason)
        answer = self._answer(bare_message(row), row.state(now), opt, reason, row)
        self._books.keep_decision(row, answer, now, by)
        return answer

    def advance(self, now: datetime) -> tuple[Transition, ...]:
        """What changed its state since the last call (over a restart as well). A voluntary event that nobody answered
        in time is declined."""
        with self._lock:
            self._now = now
            for row in self.awaiting():
                if row.answer_by is not None and now >= row.answer_by:
                    with suppress(StoreDegraded):  # it stays open, caps nothing, and is closed when the disk can
                        self._decided(row, "out", SILENT, "gridpace", now)
            found = tuple(
                Transition(row.event.id, row.version, row.event.site, before, after, now)
                for row in self._books.live.values()
                if (after := row.state(now)) != (before := self._books.states.get(row.id, EventState.RECEIVED))
            )
            self._books.keep_states({row.id: row.state(now) for row in self._books.live.values()}, now)
            return found

    def notes(self, now: datetime) -> tuple[Note, ...]:
        """Overlaps that hold now, said aloud: which of the events is the stricter one, and which yields."""
        with self._lock:
            return conflicts.notes(self.running(now), self._books.settled(), now)

    def record(self, now: datetime, site: str, import_kw: float | None) -> None:
        """Count a reading of the site's meter into every running event; on disk at least once a minute. A lost reading
        (None) and gaps above two minutes count as missing, never as zero."""
        with self._lock:
            self._now = now
            for row in self._books.bound():
                if row.event.site == site and row.event.start <= now:
                    self._count(row, now, import_kw)

    def _count(self, row: EventRow, now: datetime, import_kw: float | None) -> None:
        if now >= row.event.end:
            if self._counted_at.pop(row.id, None) is not None:
                self._books.keep_delivery(row.id, now, at_once=True)
            return
        last, self._counted_at[row.id] = self._counted_at.get(row.id), now
        if last is None or import_kw is None or not math.isfinite(import_kw):
            return
        seconds = (now - last).total_seconds()
        if 0 < seconds <= LONGEST_GAP_S:
            held = self._books.deliveries.get(row.id, Delivery())
            self._books.deliveries[row.id] = counted(held, row, now, import_kw, seconds)
            self._books.keep_delivery(row.id, now)

    def close(self) -> None:
        """Put on disk what was counted since the last minute."""
        with self._lock:
            for row_id in self._counted_at:
                self._books.keep_delivery(row_id, self._now, at_once=True)

    # ------------------------------------------------------------ what a person sees
    def delivery(self, event_id: str) -> Delivery:
        """What was measured for an event so far. Raises KeyError when unknown."""
        with self._lock:
            return self._books.deliveries.get(self._books.find(event_id).id, Delivery())

    def history(self, event_id: str) -> tuple[tuple[datetime, Mapping[str, Any]], ...]:
        """Every message about an event as it arrived, with what was answered, oldest first."""
        with self._lock:
            return tuple(self._books.messages(event_id))

    def statuses(self) -> tuple[EventStatus, ...]:
        """Events that are not over, and those of the last two days (at most 200 of both), newest first."""
        with self._lock:
            now = self._now or max((row.received_at for row in self._books.rows.values()), default=None)
            if now is None:
                return ()
            rows = [row for row in self._rows(now) if now - SHOWN < row.shown_until]
            rows.sort(key=lambda row: (now < row.shown_until, row.number), reverse=True)
            shown = rows[:MOST_SHOWN]
            shown.sort(key=lambda row: row.number, reverse=True)
            return tuple(self._shown(row, now) for row in shown)

    def page(self, before: int | None, most: int) -> tuple[EventStatus, ...]:
        """Every event ever acknowledged or refused, newest first: at most `most` with a number below `before`."""
        with self._lock:
            now = self._last_known()
            rows = [row for row in self._rows(now) if before is None or row.number < before]
            rows.sort(key=lambda row: row.number, reverse=True)
            return tuple(self._shown(row, now) for row in rows[:most])

    def status(self, event_id: str) -> EventStatus:
        """The version of an event that counts, however old, by its id as shown or program/id; of one that was only ever
        refused, the last refusal. Raises KeyError when unknown."""
        with self._lock:
            return self._shown(self._books.find_any(event_id), self._last_known())

    def _rows(self, now: datetime) -> list[EventRow]:
        """Rows that a person looks for: without the versions that another took over from."""
        return [row for row in self._books.rows.values() if not row.superseded or row.in_flight(now)]

    def _last_known(self) -> datetime:
        """The time as the loops last told it; before they did, that of the last message."""
        last = max((row.received_at for row in self._books.rows.values()), default=datetime.min.replace(tzinfo=UTC))
        return self._now or last

    def _shown(self, row: EventRow, now: datetime) -> EventStatus:
        return event_status(self._books.as_settled(row, now), self._books.deliveries.get(row.id, Delivery()), now)
