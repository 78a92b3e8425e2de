"""What the latency guard asks of a site's orders, and what it yields to.

The order of precedence: cards' ranges; an emergency that the operator allowed, hard limits and the operator's orders;
the guard; events, ramps and the plan. So in a tick with a slip other pools are shed first, in merit order, and only
what a hard limit (or an operator's) still needs comes out of the pool whose users wait.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from optimizer.curves import cap_for_throughput
from optimizer.domain import GpuPool
from optimizer.reasons import Note, Reason, Severity
from scheduler.engine import Context, State
from scheduler.latency import speed_of, status_of
from scheduler.orders import PoolOrder, free_order
from scheduler.safety import floor_cap_w
from scheduler.status import LatencyStatus
from scheduler.store.store import StoreDegraded

KIND = "latency"


def watch_latency(ctx: Context, state: State, now: datetime) -> tuple[Note, ...]:
    """Judge every pool's latencies, and set the lowest cap that each allows now."""
    notes: list[Note] = []
    for pool_id, guard in ctx.latency.items():
        pool = ctx.pools[pool_id].pool
        held = state.held.get(pool_id, free_order(pool))
        load = min(1.0, state.busy.get(pool_id, float(pool.count)) / pool.count)
        acted = guard.floor > 0
        notes += guard.step(load, speed_of(pool, held.cap_w), speed_of(pool, pool.max_cap_w), now)
        if guard.floor > 0 and not acted:
            state.wake.set()  # a plan that knows of it, at once
        floor = guard.floor_at(load, now)
        if floor > pool.floor:
            cap_w = max(pool.min_cap_w, cap_for_throughput(pool.curve, min(floor, speed_of(pool, pool.max_cap_w))))
            state.latency_caps[pool_id] = int(min(pool.max_cap_w, cap_w)) if floor < 1.0 else int(pool.max_cap_w)
        else:
            state.latency_caps.pop(pool_id, None)
    return tuple(notes)


def held_caps(state: State) -> dict[str, int]:
    """Lowest caps that users' latencies and jobs' tiers allow, where there are such."""
    return {**state.latency_caps, **state.tier_caps}


def kept_cap_w(state: State, pool: GpuPool) -> int:
    """Lowest cap at which the floor, latency objectives and tiers of jobs are kept."""
    return max(floor_cap_w(pool), held_caps(state).get(pool.id, 0))


def raised(state: State, orders: Mapping[str, PoolOrder]) -> dict[str, PoolOrder]:
    """The orders with no cap below what latencies and tiers allow."""
    least = held_caps(state)
    return {
        pool: replace(order, cap_w=least[pool]) if least.get(pool, 0) > order.cap_w else order
        for pool, order in orders.items()
    }


def yields(
    state: State, pools: list[GpuPool], orders: Mapping[str, PoolOrder], why: str, now: datetime
) -> tuple[Note, ...]:
    """Say which pools are held below what their latencies need, and by what."""
    low = [pool for pool in pools if state.latency_caps.get(pool.id, 0) > orders[pool.id].cap_w]
    return tuple(
        Note(
            Reason.LATENCY_YIELDS,
            pool.id,
            f"{pool.id} stays at {orders[pool.id].cap_w} W, below the {state.latency_caps[pool.id]} W that its latency "
            f"objectives need: {why} comes first",
            Severity.ALERT,
            now,
        )
        for pool in low
    )


def latencies(ctx: Context) -> dict[str, tuple[LatencyStatus, ...]]:
    """What is measured now, by pool."""
    return {pool: status_of(guard, {}) for pool, guard in ctx.latency.items()}


def needed(ctx: Context, state: State) -> dict[str, float]:
    """Throughput that latencies need now, by pool; none where they need no more than the floor."""
    caps = dict(state.latency_caps)  # the fast loop changes it while others ask
    return {pool: speed_of(ctx.pools[pool].pool, cap_w) for pool, cap_w in caps.items()}


def latency_text(ctx: Context, state: State, pool: str) -> str:
    """What a pool's latencies are and need, as a sentence; empty without objectives."""
    guard = ctx.latency.get(pool)
    if guard is None:
        return ""
    least_w = state.latency_caps.get(pool)
    needs = f"they need {least_w} W at least" if least_w is not None else "they need no more than its floor"
    return f" Latencies ({guard.state.value}): {guard.sentence()}; {needs}."


def keep_books(ctx: Context) -> None:
    """Write down what was learned, where that is news. A store that can't leaves it for the next time."""
    for pool, guard in ctx.latency.items():
        if not guard.changed:
            continue
        try:
            ctx.store.put(KIND, pool, {name: book.as_record() for name, book in guard.books.items()})
        except StoreDegraded:
            return
        guard.changed = False
