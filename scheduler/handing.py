"""The trajectory goes to the nodes: with every plan, and at once when an event comes that the last one does not know.

Why not only with the plan: the fast loop lowers caps the moment an event is accepted, the plan follows seconds later.
Should the daemon or its bus die in between, nodes would go back to caps of before the event.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from adapters.ports import AdapterError
from optimizer.domain import GridEvent, Plan
from optimizer.reasons import Note, Reason, Severity
from scheduler.clocked import limits_of
from scheduler.engine import Context, State
from scheduler.store.store import StoreDegraded
from scheduler.trajectory import trajectory


def hand_over(ctx: Context, state: State, plan: Plan, now: datetime, aside: bool = False) -> tuple[Note, ...]:
    """Hand the rest of a plan to nodes that can follow it alone, with all events that are known; `aside`: without
    waiting for them."""
    try:
        known = ctx.ledger.active(now)
        steps, until_s = trajectory(ctx, state, plan, now)
        ctx.dispatcher.hold([(at, limits_of(ctx.pools, orders)) for at, orders in steps], until_s, now, known, aside)
    except (AdapterError, StoreDegraded) as error:
        return (Note(Reason.CAP_REFUSED, "power", str(error), Severity.ALERT, now),)
    return ()


def hand_news(ctx: Context, state: State, events: Collection[GridEvent], now: datetime) -> tuple[Note, ...]:
    """The same from the plan in force, where nodes follow one that doesn't know all of these events, or as they are
    now. One that was withdrawn is no such news: until the next plan its cap is kept."""
    course = ctx.dispatcher.courses.last
    if course is None or state.plan is None or all(event in course.known for event in events):
        return ()
    if ctx.dispatcher.handing.busy:  # of thousands of nodes that takes seconds; the next turn asks again
        return ()
    return hand_over(ctx, state, state.plan, now, aside=True)
