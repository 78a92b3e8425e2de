"""Notes about sites that are above their ceilings: what no lever could shed, what stays, and a meter that disagrees."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from optimizer.reasons import Note, Reason, Severity
from scheduler.engine import Context, State
from scheduler.fall import beyond_rounding, kw_text
from scheduler.missed import Missed
from scheduler.observing import site_import, steady_ticks
from scheduler.trim import SiteTrim


def shortfalls(ctx: Context, state: State, trims: Mapping[str, SiteTrim], now: datetime) -> tuple[Note, ...]:
    """Notes about sites that are above their ceilings."""
    notes: list[Note] = []
    for site, trim in trims.items():
        seen = state.missed.setdefault(site, Missed())
        drawn_kw = site_import(ctx, state, site, now) if ctx.dispatcher.writes else None
        stays = shortfall(ctx, trim, seen, site, drawn_kw, now)
        notes += overdrawn(trim, seen, site, drawn_kw, now) or stays  # one fact, one note
    return tuple(notes)


def shortfall(
    ctx: Context, trim: SiteTrim, seen: Missed, site: str, drawn_kw: float | None, now: datetime
) -> tuple[Note, ...]:
    """Say at once what no lever could shed, and within seconds what is little and stays, by the meter or by what the
    orders should draw: nobody will take it back, and heat that the cooling follows for minutes makes it more."""
    ceiling_kw, short = trim.ceiling.kw, is_short(trim)
    if trim.short_kw > 0:
        drawn_kw = max(ceiling_kw + trim.short_kw, drawn_kw or 0.0)
    # The first of these readings is of the orders before.
    stays_kw = seen.stays_kw(drawn_kw, ceiling_kw, trim.spent, 1 + steady_ticks(ctx))
    short_kw = trim.short_kw if short else stays_kw
    if short_kw <= 0:
        return ()
    event = trim.ceiling.event_kw <= trim.ceiling.limit_kw
    code = Reason.EVENT_UNREACHABLE if event else Reason.LIMIT_UNREACHABLE
    what = "event target" if event else "limit"
    least = f"{site} can't get below {kw_text(ceiling_kw + short_kw)}"
    text = f"{least}: {kw_text(short_kw)} over its {what} of {kw_text(ceiling_kw)}"
    return (Note(code, site, text, Severity.ALERT if short else Severity.WARNING, now),)


def is_short(trim: SiteTrim) -> bool:
    """Whether a site misses its ceiling by more than rounding."""
    return beyond_rounding(trim.short_kw, trim.ceiling.kw)


def overdrawn(trim: SiteTrim, seen: Missed, site: str, drawn_kw: float | None, now: datetime) -> tuple[Note, ...]:
    """Say when power does not follow the orders: GPUs that nobody ordered about, or a meter that is wrong."""
    ceiling_kw = trim.ceiling.kw
    if not seen.far(None if is_short(trim) else drawn_kw, ceiling_kw) or drawn_kw is None:
        return ()
    text = f"{site} draws {drawn_kw:.0f} kW with a ceiling of {ceiling_kw:.0f} kW, though its orders should be enough"
    return (Note(Reason.METER_MISMATCH, site, text, Severity.ALERT, now),)
