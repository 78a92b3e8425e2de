"""An alarm for caps that are accepted and move nothing: requested, enforced and measured power are three things.

Why not silent: the plan counts on what a cap sheds. Where busy GPUs go on drawing more than the limit that all of them
say they enforce, either their work answers to clocks alone, or a sensor is wrong; a person should know which.
"""

from __future__ import annotations

from datetime import datetime

from adapters.ports import Reading
from optimizer.curves import draw_at_cap
from optimizer.reasons import Note, Reason, Severity
from scheduler.busy import known_busy
from scheduler.engine import Context, State
from scheduler.levers import ABOVE, TICKS


def unmoved(ctx: Context, state: State, reading: Reading | None, now: datetime) -> tuple[Note, ...]:
    """A note for each pool whose busy GPUs have drawn a tenth more than their enforced limit lets them for ten readings
    in a row, where somebody other than power says how many of them work."""
    notes = []
    for pool_id, model in ctx.pools.items():
        most_w = most_draw_w(ctx, pool_id) if ctx.dispatcher.writes else None
        draw_w = busy_draw_w(ctx, state, pool_id, reading, now)
        over = most_w is not None and draw_w is not None and draw_w > ABOVE * most_w
        state.unmoved_ticks[pool_id] = state.unmoved_ticks.get(pool_id, 0) + 1 if over else 0
        if state.unmoved_ticks[pool_id] >= TICKS:
            clocks = "" if ctx.pools.clocked(pool_id) else "; `lock_clocks` may move it where limits don't"
            cap_w = ctx.dispatcher.enforced_w(pool_id)
            text = (
                f"the GPUs of {model.pool.id} enforce {cap_w:.0f} W and draw {draw_w:.0f} W each: their limit does not "
                f"move their power, or a sensor is wrong{clocks}"
            )
            notes.append(Note(Reason.CAP_UNMOVED, pool_id, text, Severity.ALERT, now))
    return tuple(notes)


def most_draw_w(ctx: Context, pool_id: str) -> float | None:
    """What a busy GPU draws at most under the limit that all of them enforce: that limit, or more where the curve that
    the pool began with was measured above it. What was learned since is what is in doubt."""
    cap_w = ctx.dispatcher.enforced_w(pool_id)
    if cap_w is None:
        return None
    return max(cap_w, draw_at_cap(ctx.pools.configured[pool_id].pool.curve, cap_w))


def busy_draw_w(ctx: Context, state: State, pool_id: str, reading: Reading | None, now: datetime) -> float | None:
    """Draw in W of a busy GPU of a pool; None where it is not measured, or nobody says how many work."""
    if reading is None:
        return None
    model = ctx.pools.by_limits(pool_id)
    kw, busy = reading.pool_kw.get(pool_id), known_busy(ctx, state, model, reading, now)
    if kw is None or not busy:
        return None
    return (1000.0 * kw - (model.pool.count - busy) * model.pool.curve.idle_w) / busy
