"""Limits on a site that stand whoever lives: the hard limit, and an operator's order. Where one binds, a trajectory
keeps it beyond its reach, for as long as people may take.

Why only where it binds: a site that stays under its limit with every card at its highest limit and at work needs no
cap of ours, and gets its cards back as soon as nobody speaks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from optimizer.envelope import INF
from scheduler.alone import SAME_KW, Orders, crowded, over_it_kw
from scheduler.engine import Context, State
from scheduler.flexibility import pue_now, site_pools
from scheduler.latency_trim import kept_cap_w
from scheduler.orders import PoolOrder
from scheduler.overrides import operator_limit_kw
from scheduler.trim import shed_orders

HOLD = timedelta(hours=24)
"""So long nodes alone keep a limit that has no end: long enough for people to come, and not for ever. `gridpace
release` ends it at once."""

Span = tuple[datetime, datetime]


@dataclass(frozen=True)
class Standing:
    """The limits in kW that bind a site, each over a span."""

    limits: tuple[tuple[Span, float], ...] = ()

    @property
    def kw(self) -> float:
        """The strictest of all (inf: none binds)."""
        return min((kw for _, kw in self.limits), default=INF)

    def over(self, at: datetime, end: datetime) -> float:
        """The strictest over [at, end)."""
        return min((kw for (begins, ends), kw in self.limits if begins < end and at < ends), default=INF)

    def tail(self, until: datetime) -> tuple[Span, ...]:
        """What is left of it after `until`, in few parts: before it binds, and after it gets milder for good (an
        operator's order may end)."""
        left = [(max(begins, until), ends, kw) for (begins, ends), kw in self.limits if ends > until]
        least = min((kw for _, _, kw in left), default=INF)
        eased = [ends for _, ends, kw in left if kw == least]
        cuts = {until, left[0][0], max(eased), left[-1][1]} if left else set()
        return tuple(pairwise(sorted(cuts)))


def standing(ctx: Context, state: State, site: str, now: datetime) -> Standing:
    """The limits that bind a site from now on, to the end of `HOLD`."""
    pools = [entry.pool for entry in site_pools(ctx, site)]
    free = {pool.id: PoolOrder(int(pool.max_cap_w), pool.count) for pool in pools}
    full, until = crowded(ctx, state), now + HOLD
    worst = hottest(ctx, state, site, (now, until))
    known = [(span, kw) for span, kw in _limits(ctx, state, site, now, until) if kw < INF]
    bind = {
        kw: over_it_kw(ctx, full, site, free, max(0.0, kw), 0.0, worst, lagging=True) > SAME_KW
        for kw in {kw for _, kw in known}
    }
    return Standing(tuple((span, kw) for span, kw in known if bind[kw]))


def _limits(ctx: Context, state: State, site: str, now: datetime, until: datetime) -> Iterator[tuple[Span, float]]:
    """The limits of a site as the problem in force has them, and past its horizon the one that is configured; an
    operator's order may be younger than the problem."""
    grid = state.problem.grid if state.problem is not None else None
    edges, limit_kw = (grid.edges, _planned(state, site)) if grid is not None else ((), ())
    order = state.operator.get(f"limit:{site}")
    ends = order.until if order is not None else None
    cuts = sorted({now, until, *(at for at in (*edges, ends) if at is not None and now < at < until)})
    for at, end in pairwise(cuts):
        known = grid is not None and grid.start <= at < grid.end
        hard_kw = limit_kw[grid.index(at)] if known and grid is not None else ctx.sites[site].limit_kw
        yield (at, end), min(hard_kw, operator_limit_kw(state, site, at))


def _planned(state: State, site: str) -> tuple[float, ...]:
    assert state.problem is not None
    return tuple(next(inputs for inputs in state.problem.sites if inputs.id == site).limit_kw)


def hottest(ctx: Context, state: State, site: str, span: Span) -> datetime:
    """The moment of a span in which cooling takes most."""
    edges = state.problem.grid.starts if state.problem is not None else ()
    moments = [span[0], *(at for at in edges if span[0] < at < span[1])]
    return max(moments, key=lambda at: pue_now(ctx, state, site, at))


def held_orders(ctx: Context, state: State, site: str, limit_kw: float, span: Span) -> Orders:
    """Orders that keep a limit over a span with every card awake and at work: nobody is there when users come, jobs
    start or it gets hot."""
    full, at = crowded(ctx, state), hottest(ctx, state, site, span)
    pools = [entry.pool for entry in site_pools(ctx, site)]
    free = {pool.id: PoolOrder(int(pool.max_cap_w), pool.count) for pool in pools}
    if limit_kw == INF:
        return free
    over_kw = over_it_kw(ctx, full, site, free, max(0.0, limit_kw), 0.0, at, lagging=True)
    floors = {pool.id: kept_cap_w(full, pool) for pool in pools}
    kept, _ = shed_orders(full, pools, free, floors, over_kw, span[0])
    return {pool.id: PoolOrder(kept[pool.id].cap_w, pool.count) for pool in pools}
