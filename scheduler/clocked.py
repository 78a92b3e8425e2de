"""Pools that are moved by their SM clocks, in the fast loop: which ones, at which clock, and in which words.

An order is watts of a busy GPU for every lever; only here it becomes a clock, and the pool's limit is left where it was
found.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from adapters.ports import Reading
from optimizer.reasons import Note
from scheduler.engine import Context, State
from scheduler.orders import PoolOrder
from scheduler.pools import Pools
from scheduler.safety import floor_cap_w
from scheduler.unmoved import busy_draw_w, most_draw_w


def learn_levers(ctx: Context, state: State, reading: Reading | None, now: datetime) -> None:
    """Let every pool's lever learn from a reading, where somebody says how many GPUs work and orders are obeyed."""
    if ctx.clocks is None or reading is None or not ctx.dispatcher.writes:
        return
    levers = ctx.clocks.levers
    for pool_id in levers.ranges:
        pool = ctx.pools.by_limits(pool_id).pool
        draw_w = busy_draw_w(ctx, state, pool_id, reading, now)
        most_w = most_draw_w(ctx, state, pool_id, reading, now)
        if levers.see(pool, floor_cap_w(pool), draw_w, most_w, ctx.clocks.locked_mhz.get(pool_id)):
            state.held.pop(pool_id, None)  # its orders have another meaning from now on
    ctx.pools.put_clocked(levers.clocked)


def limits_of(pools: Pools, orders: Mapping[str, PoolOrder]) -> dict[str, PoolOrder]:
    """The orders as limits: a pool that is moved by clocks keeps its highest."""
    return {
        pool: PoolOrder(int(pools.by_limits(pool).pool.max_cap_w), order.active_gpus)
        if pools.clocked(pool) is not None
        else order
        for pool, order in orders.items()
    }


def move_clocks(ctx: Context, orders: Mapping[str, PoolOrder], lease_s: float, now: datetime) -> tuple[Note, ...]:
    """Lock the clocks that the orders ask for, and let the others go."""
    if ctx.clocks is None or not ctx.dispatcher.writes:
        return ()
    wanted: dict[str, int | None] = {}
    for pool, order in orders.items():
        held = ctx.pools.clocked(pool)
        if held is not None:
            wanted[pool] = held.mhz(ctx.pools[pool].pool.curve.idle_w, order.cap_w)
    return ctx.clocks.apply(wanted, lease_s, now)


def locked_mhz(ctx: Context) -> dict[str, int]:
    """SM clocks that are locked now, by pool."""
    return dict(ctx.clocks.locked_mhz) if ctx.clocks is not None else {}


def yielded_gpus(ctx: Context) -> dict[str, int]:
    """GPUs of each pool that are left to another writer, of their limit or of their clock."""
    found = {pool: len(gpus) for pool, gpus in ctx.dispatcher.yielded().items()}
    if ctx.clocks is not None and ctx.clocks.yielded:
        for pool, gpus in ctx.clocks.gpus.items():
            if left := sum(gpu in ctx.clocks.yielded for gpu in gpus):
                found[pool] = found.get(pool, 0) + left
    return found


def clock_text(ctx: Context, pool: str) -> str:
    """Why clocks move a pool, for `explain`; empty where its limits do."""
    held = ctx.pools.clocked(pool)
    if held is None:
        return ""
    mhz = locked_mhz(ctx).get(pool)
    now = f"locked to {mhz:,} MHz" if mhz else "free now"
    left = sum(gpu in ctx.clocks.yielded for gpu in ctx.clocks.gpus[pool]) if ctx.clocks is not None else 0
    others = f" The clocks of {left} of its GPUs are left to another writer." if left else ""
    return (
        f" Its limits don't move it (a busy GPU draws {held.full_w:.0f} W at free clocks), its SM clocks do: they are "
        f"{now}, of at most {held.max_mhz:,} MHz.{others}"
    )
