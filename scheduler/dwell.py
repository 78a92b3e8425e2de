"""GPUs that the fast loop takes from jobs stay taken for a minute.

Why: pausing a job and resuming it costs it seconds of work at least, often minutes, and the load of other pools moves
every second. A power limit may follow that; a job may not. What the GPUs leave free meanwhile goes to other pools.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from optimizer.domain import GpuPool, Work
from scheduler.engine import State
from scheduler.orders import PoolOrder
from scheduler.predict import held_order

DWELL = timedelta(seconds=60)


def dwelling(state: State, orders: Mapping[str, PoolOrder], now: datetime) -> dict[str, PoolOrder]:
    """Orders without the GPUs that were taken less than DWELL ago."""
    held = {pool: gpus for pool, (gpus, until) in state.taken.items() if now < until}
    return {
        pool: PoolOrder(order.cap_w, min(order.active_gpus, held.get(pool, order.active_gpus)))
        for pool, order in orders.items()
    }


def take(
    state: State, pools: list[GpuPool], wish: Mapping[str, PoolOrder], orders: Mapping[str, PoolOrder], now: datetime
) -> None:
    """Remember the batch pools of which `orders` leave fewer GPUs active than are now and than are wished. (A rise that
    ramps spread over many ticks takes nothing.)"""
    for pool in pools:
        left = orders[pool.id].active_gpus
        if pool.work is Work.BATCH and left < min(held_order(state, pool).active_gpus, wish[pool.id].active_gpus):
            state.taken[pool.id] = left, now + DWELL
