"""What the nodes do should the daemon fall silent: the rest of the published plan, to the end of what was promised.

Why: a dead daemon must neither leave a GPU capped for ever nor let a site spring back in the middle of an event. The
trajectory reaches to the end of every event in progress, its ramp included, or three intervals; after it the agent
releases by a ramp of its own. An interval in which an event begins or ends is planned by its mean; here, where no fast
loop watches the moment, each part of it begins with the orders of a neighbour that keeps the event's cap throughout.
What would still be over the cap is shed from them as the fast loop would: with its margin, with what its predictions
were off by, with as many users as there were at most lately, and with cooling that follows IT only after minutes.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from itertools import pairwise

from optimizer.domain import GridEvent, Plan
from optimizer.envelope import INF, event_breakpoints, tightest_kw
from scheduler.engine import Context, State
from scheduler.estimate import import_kw
from scheduler.flexibility import pue_now, site_pools
from scheduler.latency_trim import kept_cap_w
from scheduler.orders import PoolOrder, planned_order, step_index
from scheduler.predict import it_kw, meter_line, missing_kw
from scheduler.safety import LEASE_INTERVALS, clamp, emergency_sites
from scheduler.trim import shed_orders

Steps = list[tuple[float, Mapping[str, PoolOrder]]]

SLACK = 1.005
"""A plan this little above an event's cap fits it: the rest is shed."""

LAG = timedelta(minutes=10)
"""Cooling may take so long to follow a fall of IT: until then it counts as it is now, where that is more."""

INSTANT = timedelta(microseconds=1)


def trajectory(ctx: Context, state: State, plan: Plan, now: datetime) -> tuple[Steps, float]:
    """(seconds from now, orders by pool) at each change of the plan, and the seconds until which it holds."""
    until = now + LEASE_INTERVALS * ctx.timing.interval
    events = ctx.ledger.active(now)
    for event in events:
        if event.start <= until:
            until = max(until, event.end + timedelta(seconds=event.ramp_out_s))
    edges = {*plan.grid.starts, *(cut for event in events for cut in event_breakpoints(event))}
    fallen = {cut for event in events for cut in fallen_at(event)}
    moments = [now, *sorted(edge for edge in edges if now < edge < until), until]
    steps: Steps = []
    for at, end in pairwise(moments):
        below_floor = emergency_sites(ctx.emergency_programs, events, at)
        wished = {
            pool: order
            for site in ctx.sites
            for pool, order in _orders(ctx, state, plan, site, (at, end), lagging=at < now + LAG).items()
        }
        orders, _ = clamp(wished, (model.pool for model in ctx.pools.values()), below_floor, at)
        if not steps or at in fallen or orders != steps[-1][1]:
            steps.append(((at - now).total_seconds(), orders))
    return steps, (until - now).total_seconds()


def fallen_at(event: GridEvent) -> tuple[datetime, ...]:
    """Moments from which on an event's cap is as low as its ramp in, or a stricter target, has brought it. A step there
    says so even where the caps stay: who commands may hold others until then, and die (`AgentCore._overtaken`)."""
    stricter = [after.start for before, after in pairwise(event.targets) if after.value < before.value]
    return (event.start + timedelta(seconds=event.ramp_in_s), *stricter)


def _orders(
    ctx: Context, state: State, plan: Plan, site: str, span: tuple[datetime, datetime], *, lagging: bool
) -> dict[str, PoolOrder]:
    """Orders of a site's pools over a span: as planned for it where that keeps the events' cap, else as planned for the
    interval before or after, else the least of the three; what is over the cap then is shed in merit order."""
    at, end = span
    mine = [event for event in ctx.ledger.active(at) if event.site == site]
    cap_kw = min(tightest_kw(mine, at), tightest_kw(mine, end - INSTANT))
    here, starts, planned_kw = step_index(plan, at), plan.grid.starts, plan.sites[site].import_kw
    near = [index for index in (here, here - 1, here + 1) if 0 <= index < len(starts)]
    fitting = [index for index in near if planned_kw[index] <= cap_kw * SLACK]
    taken = fitting[0] if fitting else min(near, key=lambda index: planned_kw[index])
    pools = [entry.pool for entry in site_pools(ctx, site)]
    orders = {pool.id: planned_order(plan, pool, starts[taken]) for pool in pools}
    if cap_kw == INF:
        return orders
    over_kw = over_it_kw(ctx, state, site, orders, max(0.0, cap_kw), planned_kw[taken], at, lagging=lagging)
    deep = site in emergency_sites(ctx.emergency_programs, mine, at)
    floors = {pool.id: int(pool.min_cap_w) if deep else kept_cap_w(state, pool) for pool in pools}
    return shed_orders(state, pools, orders, floors, over_kw, at)[0]


def over_it_kw(
    ctx: Context,
    state: State,
    site: str,
    orders: Mapping[str, PoolOrder],
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
    most_kw = it_kw(state, pools, orders) + missing_kw(state, pools, orders)
    beside_kw = state.supply_kw.get(site, 0.0)
    settled_kw = import_kw(most_kw, ctx.sites[site].other_it_kw, pue) + beside_kw
    over = [(planned_kw - room_kw) / pue, (settled_kw - room_kw) / pue]
    if lagging:
        over.append(most_kw - meter_line(ctx, state, site, at).it_of(room_kw))
    return max(0.0, *over)
