"""An alarm for caps that are accepted and move nothing: requested, enforced and measured power are three things.

Why not silent: the plan counts on what a cap sheds. Where busy GPUs go on drawing more than the limits that they say
they enforce, either their work answers to clocks alone, or a sensor is wrong; a person should know which.
"""

from __future__ import annotations

from datetime import datetime

from adapters.ports import Reading
from optimizer.curves import draw_at_cap
from optimizer.domain import PowerCurve
from optimizer.reasons import Note, Reason, Severity
from scheduler.busy import known_busy
from scheduler.engine import Context, State
from scheduler.levers import ABOVE, TICKS
from scheduler.stuck_cards import stuck_cards


def unmoved(ctx: Context, state: State, reading: Reading | None, now: datetime) -> tuple[Note, ...]:
    """A note for each pool whose busy GPUs have drawn a tenth more than their enforced limits let them for ten readings
    in a row, where somebody other than power says how many of them work; else for each pool some cards of which do."""
    notes, cards = [], stuck_cards(ctx, state, reading)
    for pool_id in ctx.pools:
        most_w = most_draw_w(ctx, state, pool_id, reading, now) if ctx.dispatcher.writes else None
        draw_w = busy_draw_w(ctx, state, pool_id, reading, now)
        over = most_w is not None and draw_w is not None and draw_w > ABOVE * most_w
        state.unmoved_ticks[pool_id] = state.unmoved_ticks.get(pool_id, 0) + 1 if over else 0
        if state.unmoved_ticks[pool_id] >= TICKS:
            clocks = "" if ctx.pools.clocked(pool_id) else "; `lock_clocks` may move it where limits don't"
            text = (
                f"{_enforce(ctx, pool_id)} and draw {draw_w:.0f} W each: their limit does not move their power, or a "
                f"sensor is wrong{clocks}"
            )
            notes.append(Note(Reason.CAP_UNMOVED, pool_id, text, Severity.ALERT, now))
        elif pool_id in cards:
            notes.append(Note(Reason.CAP_UNMOVED, pool_id, cards[pool_id], Severity.ALERT, now))
    return tuple(notes)


def _enforce(ctx: Context, pool_id: str) -> str:
    """Who enforces which limit; the draw that is told after it is the mean of all busy ones."""
    limit = ctx.dispatcher.limit(pool_id)
    assert limit is not None
    who = f"{limit.count - len(limit.odd):,} of the {limit.count:,} GPUs" if limit.odd else "the GPUs"
    return f"{who} of {pool_id} enforce {limit.cap_w:.0f} W"


def most_draw_w(ctx: Context, state: State, pool_id: str, reading: Reading | None, now: datetime) -> float | None:
    """What a busy GPU draws at most, in the mean, under the limits that a pool's GPUs enforce; None where most of them
    don't enforce the same one, or nobody says how many work.

    To the safe side, so that no alarm is raised and no lever changed for what odd cards draw: all of them count as
    busy; one that is held lower counts as drawing what the others may (it may be idle, and another one busy in its
    stead); one at a higher limit up to that; and one of which nobody knows the limit as much as a card of the pool
    ever draws, since a card that fell off its bus may have gone back to its default and work on.
    """
    limit, busy = ctx.dispatcher.limit(pool_id), _busy(ctx, state, pool_id, reading, now)
    if limit is None or not busy:
        return None
    begun = ctx.pools.configured[pool_id].pool
    highest_w = max(begun.max_cap_w, *(point.cap_w for point in begun.curve.points))
    most_w = _most_w(begun.curve, limit.cap_w)
    more_w, highest_odd_w = 0.0, most_w
    for one, cards in limit.spans.items():
        odd_w = _most_w(begun.curve, min(one.most_w, max(highest_w, one.least_w)))
        more_w += cards * max(0.0, odd_w - most_w)
        highest_odd_w = max(highest_odd_w, odd_w)
    return min(highest_odd_w, most_w + more_w / busy)


def _most_w(curve: PowerCurve, cap_w: float) -> float:
    """What a busy GPU draws at most under a limit: that limit, or more where the curve that the pool began with was
    measured above it. What was learned since is what is in doubt."""
    return max(cap_w, draw_at_cap(curve, cap_w))


def _busy(ctx: Context, state: State, pool_id: str, reading: Reading | None, now: datetime) -> float | None:
    return None if reading is None else known_busy(ctx, state, ctx.pools.by_limits(pool_id), reading, now)


def busy_draw_w(ctx: Context, state: State, pool_id: str, reading: Reading | None, now: datetime) -> float | None:
    """Draw in W of a busy GPU of a pool; None where it is not measured, or nobody says how many work."""
    kw = reading.pool_kw.get(pool_id) if reading is not None else None
    busy = _busy(ctx, state, pool_id, reading, now)
    if kw is None or not busy:
        return None
    pool = ctx.pools.by_limits(pool_id).pool
    return (1000.0 * kw - (pool.count - busy) * pool.curve.idle_w) / busy
