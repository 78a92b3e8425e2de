"""One site in one tick: from the plan's wish and the ceiling to orders that meet the set-point.

Feed-forward: the curves and the measured number of busy GPUs predict what an order draws. Feedback: what the prediction
was last off by (`bias`) is carried along. What a ceiling turns out not to need is given back first (`giveback`).
Above the set-point the cheapest kW go first, down to the floors; below it (a ramp that forbids falling faster) the last
orders are given up step by step.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from optimizer.domain import GpuPool, GridEvent, Work
from optimizer.shed import ShedPool, shed
from scheduler.engine import Context, SiteModel, State
from scheduler.estimate import import_kw, pool_kw
from scheduler.flexibility import pue_now, site_pools
from scheduler.giveback import give_back
from scheduler.granting import filled, granted
from scheduler.observing import foreign_gpus
from scheduler.orders import PoolOrder, free_order, whole_order
from scheduler.overrides import operator_limit_kw
from scheduler.parked import asleep_kw
from scheduler.safety import floor_cap_w
from scheduler.supply import asked_kw, relieve, sun_kw
from scheduler.targets import Ceiling, ceiling, setpoint

SLACK_KW = 0.5
"""A difference between wish and set-point that is not worth an order."""


@dataclass(frozen=True)
class SiteTrim:
    """Orders of one site's pools and how they came about; `short_kw` is what no lever could shed."""

    ceiling: Ceiling
    setpoint_kw: float
    planned_kw: float
    shed_kw: float
    short_kw: float
    orders: Mapping[str, PoolOrder]
    devices_kw: Mapping[str, float] = field(default_factory=dict)


def trim_site(
    ctx: Context,
    state: State,
    site: str,
    events: tuple[GridEvent, ...],
    now: datetime,
    then: datetime,
    below_floor: Collection[str],
) -> SiteTrim:
    """Set-point and orders of `site` until the next tick at `then`."""
    model = ctx.sites[site]
    pools = [entry.pool for entry in site_pools(ctx, site)]
    wish = filled(ctx, state, {pool.id: whole_order(state.plan, pool, state.jobs, now) for pool in pools}, now)
    devices_kw = asked_kw(ctx, state, site, now)
    state.supply_kw[site] = sum(devices_kw.values()) - sun_kw(ctx, state, site, now)
    top = ceiling(site, limit_now(ctx, state, site, now), events, operator_limit_kw(state, site, now), now, then)
    most_kw = top.kw * (1.0 - ctx.margin)
    planned_kw = predict(ctx, state, model, pools, wish, now)
    wish = give_back(ctx, state, site, pools, wish, most_kw - planned_kw, now)
    wish_kw = predict(ctx, state, model, pools, wish, now)
    last_kw = state.setpoint_kw.get(site)
    seconds = (then - now).total_seconds()
    aim_kw = setpoint(wish_kw, last_kw, most_kw, seconds, model.ramp_up_kw_per_min, model.ramp_down_kw_per_min)
    floors = {pool.id: int(pool.min_cap_w) if site in below_floor else floor_cap_w(pool) for pool in pools}
    base, base_kw = wish, wish_kw
    if aim_kw > wish_kw + SLACK_KW:
        base = {pool.id: _higher(_held(state, pool), wish[pool.id]) for pool in pools}
        base_kw = predict(ctx, state, model, pools, base, now)
        floors = {pool.id: wish[pool.id].cap_w for pool in pools}
    excess_kw = max(0.0, base_kw - aim_kw)
    excess_kw -= relieve(ctx, state, site, devices_kw, excess_kw)
    pue = pue_now(ctx, state, site, now)
    orders, short_kw = shed_orders(state, pools, base, floors, excess_kw / pue)
    shed_kw = max(0.0, wish_kw - aim_kw)
    return SiteTrim(top, aim_kw, planned_kw, shed_kw, short_kw * pue, orders, devices_kw)


def limit_now(ctx: Context, state: State, site: str, now: datetime) -> float:
    """The hard import limit of the present interval."""
    problem = state.problem
    if problem is not None and problem.grid.start <= now < problem.grid.end:
        inputs = next(inputs for inputs in problem.sites if inputs.id == site)
        return inputs.limit_kw[problem.grid.index(now)]
    return ctx.sites[site].limit_kw


def predict(
    ctx: Context, state: State, model: SiteModel, pools: list[GpuPool], orders: Mapping[str, PoolOrder], now: datetime
) -> float:
    """Import that these orders would give with the present busy GPUs."""
    it_kw = sum(
        pool_kw(pool, orders[pool.id], busy_under(state, pool, orders[pool.id]))
        + state.bias_kw.get(pool.id, 0.0)
        - asleep_kw(state.parked, pool)
        for pool in pools
    )
    bias_kw = state.bias_kw.get(model.id, 0.0) + state.supply_kw.get(model.id, 0.0)
    return import_kw(it_kw, model.other_it_kw, pue_now(ctx, state, model.id, now), bias_kw)


def busy_under(state: State, pool: GpuPool, order: PoolOrder) -> float:
    """Busy GPUs under an order: a batch pool is as busy as it may be (and as others make it, whom no order stops), the
    others follow their load."""
    if pool.work is Work.BATCH:
        return float(min(pool.count, order.active_gpus + foreign_gpus(state, pool.id)))
    return state.busy.get(pool.id, float(pool.count))


def _held(state: State, pool: GpuPool) -> PoolOrder:
    """The order that the pool's GPUs have now; where none is in force, no throttling, and the jobs that run."""
    free = free_order(pool)
    running = granted(state, pool.id) if pool.work is Work.BATCH else free.active_gpus
    return state.held.get(pool.id, PoolOrder(free.cap_w, running))


def _higher(one: PoolOrder, other: PoolOrder) -> PoolOrder:
    return PoolOrder(max(one.cap_w, other.cap_w), max(one.active_gpus, other.active_gpus))


def shed_orders(
    state: State, pools: list[GpuPool], base: Mapping[str, PoolOrder], floors: Mapping[str, int], kw: float
) -> tuple[dict[str, PoolOrder], float]:
    """`base` with `kw` of IT power taken off in merit order; what remains when every lever is used."""
    if kw <= 1e-6:
        return dict(base), 0.0
    entries = []
    for pool in pools:
        order, batch = base[pool.id], pool.work is Work.BATCH
        entries.append(
            ShedPool(
                id=pool.id,
                curve=pool.curve,
                count=pool.count,
                busy=busy_under(state, pool, order),
                cap_w=order.cap_w,
                low_cap_w=min(order.cap_w, floors[pool.id]),
                high_cap_w=int(pool.max_cap_w),
                value_per_gpu_h=pool_value(state, pool),
                may_idle=batch,
                low_busy=float(kept_gpus(state, pool) + foreign_gpus(state, pool.id)) if batch else 0.0,
            )
        )
    result = shed(entries, kw)
    orders = {
        pool.id: PoolOrder(
            result.orders[pool.id].cap_w,
            max(0, min(result.orders[pool.id].active_gpus - foreign_gpus(state, pool.id), base[pool.id].active_gpus))
            if pool.work is Work.BATCH
            else pool.count,
        )
        for pool in pools
    }
    return orders, max(0.0, result.remaining_kw)


def pool_value(state: State, pool: GpuPool) -> float:
    """Worth of a GPU-hour in a pool; a batch pool's is that of its least valuable running job."""
    if pool.work is not Work.BATCH:
        return pool.value_per_gpu_h
    running = [job for job in state.jobs if job.gpus and state.grants.get(job.id, ("", 0))[0] == pool.id]
    return min((job.value_per_gpu_h + job.late_penalty for job in running), default=0.0)


def kept_gpus(state: State, pool: GpuPool) -> int:
    """GPUs of a batch pool that run work which must not be interrupted."""
    return sum(
        job.gpus
        for job in state.jobs
        if not job.preemptible and job.started_at is not None and state.grants.get(job.id, ("", 0))[0] == pool.id
    )
