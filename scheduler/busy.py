"""How many GPUs of a pool work, as somebody says who does not infer it from power.

Why: what a busy GPU draws can be learned, and what a cap would shed can be promised, only where the number of busy ones
is known by other means; inferred from power through the very curve that is in doubt it proves nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from adapters.ports import Reading
from optimizer.domain import Work
from scheduler.engine import Context, State
from scheduler.pools import PoolModel


def known_busy(ctx: Context, state: State, model: PoolModel, reading: Reading, now: datetime) -> float | None:
    """Busy GPUs of a pool (0..count): as its hardware tells, else those that jobs hold (while nobody else works there),
    else the load that is declared for training, else the pool's load signal. None: nobody says."""
    pool = model.pool
    if pool.id in reading.busy_gpus:
        return min(float(pool.count), max(0.0, reading.busy_gpus[pool.id]))
    if pool.work is Work.BATCH:
        foreign = pool.id in state.foreign and state.foreign[pool.id].gpus > 0
        held = sum(gpus for home, gpus in state.grants.values() if home == pool.id)
        return None if foreign else float(min(pool.count, held))
    if isinstance(model.load, str):
        series = ctx.memory.last_good.get(model.load)
        share = series.at(now) if series is not None else None
        return None if share is None else min(1.0, max(0.0, share)) * pool.count
    return model.load * pool.count if pool.work is Work.TRAINING else None


def unwatched(model: PoolModel, readings: Collection[Reading]) -> str | None:
    """Why it can't be noticed that caps don't move a pool's power, with meters that read like this; None where it can.

    For a check before a daemon runs: jobs and signals count as told, since the config names them.
    """
    pool = model.pool
    if not any(pool.id in reading.pool_kw for reading in readings):
        return "no meter reads its power"
    told = any(pool.id in reading.busy_gpus for reading in readings)
    if told or pool.work is not Work.INTERACTIVE or isinstance(model.load, str):
        return None
    return "no meter tells how many of its GPUs work; `load` may name a signal that does"
