"""Old readings brought up to the present: what has changed since they were measured is added to them.

Why: a meter that tells what was drawn two seconds ago, held against the orders of this second, says that the last order
did nothing. The loop orders it again, sees both later, takes both back, and hunts for ever. So a value that says over
which time it was measured (`Reading.taken`) is held against the orders of that time: to a pool's power comes what its
curve says that later orders have moved, to a site's import by how much IT has moved since (Smith, Closer control of
loops with dead time, 1957). Where meters tell of the last control period nothing is added.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from itertools import pairwise

from optimizer.domain import GpuPool
from scheduler.engine import Context, Moment, State
from scheduler.estimate import pool_kw
from scheduler.flexibility import site_pools
from scheduler.observing import seen_or_due_kw
from scheduler.orders import PoolOrder
from scheduler.predict import busy_under, held_order, meter_line

Span = tuple[datetime, datetime]

SENSOR = timedelta(seconds=1)
"""A value of one moment is taken for the mean of the second before, as sensors of cards tell it."""


def bring_up(ctx: Context, state: State, now: datetime) -> None:
    """Put in place of `state.reading` what it would be by now; what was measured stays in `state.measured`."""
    state.measured = reading = state.reading
    if state.past and state.past[-1].at > now:  # the clock was put back: a past that is to come is none
        state.past.clear()
    if reading is None:
        return
    if reading.taken and state.past:
        pools = {model.pool.id: model.pool for model in ctx.pools.values()}
        moved = {name: _moved(state, pools[name], span, now) for name, span in reading.taken.items() if name in pools}
        drawn = {name: kw * moved.get(name, 1.0) for name, kw in reading.pool_kw.items()}
        state.reading = reading = replace(reading, pool_kw=drawn)
    due = partial(seen_or_due_kw, state)
    state.it_kw = {site: sum(due(entry.pool) for entry in site_pools(ctx, site)) for site in ctx.sites}
    if reading.import_taken and state.past:
        spans = {site: span for site, span in reading.import_taken.items() if site in reading.import_kw}
        grown = {site: _import_kw(ctx, state, site, span, now) for site, span in spans.items() if site in ctx.sites}
        imports = {site: kw + grown.get(site, 0.0) for site, kw in reading.import_kw.items()}
        state.reading = replace(reading, import_kw=imports)


def remember(state: State, now: datetime) -> None:
    """Write down which orders hold from now on, and what IT drew before."""
    state.past.append(Moment(now, dict(state.held), dict(state.it_kw)))


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a span: its share, the orders that held in it, and the IT power then, by site."""

    share: float
    held: Mapping[str, PoolOrder]
    it_kw: Mapping[str, float]


def _parts(state: State, span: Span, now: datetime) -> list[_Part]:
    """A span cut at the moments at which orders changed; what is older than all that is remembered counts as the
    oldest of it."""
    ends = min(span[1], now)
    begins, moments = span[0] if span[0] < ends else ends - SENSOR, state.past
    edges = [begins, *(moment.at for moment in moments), ends]
    parts = []
    for number, (left, right) in enumerate(pairwise(edges)):
        share = (min(ends, right) - max(begins, left)) / (ends - begins)
        if share > 0:
            it_kw = moments[number].it_kw if number < len(moments) else state.it_kw
            parts.append(_Part(share, moments[max(0, number - 1)].held, it_kw))
    return parts


def _moved(state: State, pool: GpuPool, span: Span, now: datetime) -> float:
    """What the orders in force make of the power that a pool drew over a span, as a factor."""
    then_kw = sum(part.share * _due_kw(state, pool, part.held.get(pool.id)) for part in _parts(state, span, now))
    return _due_kw(state, pool, state.held.get(pool.id)) / then_kw if then_kw > 0 else 1.0


def _due_kw(state: State, pool: GpuPool, order: PoolOrder | None) -> float:
    order = order or held_order(state, pool)
    return pool_kw(pool, order, busy_under(state, pool, order))


def _import_kw(ctx: Context, state: State, site: str, span: Span, now: datetime) -> float:
    """By how much a site's import has moved since a span that is over: with what IT has moved."""
    then_kw = sum(part.share * part.it_kw.get(site, state.it_kw[site]) for part in _parts(state, span, now))
    moved_kw, line = state.it_kw[site] - then_kw, meter_line(ctx, state, site, now)
    return moved_kw * (line.rising if moved_kw > 0 else line.falling)
