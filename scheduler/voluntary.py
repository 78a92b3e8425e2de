"""Answers voluntary events with what the plan has found, as late as their deadline allows.

Why late: prices, load and queue are better known then, and an answer is a promise that is not taken back.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from optimizer.domain import Plan, Problem
from optimizer.explain import explain_event
from optimizer.reasons import Note, Reason, Severity
from scheduler.engine import Context, State
from scheduler.store.store import StoreDegraded

ROOM = timedelta(minutes=1)
"""What the next plan must have to be made before an answer is due."""


def answer_events(ctx: Context, state: State, problem: Problem, plan: Plan, next_at: datetime) -> None:
    """Answer every event for which the plan at `next_at` would come too late, and what was announced too late for its
    deadline at once."""
    for row in ctx.ledger.awaiting():
        answer, now = plan.events.get(row.event.id), ctx.clock.now()
        due = row.answer_by is None or row.answer_by <= next_at + ROOM or row.answer_by == row.event.start
        if answer is None or not due or now >= row.event.start:
            continue
        opt, why = "in" if answer.take_part else "out", explain_event(problem, plan, row.event.id)
        try:
            ctx.ledger.decide(row.event.id, opt, why, "plan", now)
        except StoreDegraded as error:
            text = f"event {row.event.id} is not answered, the store can't keep it: {error}"
            state.notes.append(Note(Reason.STORE_DEGRADED, row.event.id, text, Severity.ALERT, now))
            continue
        code = Reason.OPT_IN if answer.take_part else Reason.OPT_OUT
        state.notes.append(Note(code, row.event.id, f"event {row.event.id}: {why}", Severity.INFO, now))
