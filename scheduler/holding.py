"""Why a pool's order is not the plan's: what the fast loop holds it to at this moment.

Why: between two plans the fast loop may cap deeper, and a sentence that still tells the plan's reason would be untrue
exactly when somebody asks. Only what is really in force is told.
"""

from __future__ import annotations

from datetime import datetime

from optimizer.curves import throughput_at_cap
from optimizer.domain import GpuPool, Plan
from optimizer.reasons import Reason
from scheduler.calm import BAND
from scheduler.engine import Context, State
from scheduler.orders import PoolOrder, planned_order
from scheduler.overrides import operator_limit_kw, paused
from scheduler.targets import INF, approach_kw, descent_kw
from scheduler.trim import limits_ahead

NOTICEABLE_SHARE = 0.02
"""The fast loop trims by a fraction of a per cent all the time; that needs no reason of its own."""


def held_by(ctx: Context, state: State, pool: GpuPool, plan: Plan, now: datetime) -> tuple[Reason, str] | None:
    """Reason and sentence where the order in force is not the plan's; None where the plan's own reason is true."""
    order, planned, tick = state.orders.get(pool.id), planned_order(plan, pool, now), state.tick
    if paused(state):
        return Reason.OPERATOR_PAUSE, f"{pool.id} is left alone: the operator paused Gridpace."
    if order is None or tick is None or pool.site not in tick.target_kw:
        return None
    waits = _for_latency(ctx, state, pool, order, planned, now) or _for_calm(state, pool, order, planned)
    if waits is not None:
        return waits
    fewer = order.active_gpus < planned.active_gpus
    kept, held_until = state.taken.get(pool.id, (0, now))
    if fewer and now < held_until and order.active_gpus <= kept:
        more_s = (held_until - now).total_seconds()
        rest = f"for up to {more_s:.0f} s: GPUs that were taken from jobs stay taken for a minute"
        return Reason.CHANGE_COST, f"{pool.id} is held at {kept} of {planned.active_gpus} planned GPUs {rest}."
    trimmed = tick.shed_kw.get(pool.site, 0.0) > NOTICEABLE_SHARE * tick.planned_kw.get(pool.site, 0.0)
    if not trimmed or (order.cap_w >= planned.cap_w and not fewer):
        return None
    reason, what, most_kw = _bound(ctx, state, pool.site, now)
    share = throughput_at_cap(pool.curve, order.cap_w)
    gpus = f"{order.active_gpus} of {planned.active_gpus} planned GPUs at " if fewer else ""
    until = f", because {what} holds {pool.site} at {most_kw / 1000:.2f} MW" if most_kw < INF else f", by {what}"
    return reason, f"{pool.id} is held at {gpus}{order.cap_w} W ({share:.0%} throughput) until the next plan{until}."


def _for_latency(
    ctx: Context, state: State, pool: GpuPool, order: PoolOrder, planned: PoolOrder, now: datetime
) -> tuple[Reason, str] | None:
    """Where the latency guard holds a pool above its plan, or something holds it below what its users need."""
    guard, least_w = ctx.latency.get(pool.id), state.latency_caps.get(pool.id, 0)
    if guard is None:
        return None
    if order.cap_w < least_w:
        yielded = f"{pool.id} is held at {order.cap_w} W, below the {least_w} W that its latency objectives need"
        _, what, _ = _bound(ctx, state, pool.site, now)
        return Reason.LATENCY_YIELDS, f"{yielded}, because {what} comes first: {guard.sentence()}."
    if planned.cap_w < order.cap_w <= least_w:
        what = f"{pool.id} is held at {order.cap_w} W instead of the planned {planned.cap_w} W"
        return Reason.LATENCY_GUARD, f"{what} for its users' sake: {guard.sentence()}."
    return None


def _for_calm(state: State, pool: GpuPool, order: PoolOrder, planned: PoolOrder) -> tuple[Reason, str] | None:
    """Where a cap stays because the planned one is hardly better."""
    if not order.cap_w == state.calm_w.get(pool.id) != planned.cap_w:
        return None
    worth = f"to move to the planned {planned.cap_w} W would gain less than {BAND:.0%} of the energy between them"
    return Reason.CHANGE_COST, f"{pool.id} stays at {order.cap_w} W: {worth}."


def _bound(ctx: Context, state: State, site: str, now: datetime) -> tuple[Reason, str, float]:
    """What binds a site now: the strictest of operator, event and limit, else a coming event, else its ramp."""
    tick = state.tick
    assert tick is not None
    operator_kw, target_kw, limit_kw = operator_limit_kw(state, site, now), tick.target_kw[site], tick.limit_kw[site]
    most_kw = min(operator_kw, target_kw, limit_kw)
    margin_kw = state.surprises[site].margin_kw(most_kw, ctx.margin) if site in state.surprises else 0.0
    if state.setpoint_kw.get(site, most_kw) < most_kw - 2.0 * margin_kw:
        own = ctx.sites[site].ramp_down_kw_per_min
        coming_kw = approach_kw(site, ctx.ledger.active(now), now, None, 0.0, own)
        lower_kw = descent_kw(limits_ahead(state, site), now, None, 0.0, own) if own < INF else INF
        if lower_kw < min(coming_kw, tick.planned_kw[site]):
            return Reason.SITE_LIMIT, "the way down to a lower import limit", INF
        if coming_kw < tick.planned_kw[site]:
            return Reason.DR_EVENT, "the way down to a demand-response event", INF
        return Reason.RAMP_LIMIT, "the site's ramp limit", INF
    if operator_kw <= most_kw:
        return Reason.OPERATOR_ORDER, "the operator's limit", most_kw
    if target_kw <= most_kw:
        return Reason.DR_EVENT, "a demand-response event", most_kw
    return Reason.SITE_LIMIT, "its import limit", most_kw
