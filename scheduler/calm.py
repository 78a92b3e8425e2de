"""Caps that a price moves: they stay where another one is worth next to nothing.

Why: a plan finds the best cap to the last cent. Where the price is about what a watt is worth, a per cent of it (of the
weather's part in the PUE, of what was learned of a curve) moves caps from one end of a curve's segment to the other,
hour by hour, and back, for less than anybody can measure. So a cap that was ordered for a price stays until another one
is better by a clear part of the energy that it moves. What a limit, an event, a floor or a peak orders is followed to
the watt, and begins anew afterwards.

Likewise who gives, where a ceiling takes more than was planned: at a plan's optimum the last watts of several pools are
worth the same, and each plan tells them apart by another digit. So whoever gives goes on giving what he gave until
another one is cheaper by that part.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from math import inf

from optimizer.curves import draw_at_cap, throughput_at_cap
from optimizer.domain import GpuPool, Work
from optimizer.reasons import Reason
from scheduler.engine import State
from scheduler.orders import PoolOrder, step_index
from scheduler.predict import busy_under
from scheduler.worth import cost_per_wh, pool_value

BAND = 0.05
"""Part of the cost of the energy between two caps that the better one must be better by."""

PRICED = frozenset({Reason.FULL_POWER, Reason.HIGH_PRICE, Reason.CHEAP_WINDOW, Reason.CARBON, Reason.CHANGE_COST})
"""Reasons of a plan behind which stands the price of energy alone."""


def calmed(
    state: State, pools: list[GpuPool], orders: Mapping[str, PoolOrder], pue: float, now: datetime
) -> dict[str, PoolOrder]:
    """The plan's `orders`, with the caps in `state.calm_w` where those are as good; it remembers those that it follows.
    Caps of batch pools are what their jobs need by their deadlines, and are followed."""
    found = dict(orders)
    for pool in pools:
        order = orders[pool.id]
        if pool.work is Work.BATCH or not _priced(state, pool, now):
            state.calm_w.pop(pool.id, None)
            continue
        before = state.calm_w.setdefault(pool.id, order.cap_w)
        if before != order.cap_w and _as_good(state, pool, before, order.cap_w, pue, now):
            found[pool.id] = PoolOrder(before, order.active_gpus)
        else:
            state.calm_w[pool.id] = order.cap_w
    return found


def given_w(state: State, pool: GpuPool, base: PoolOrder) -> float:
    """What a pool draws above idle in W under the order in force, where that is lower than `base` (it gives, or its
    plan has just been raised); infinite where it is not."""
    held = state.held.get(pool.id)
    if held is None or (held.cap_w >= base.cap_w and held.active_gpus >= base.active_gpus):
        return inf
    busy = min(busy_under(state, pool, held), busy_under(state, pool, base))
    return busy * (draw_at_cap(pool.curve, min(held.cap_w, base.cap_w)) - pool.curve.idle_w)


def _priced(state: State, pool: GpuPool, now: datetime) -> bool:
    """Whether the plan's order for a pool is for the price of energy alone."""
    plan = state.plan
    return plan is not None and pool.id in plan.pools and plan.pools[pool.id].reasons[step_index(plan, now)] in PRICED


def _as_good(state: State, pool: GpuPool, before_w: int, wish_w: int, pue: float, now: datetime) -> bool:
    """Whether between two caps lies no more than BAND of what the energy between them costs. Where a peak is paid for
    now, drawing more than planned may cost as much as a month of that."""
    cost = cost_per_wh(state, pool.site, pue, now)
    if cost is None:
        return False
    less_w = draw_at_cap(pool.curve, before_w) - draw_at_cap(pool.curve, wish_w)
    if less_w > 0 and _peaks(state, pool.site, now):
        return False
    work = throughput_at_cap(pool.curve, wish_w) - throughput_at_cap(pool.curve, before_w)
    energy = -cost * less_w
    return abs(pool_value(state, pool, now) * work - energy) < BAND * abs(energy)


def _peaks(state: State, site: str, now: datetime) -> bool:
    """Whether more than energy is paid for what a site draws now: the highest interval of a month, or of the grid."""
    problem = state.problem
    assert problem is not None, "a price is known"
    inputs, t = next(inputs for inputs in problem.sites if inputs.id == site), problem.grid.index(now)
    return bool(inputs.coincident) or any(one.price_per_kw > 0 and one.active[t] for one in inputs.demand_charges)
