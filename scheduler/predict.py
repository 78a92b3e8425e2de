"""What orders will draw, and what the meter will show of it: the feed-forward of the fast loop."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from optimizer.curves import draw_at_cap
from optimizer.domain import GpuPool, Work
from scheduler.engine import Context, State
from scheduler.estimate import pool_kw
from scheduler.flexibility import pue_now
from scheduler.granting import granted
from scheduler.meterline import MeterLine
from scheduler.observing import foreign_gpus
from scheduler.orders import PoolOrder, free_order
from scheduler.parked import asleep_kw


def busy_under(state: State, pool: GpuPool, order: PoolOrder) -> float:
    """Busy GPUs under an order: a batch pool is as busy as it may be (and as others make it, whom no order stops), the
    others follow their load."""
    if pool.work is Work.BATCH:
        return float(min(pool.count, order.active_gpus + foreign_gpus(state, pool.id)))
    return state.busy.get(pool.id, float(pool.count))


def it_kw(state: State, pools: list[GpuPool], orders: Mapping[str, PoolOrder]) -> float:
    """IT power of pools under these orders with the present busy GPUs, and what each pool was last off by."""
    return sum(
        pool_kw(pool, orders[pool.id], busy_under(state, pool, orders[pool.id]))
        + state.bias_kw.get(pool.id, 0.0)
        - asleep_kw(state.parked, pool)
        for pool in pools
    )


def held_it_kw(state: State, pools: list[GpuPool]) -> float:
    """IT power that the orders in force should draw."""
    return it_kw(state, pools, {pool.id: held_order(state, pool) for pool in pools})


def peak_it_kw(state: State, pools: list[GpuPool], orders: Mapping[str, PoolOrder]) -> float:
    """The most IT power that these orders would have drawn in any of the last seconds, with the GPUs busy then."""
    loads = [(pool, state.loads[pool.id]) for pool in pools if pool.work is not Work.BATCH and state.loads.get(pool.id)]
    now_kw = it_kw(state, pools, orders)
    more = [0.0]
    watts = {pool.id: draw_at_cap(pool.curve, orders[pool.id].cap_w) - pool.curve.idle_w for pool, _ in loads}
    for then in range(min((len(seen) for _, seen in loads), default=0)):
        more.append(sum(watts[pool.id] * (seen[-1 - then] - state.busy[pool.id]) for pool, seen in loads) / 1000.0)
    return now_kw + max(more)


QUIET = 0.01
"""Share of a pool's GPUs by which its load rises within a tick when it is called rising."""


def quiet_kw(state: State, pools: list[GpuPool]) -> float:
    """What of `missing_kw` is missing in pools whose load does not rise now."""
    return missing_kw(state, [pool for pool in pools if not rises(state, pool)])


def rises(state: State, pool: GpuPool) -> bool:
    """Whether a pool's load rose within the last tick."""
    seen = state.loads.get(pool.id)
    return seen is not None and len(seen) > 1 and seen[-1] - seen[-2] > QUIET * pool.count


def coming_kw(state: State, pools: list[GpuPool]) -> float:
    """By how much users who came in the last tick raise IT power under the orders in force, by the pools' readings."""
    came = 0.0
    for pool in pools:
        seen = state.loads.get(pool.id)
        if pool.work is Work.INTERACTIVE and seen is not None and len(seen) > 1:
            each_w = draw_at_cap(pool.curve, held_order(state, pool).cap_w) - pool.curve.idle_w
            came += max(0.0, seen[-1] - seen[-2]) * each_w / 1000.0
    return came


def missing_kw(state: State, pools: list[GpuPool], orders: Mapping[str, PoolOrder] | None = None) -> float:
    """IT power that users would add under these orders (else those in force), were there as many as at most lately."""
    held = orders or {pool.id: held_order(state, pool) for pool in pools}
    users = [pool for pool in pools if pool.work is Work.INTERACTIVE and pool.id in state.tops]
    missing = {pool.id: max(0.0, state.tops[pool.id].value - state.busy[pool.id]) for pool in users}
    watts = {pool.id: draw_at_cap(pool.curve, held[pool.id].cap_w) - pool.curve.idle_w for pool in users}
    return sum(watts[pool] * gpus for pool, gpus in missing.items()) / 1000.0


def held_order(state: State, pool: GpuPool) -> PoolOrder:
    """The order that the pool's GPUs have now; where none is in force, no throttling, and the jobs that run."""
    free = free_order(pool)
    running = granted(state, pool.id) if pool.work is Work.BATCH else free.active_gpus
    return state.held.get(pool.id, PoolOrder(free.cap_w, running))


def meter_line(ctx: Context, state: State, site: str, now: datetime) -> MeterLine:
    """Import over IT power in the next second: through what was measured last, or before the first reading through
    PUE. While the meter is silent, cooling may fall no further than it was and rise to what PUE says."""
    pue, model = pue_now(ctx, state, site, now), ctx.sites[site]
    supply_kw, known = state.supply_kw.get(site, 0.0), state.overhead.get(site)
    if known is None or not known.known:
        beside_kw = model.other_it_kw * pue + state.bias_kw.get(site, 0.0) + supply_kw
        return MeterLine(0.0, beside_kw, pue, pue)
    least, most = known.shares
    load_kw = known.it_kw + model.other_it_kw
    cooling_kw = known.kw if known.fresh else max(known.kw, (pue - 1.0) * load_kw)
    import_kw = load_kw + cooling_kw + supply_kw
    return MeterLine(known.it_kw, import_kw, 1.0 + (pue - 1.0) * least, 1.0 + (pue - 1.0) * most)
