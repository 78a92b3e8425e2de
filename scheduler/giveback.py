"""Gives back what the plan took too much of: when a ceiling holds a site, it is held to the ceiling and no lower.

Why: the plan counts on loads and curves. Where GPUs are less busy, or draw less than their curves say, its caps cut
deeper than anybody asked for, and every point of power too much is throughput given away. Only pools that a ceiling
holds (the plan's own reason) get anything, in merit order, never past the cap up to which a watt is worth its price,
and only what was free with the load of every one of the last seconds, so that nothing is given on the ebb of a load
that flickers. A ceiling that rises is another matter: it is known, and followed at once. Batch pools get higher caps
for the GPUs that work, and no more GPUs: those come from the plan, since a job that is resumed for a minute gains
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from optimizer.curves import cap_for_draw, clipped, hull_of_caps
from optimizer.domain import GpuPool, Plan
from optimizer.reasons import Reason
from optimizer.shed import ShedPool, shed
from scheduler.engine import Context, State
from scheduler.flexibility import pue_now
from scheduler.observing import steady_ticks
from scheduler.orders import PoolOrder, step_index
from scheduler.predict import busy_under
from scheduler.worth import cost_per_wh, pool_value

CEILINGS = frozenset(
    {Reason.DR_EVENT, Reason.SITE_LIMIT, Reason.REBOUND_LIMIT, Reason.SERVICE_FLOOR, Reason.FLOOR_BROKEN}
)
"""Reasons of the plan that a ceiling stands behind. At a floor, or below it, stands who is asked for more than by the
plan's reckoning he can give: where curves and loads turn out better than reckoned, he can."""


def give_back(
    ctx: Context, state: State, pools: list[GpuPool], wish: Mapping[str, PoolOrder], free_kw: float, now: datetime
) -> dict[str, PoolOrder]:
    """`wish` with the caps of pools that a ceiling holds raised into `free_kw` of IT power: what the wish would have
    left free below the present ceiling in each of the last seconds. Who took over in the middle begins at once, or the
    caps that were given back would be taken for some seconds."""
    held = [pool for pool in held_pools(state.plan, pools, now) if busy_under(state, pool, wish[pool.id]) > 0]
    known = state.adopted or all(len(state.loads.get(pool.id, ())) >= steady_ticks(ctx) for pool in held)
    if not held or not known or free_kw <= 0:
        return dict(wish)
    pue = pue_now(ctx, state, held[0].site, now)
    entries = [_entry(state, pool, wish[pool.id], most_w(state, pool, pue, now), now) for pool in held]
    raised = shed(entries, -free_kw).orders
    return {name: PoolOrder(max(order.cap_w, raised[name].cap_w), order.active_gpus) if name in raised else order
            for name, order in wish.items()}  # fmt: skip


def held_pools(plan: Plan | None, pools: list[GpuPool], now: datetime) -> list[GpuPool]:
    """Pools that the plan throttles only because of a limit or an event."""
    if plan is None:
        return []
    step = step_index(plan, now)
    return [pool for pool in pools if pool.id in plan.pools and plan.pools[pool.id].reasons[step] in CEILINGS]


def most_w(state: State, pool: GpuPool, pue: float, now: datetime) -> int:
    """Highest cap at which the last watt is still worth its energy; the highest of all where no price is known."""
    cost = cost_per_wh(state, pool.site, pue, now)
    if cost is None:
        return int(pool.max_cap_w)
    curve = clipped(pool.curve, pool.min_cap_w, pool.max_cap_w)
    hull = hull_of_caps(curve)
    value = pool_value(state, pool, now)
    worth = [part.width_w for part in hull.segments if value * part.slope_per_w >= cost]
    return cap_for_draw(curve, hull.base_w + sum(worth))


def _entry(state: State, pool: GpuPool, order: PoolOrder, most: int, now: datetime) -> ShedPool:
    return ShedPool(
        id=pool.id,
        curve=pool.curve,
        count=pool.count,
        busy=busy_under(state, pool, order),
        cap_w=order.cap_w,
        low_cap_w=order.cap_w,
        high_cap_w=max(order.cap_w, most),
        value_per_gpu_h=pool_value(state, pool, now),
    )
