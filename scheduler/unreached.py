"""GPUs that do not take their orders count as what they draw, and the others make up for it.

Why: a node that is cut off keeps its caps and follows its own trajectory. A loop that goes on counting on the last
order for all cards of the pool would hold the site above its limit while the node is away, although the others could
keep it. What they draw is read from the pool's meter, else from what the site's meter shows beyond everything else, and
where nobody says they count in full. Where the trajectory that they follow rises, they rise: room is made beforehand.

A limit stands still, readings don't: what a few cards seem to have is the small difference of two large figures, and
is averaged over the last seconds. Followed from second to second, it made the caps of all others follow noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from adapters.ports import GpuId, Reading
from optimizer.curves import cap_for_draw, draw_at_cap
from optimizer.domain import GpuPool
from scheduler.engine import Context, State
from scheduler.estimate import Seeming
from scheduler.flexibility import pue_now, site_pools
from scheduler.orders import free_order
from scheduler.supply import measured_kw

Away = Mapping[str, tuple[GpuId, ...]]
LEAST_SHARE = 0.02
"""A pool that is less busy than this tells nothing of its cards' limits."""


def see_unreached(ctx: Context, state: State, reading: Reading | None, now: datetime) -> None:
    """Before loads are read from power: let the pools' models draw as their cards do, those of another writer and those
    that did not take their last order with the limits that they have."""
    away = {pool: gpus for pool, gpus in ctx.dispatcher.unreached().items() if pool in ctx.pools}
    _assume(ctx, state, away, reading, now)
    held, apart = held_apart(ctx), {pool: (state.away_w[pool].limit_w,) * len(gpus) for pool, gpus in away.items()}
    ctx.pools.put_yielded({pool: held.get(pool, ()) + apart.get(pool, ()) for pool in (*held, *apart)})


def count_unreached(ctx: Context, state: State, reading: Reading | None, now: datetime) -> bool:
    """Before orders are made: let the pools' models answer an order as their cards will. Who speaks again obeys; the
    others count with no less than the cap in force, because they may come back at any moment. True where somebody is
    away who was not before."""
    away = {pool: gpus for pool, gpus in ctx.dispatcher.unreached(now=True).items() if pool in ctx.pools}
    known = {pool: seeming for pool, seeming in state.away_w.items() if seeming.count == len(away.get(pool, ()))}
    if known.keys() != away.keys():
        _assume(ctx, state, away, reading, now)
        state.away_w |= known
    ctx.pools.put_yielded(held_apart(ctx), {pool: _least_w(ctx, state, pool, len(away[pool])) for pool in away})
    counts = {pool: len(gpus) for pool, gpus in away.items()}
    more = any(count > state.away.get(pool, 0) for pool, count in counts.items())
    if counts != state.away:
        state.wake.set()
    state.away = counts
    return more


def _assume(ctx: Context, state: State, away: Away, reading: Reading | None, now: datetime) -> None:
    """Take in what the cards that are away seem to have by one reading. Other cards than before begin anew."""
    before = state.away_w
    state.away_w = {}
    for site in {ctx.pools[pool].pool.site for pool in away}:
        for pool, limit_w in _assumed_w(ctx, state, site, away, reading, now).items():
            last = before.get(pool)
            same = last is not None and last.count == len(away[pool])
            state.away_w[pool] = last.seen(limit_w) if last and same else Seeming(len(away[pool]), limit_w)


def _least_w(ctx: Context, state: State, pool: str, count: int) -> tuple[float, ...]:
    """Limits in W on the cards of a pool that are away; no lower than the cap in force, or what their trajectory is
    about to rise to."""
    held, hand = state.held.get(pool), ctx.dispatcher
    least_w = max(held.cap_w, hand.courses.coming_w(pool, hand.monotonic())) if held else 0
    return (max(state.away_w[pool].limit_w, float(least_w)),) * count


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
