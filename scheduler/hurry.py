"""Falls for which a ramp leaves no time: a ceiling comes first, and that is said.

A hard limit, an operator's order, and an event that is heard of late or falls more steeply than the ramp of its site or
program allows, are met at once. Why added up: of a slope that is a little too steep, no single second breaks a ramp by
more than rounding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from optimizer.domain import GridEvent
from optimizer.reasons import Note, Reason, Severity
from scheduler.engine import Context, State
from scheduler.fall import Fall, kw_text
from scheduler.targets import INF, MINUTE, live
from scheduler.trim import SiteTrim


def hurried(
    ctx: Context, state: State, trims: Mapping[str, SiteTrim], events: Iterable[GridEvent], now: datetime
) -> tuple[Note, ...]:
    """Say which sites a ceiling makes fall faster than their own ramp, or that of a program whose event is live, allows
    from their last set-points."""
    if not ctx.dispatcher.writes:  # nothing falls by our word
        state.falls.clear()
        return ()
    notes, then = [], now + ctx.timing.control_period
    before = state.last_tick_at if state.last_tick_at is not None else now - ctx.timing.control_period
    passed = max(timedelta(0), now - before)  # a clock that was put back says nothing of a fall
    for site, trim in trims.items():
        own = ctx.sites[site].ramp_down_kw_per_min
        per_min = min([own, *(event.ramp_down_kw_per_min for event in live(site, events, then))])
        last_kw, most_kw = state.setpoint_kw.get(site), trim.ceiling.kw
        if last_kw is None or per_min == INF:
            state.falls.pop(site, None)
            continue
        margin_kw = state.surprises[site].margin_kw(most_kw, ctx.margin) if most_kw < INF else 0.0
        fallen_kw = min(state.cap_kw.get(site, INF), last_kw + margin_kw) - most_kw
        if state.falls.setdefault(site, Fall()).see(fallen_kw, per_min * (passed / MINUTE), most_kw):
            ramp = "its own ramp (`ramp_kw_per_min`)" if own == per_min else "a program's ramp"
            text = f"{site} falls faster than {ramp} allows: a cap of {kw_text(most_kw)} comes first"
            notes.append(Note(Reason.RAMP_BROKEN, site, text, Severity.WARNING, now))
    return tuple(notes)
