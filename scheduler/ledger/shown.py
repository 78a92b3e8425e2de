"""An event of the ledger as people see it."""

from __future__ import annotations

from datetime import datetime

from scheduler.ledger.states import Delivery, EventRow
from scheduler.status import EventStatus


def event_status(row: EventRow, delivery: Delivery, now: datetime) -> EventStatus:
    """The row at `now`, with what was measured for it."""
    event = row.event
    present = next((span.value for span in event.targets if span.start <= now < span.end), row.target_kw)
    return EventStatus(
        id=event.id,
        version=row.version,
        site=event.site,
        state=str(row.state(now)),
        start=event.start,
        end=event.end,
        target_kw=present,
        baseline_kw=event.baseline_kw,
        program=event.program,
        name=event.name,
        source=event.source,
        delivered_kwh=delivery.delivered_kwh,
        worst_over_kw=delivery.worst_over_kw,
        answer=row.answer,
        number=row.number,
        opt="out" if row.refused else row.opt,
        answer_by=row.answer_by,
    )
