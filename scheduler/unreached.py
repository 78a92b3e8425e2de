"""GPUs that do not take their orders count as what they draw, and the others make up for it.

Why: a node that is cut off keeps its caps and follows its own trajectory. A loop that goes on counting on the last
order for all cards of the pool would hold the site above its limit while the node is away, although the others could
keep it. What they draw is read from the pool's meter, else from what the site's meter shows beyond everything else, and
where nobody says they count in full. Where the trajectory that they follow rises, they rise: room is made beforehand.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from adapters.ports import GpuId, Reading
from optimizer.curves import cap_for_draw, draw_at_cap
from optimizer.domain import GpuPool
from scheduler.engine import Context, State
from scheduler.flexibility import pue_now, site_pools
from scheduler.orders import PoolOrder, free_order
from scheduler.supply import measured_kw

Away = Mapping[str, tuple[GpuId, ...]]
LEAST_SHARE = 0.02
"""A pool that is less busy than this tells nothing of its cards' limits."""


def see_unreached(ctx: Context, state: State, reading: Reading | None, now: datetime) -> None:
    """Before loads are read from power: let the pools' models draw as their cards do, those of another writer and those
    that did not take their last order with the limits that they have."""
    away = {pool: gpus for pool, gpus in ctx.dispatcher.unreached().items() if pool in ctx.pools}
    held, apart = held_apart(ctx), _limits_w(ctx, state, away, reading, now)
    ctx.pools.put_yielded({pool: held.get(pool, ()) + apart.get(pool, ()) for pool in (*held, *apart)})


def count_unreached(ctx: Context, state: State, reading: Reading | None, now: datetime) -> bool:
    """Before orders are made: let the pools' models answer an order as their cards will. Who speaks again obeys; the
    others count with no less than the cap in force, because they may come back at any moment. True where somebody is
    away who was not before."""
    away = {pool: gpus for pool, gpus in ctx.dispatcher.unreached(now=True).items() if pool in ctx.pools}
    ctx.pools.put_yielded(held_apart(ctx), _limits_w(ctx, state, away, reading, now, state.held))
    counts = {pool: len(gpus) for pool, gpus in away.items()}
    more = any(count > state.away.get(pool, 0) for pool, count in counts.items())
    if counts != state.away:
        state.wake.set()
    state.away = counts
    return more


def _limits_w(
    ctx: Context,
    state: State,
    away: Away,
    reading: Reading | None,
    now: datetime,
    least: Mapping[str, PoolOrder] | None = None,
) -> dict[str, tuple[float, ...]]:
    """Limits in W, by pool, on the GPUs that are away; no lower than the caps `least`."""
    limits: dict[str, tuple[float, ...]] = {}
    for site in {ctx.pools[pool].pool.site for pool in away}:
        for pool, limit_w in _assumed_w(ctx, state, site, away, reading, now).items():
            held, hand = (least or {}).get(pool), ctx.dispatcher
            least_w = max(held.cap_w, hand.courses.coming_w(pool, hand.monotonic())) if held else 0
            limits[pool] = (max(limit_w, least_w),) * len(away[pool])
    return limits


def held_apart(ctx: Context) -> dict[str, tuple[float, ...]]:
    """Limits in W, by pool, that other writers hold."""
    return {pool: tuple(held.values()) for pool, held in ctx.dispatcher.yielded().items()}


def _assumed_w(
    ctx: Context, state: State, site: str, away: Away, reading: Reading | None, now: datetime
) -> dict[str, float]:
    """Limit in W that the missing cards of each pool seem to have."""
    pools = [ctx.pools.by_limits(model.pool.id).pool for model in site_pools(ctx, site)]
    metered = dict(reading.pool_kw) if reading is not None else {}
    found = {
        pool.id: _limit_w(pool, _busy_share(state, pool, reading), 1000.0 * (metered[pool.id] - _rest_kw(
            state, pool, len(away[pool.id]), reading)) / len(away[pool.id]))
        for pool in pools if pool.id in away and pool.id in metered
    }  # fmt: skip
    blind = [pool for pool in pools if pool.id in away and pool.id not in metered]
    if not blind:
        return found
    beyond_kw = _site_it_kw(ctx, state, site, reading, now)
    if beyond_kw is None:
        return found | {pool.id: float(pool.max_cap_w) for pool in blind}
    for pool in pools:
        beyond_kw -= metered.get(pool.id, _rest_kw(state, pool, len(away.get(pool.id, ())), reading))
    each_w = 1000.0 * beyond_kw / sum(len(away[pool.id]) for pool in blind)
    return found | {pool.id: _limit_w(pool, _busy_share(state, pool, reading), each_w) for pool in blind}


def _rest_kw(state: State, pool: GpuPool, away: int, reading: Reading | None) -> float:
    """What the cards of a pool draw that do take their orders."""
    share = _busy_share(state, pool, reading)
    cap_w = state.held.get(pool.id, free_order(pool)).cap_w
    each_w = pool.curve.idle_w + share * (draw_at_cap(pool.curve, cap_w) - pool.curve.idle_w)
    return (pool.count - away) * each_w / 1000.0


def _busy_share(state: State, pool: GpuPool, reading: Reading | None) -> float:
    told = reading.busy_gpus.get(pool.id) if reading is not None else None
    busy = told if told is not None else state.busy.get(pool.id, float(pool.count))
    return min(1.0, max(0.0, busy / pool.count))


def _limit_w(pool: GpuPool, share: float, drawn_w: float) -> float:
    """The limit that lets a card draw that much on average, inside the pool's own."""
    if share < LEAST_SHARE:
        return float(pool.max_cap_w)
    working_w = pool.curve.idle_w + (drawn_w - pool.curve.idle_w) / share
    return min(pool.max_cap_w, max(pool.min_cap_w, float(cap_for_draw(pool.curve, working_w))))


def _site_it_kw(ctx: Context, state: State, site: str, reading: Reading | None, now: datetime) -> float | None:
    """IT power of the pools by the site's meter: with the overhead of before, or by PUE, whichever leaves more for IT.
    None without that meter."""
    if reading is None or site not in reading.import_kw:
        return None
    import_kw = reading.import_kw[site] - measured_kw(ctx, state, site, now)
    other_kw, known = ctx.sites[site].other_it_kw, state.overhead.get(site)
    settled_kw = import_kw / pue_now(ctx, state, site, now) - other_kw
    return settled_kw if known is None else max(settled_kw, import_kw - known.kw - other_kw)
