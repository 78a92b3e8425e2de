"""What is enforced where that is not what was ordered: a board controller, or another program, holds cards lower.

Why told: the more careful limit wins and is not fought (docs/gpu-limits.md), but an operator who reads a cap must see
that it is not the one that holds. Requested, enforced and measured power are three things.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from optimizer.reasons import Note, Reason, Severity

if TYPE_CHECKING:
    from scheduler.engine import Context, State


def tell_lowered(ctx: Context, state: State, now: datetime) -> tuple[Note, ...]:
    """A note for each pool of which other cards than before enforce less than ordered, or another limit. What was told
    stays among the notes as long as it is so, and no longer."""
    found, news = ctx.dispatcher.lowered(), []
    for pool in state.lowered.keys() - found.keys():
        state.notes.withdraw(Reason.BOARD_LIMIT, pool)
    for pool, one in found.items():
        note = Note(Reason.BOARD_LIMIT, pool, one.text(pool), Severity.WARNING, now)
        before = state.lowered.get(pool)
        if before is None or (before.count, before.least_w, before.most_w) != (one.count, one.least_w, one.most_w):
            news.append(note)
        else:
            state.notes.append(note)
    state.lowered = found
    return tuple(news)


def enforced_w(ctx: Context) -> dict[str, float]:
    """Limit in W that most GPUs of each pool enforce; a pool of which that is not known, or too few agree, is left
    out."""
    limits = {pool: ctx.dispatcher.limit(pool) for pool in ctx.pools}
    return {pool: limit.cap_w for pool, limit in limits.items() if limit is not None}


def effective_w(ctx: Context, pool: str, cap_w: float) -> float:
    """What an order comes to: the limit that is enforced, where that is lower and limits are what moves the pool."""
    limit = ctx.dispatcher.limit(pool) if ctx.dispatcher.writes and ctx.pools.clocked(pool) is None else None
    return cap_w if limit is None else min(cap_w, limit.cap_w)
