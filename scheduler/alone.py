"""What a site may draw while its nodes follow a trajectory alone, with nobody there to correct it.

Why apart: the fast loop moves limits and clocks, sees who comes, and has batteries help; nodes that are left alone have
the caps that they were told, and whatever comes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from math import ceil

from optimizer.domain import GpuPool, Work
from scheduler.engine import Context, State
from scheduler.estimate import Foreign, import_kw
from scheduler.flexibility import pue_now, site_pools
from scheduler.levers import Clocked
from scheduler.orders import PoolOrder
from scheduler.pools import Pools
from scheduler.predict import it_kw, meter_line, missing_kw

Orders = Mapping[str, PoolOrder]

SAME_KW = 0.01
"""Power that is not worth a step."""


def alone(ctx: Context, *, last: bool = False) -> Context:
    """The context as nodes alone see it: no trajectory moves a pool that is on clocks. Agents keep the clocks that they
    have, but which those are nobody knows beforehand: the fast loop may let them go after the word that reckons with
    them. So its cards count as they draw at free clocks; in the `last` word, after which nobody moves them, at the
    clock that all of them are locked to."""
    models = dict(ctx.pools)
    for pool, model in models.items():
        held = ctx.pools.clocked(pool)
        if held is not None:
            most_w = ceil(_most_w(ctx, model.pool, held, last=last))
            models[pool] = replace(model, pool=replace(model.pool, min_cap_w=float(most_w), max_cap_w=float(most_w)))
    return replace(ctx, pools=Pools(models))


def _most_w(ctx: Context, pool: GpuPool, held: Clocked, *, last: bool) -> float:
    mhz = ctx.clocks.locked_mhz.get(pool.id) if last and ctx.clocks is not None else None
    if mhz is None or ctx.clocks is None or any(gpu in ctx.clocks.yielded for gpu in ctx.clocks.gpus[pool.id]):
        return held.full_w
    return held.draw_w(pool.curve.idle_w, mhz / held.max_mhz)


def crowded(ctx: Context, state: State) -> State:
    """The state with every card awake and at work, no battery that helps, and no floor above the service floors: what
    may come within a day."""
    pools = [model.pool for model in ctx.pools.values()]
    foreign = {pool.id: Foreign() for pool in pools if pool.work is Work.BATCH}
    for pool, others in foreign.items():
        others.see(float(ctx.pools[pool].pool.count))
    return replace(
        state,
        busy={pool.id: float(pool.count) for pool in pools},
        bias_kw={name: max(0.0, kw) for name, kw in state.bias_kw.items()},
        foreign=foreign,
        tops={},
        parked={},
        supply_kw={},
        latency_caps={},
        tier_caps={},
    )


def settled_kw(ctx: Context, state: State, site: str, orders: Orders, at: datetime) -> float:
    """Import under these orders, once cooling has followed."""
    pools = [entry.pool for entry in site_pools(ctx, site)]
    most_kw = it_kw(state, pools, orders) + missing_kw(state, pools, orders)
    beside_kw = state.supply_kw.get(site, 0.0)
    return import_kw(most_kw, ctx.sites[site].other_it_kw, pue_now(ctx, state, site, at)) + beside_kw


def over_it_kw(
    ctx: Context,
    state: State,
    site: str,
    orders: Orders,
    cap_kw: float,
    planned_kw: float,
    at: datetime,
    *,
    lagging: bool,
) -> float:
    """By how much IT power under `orders` may come to lie above what a cap on import leaves, once the fast loop's
    margin is kept: by the plan, by the loop's own reckoning, and through the meter as it stands while cooling lags."""
    surprises, pue = state.surprises.get(site), pue_now(ctx, state, site, at)
    margin_kw = surprises.margin_kw(cap_kw, ctx.margin) if surprises is not None else ctx.margin * cap_kw
    room_kw, pools = cap_kw - margin_kw, [entry.pool for entry in site_pools(ctx, site)]
    over = [(planned_kw - room_kw) / pue, (settled_kw(ctx, state, site, orders, at) - room_kw) / pue]
    if lagging:
        most_kw = it_kw(state, pools, orders) + missing_kw(state, pools, orders)
        over.append(most_kw - meter_line(ctx, state, site, at).it_of(room_kw))
    return max(0.0, *over)
