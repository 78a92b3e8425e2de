"""Energy of each job: its GPUs' share of what their pool draws, second by second.

Why a share: meters tell pools, not jobs. What idle GPUs draw is nobody's; the rest is split by GPUs, which is exact
where a pool has one cap for all of them.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from optimizer.domain import GpuPool
from scheduler.engine import Context, State
from scheduler.flexibility import pue_now
from scheduler.observing import foreign_gpus, seen_or_due_kw
from scheduler.orders import step_index


def meter_jobs(ctx: Context, state: State, now: datetime) -> None:
    """Book what the jobs drew since the last tick, under the grants that were in force."""
    last = state.last_tick_at
    hours = (now - last).total_seconds() / 3600.0 if last is not None else 0.0
    if not 0.0 < hours <= ctx.timing.interval.total_seconds() / 3600.0:
        return  # the first tick, or a gap in which nobody knows who ran
    held: Counter[str] = Counter()
    for pool, gpus in state.grants.values():
        held[pool] += gpus
    each_kw = {pool: gpu_kw(state, ctx.pools[pool].pool, gpus) for pool, gpus in held.items() if pool in ctx.pools}
    for job, (pool, gpus) in state.grants.items():
        if gpus and pool in each_kw:
            site = ctx.pools[pool].pool.site
            kwh = each_kw[pool] * gpus * pue_now(ctx, state, site, now) * hours
            ctx.sales.burn(job, pool, kwh, kwh / 1000.0 * _price(state, site, now), now)


def gpu_kw(state: State, pool: GpuPool, granted: int) -> float:
    """IT power of one granted GPU: what the pool draws above its idle ones, over those that work."""
    working = granted + foreign_gpus(state, pool.id)
    asleep = state.parked[pool.id].asleep if pool.id in state.parked else 0
    idle_kw = max(0, pool.count - working - asleep) * pool.curve.idle_w / 1000.0
    return max(0.0, seen_or_due_kw(state, pool) - idle_kw) / max(1, working)


def _price(state: State, site: str, now: datetime) -> float:
    """Price of energy per MWh now; before the first plan none is known, and no job runs by plan."""
    plan, problem = state.decision.plan, state.decision.problem
    if plan is None or problem is None:
        return 0.0
    return next(inputs for inputs in problem.sites if inputs.id == site).price_per_mwh[step_index(plan, now)]
