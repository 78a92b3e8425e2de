"""How rows of the event ledger begin, are answered and are withdrawn: pure steps from one row to the next.

Why a voluntary event waits for its answer: what it costs is what the plan finds, and the later it is asked the more is
known. Its answer is a promise like any other and is kept like one; silence until the deadline is a no.
"""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime, timedelta

from adapters.ports import EventMessage
from optimizer.domain import GridEvent
from scheduler.ledger.resolve import ProgramTerms, printable
from scheduler.ledger.states import EventRow

SILENT = "opted out: no plan decided before the answer was due"
BEGUN = "opted out: it begins before it could be answered"


def awaited(row: EventRow, terms: ProgramTerms, now: datetime) -> EventRow:
    """The row of a voluntary event: it caps nothing until it is answered, at the latest `answer_before_s` before it
    starts; where that is past, before it starts. What begins at once is declined."""
    event = replace(row.event, voluntary=True, opted=None)
    due = event.start - timedelta(seconds=terms.answer_before_s)
    if event.start <= now:
        return replace(row, event=event, opt="out", answer=BEGUN)
    by = due if due > now else event.start
    answer = f"{row.answer}; voluntary: answered by {by:%Y-%m-%d %H:%M:%S}Z"
    return replace(row, event=event, opt="pending", answer_by=by, answer=answer)


def answered(row: EventRow, opt: str, reason: str) -> EventRow:
    """The row with its answer, "in" or "out"."""
    return replace(row, event=replace(row.event, opted=opt == "in"), opt=opt, answer=reason)


def key_of(message: EventMessage) -> str:
    """Key of an event, whatever its version."""
    return f"{message.program}/{message.id}"


def withdrawn(row: EventRow, now: datetime) -> EventRow:
    """The row after a cancellation at `now`."""
    if row.cancelled:
        return replace(row, answer="already cancelled")
    if row.opt != "in" and not row.voided:
        return replace(row, voided=True, cancelled=True, answer="cancelled")
    if not row.binds or now >= row.event.end:
        return replace(row, answer="cancelled after its end: nothing changes")
    left = replace(row.left(now), cancelled=True)
    by = "" if left.voided else f"; the site leaves by its ramp until {left.released_at:%H:%M:%S}Z"
    return replace(left, answer="cancelled" + by)


def row_without_event(message: EventMessage, number: int, now: datetime, answer: str) -> EventRow:
    """A row that caps nothing: for what was refused, and for a cancellation that came first."""
    aware = message.start.tzinfo is not None and message.end.tzinfo is not None
    start, end = (message.start, message.end) if aware else (now, now)
    event = GridEvent(
        printable(message.id), message.version, printable(message.site), start, end, (), 0.0,
        ramp_in_s=0.0, ramp_out_s=0.0, rebound_s=0.0, program=message.program, source=printable(message.source),
        name=printable(message.name),
    )  # fmt: skip
    return EventRow(key_of(message), message.version, event, now, now, 0.0, answer, number, math.inf)


def bare_message(row: EventRow) -> EventMessage:
    """A message that stands for the operator's word in the log."""
    return EventMessage(
        id=row.key.split("/", 1)[1], version=row.version, site=row.event.site, start=row.event.start, end=row.event.end,
        targets=(), cancelled=True, program=row.event.program, source="operator", name=row.event.name,
    )  # fmt: skip
