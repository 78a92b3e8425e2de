"""What the nodes do should the daemon fall silent: the rest of the published plan, to the end of what was promised.

Why: a dead daemon must neither leave a GPU capped for ever nor let a site spring back in the middle of an event. The
trajectory reaches to the end of every event in progress, its ramp included, or three intervals, and for a day where a
limit binds a site that no event ends (`scheduler/standing.py`); after it the agent releases by a ramp of its own. An
interval in which an event begins or ends is planned by its mean; here, where no fast loop watches the moment, each part
of it begins with the orders of a neighbour that keeps the event's cap throughout. What would still be over the cap is
shed from them as the fast loop would: with its margin, with what its predictions were off by, with as many users as
there were at most lately, and with cooling that follows IT only after minutes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import pairwise

from optimizer.domain import GpuPool, GridEvent, Plan
from optimizer.envelope import INF, event_breakpoints, mean_limit_kw, tightest_kw
from optimizer.reasons import Reason
from scheduler.alone import SAME_KW, alone, over_it_kw, settled_kw
from scheduler.engine import Context, State
from scheduler.flexibility import pue_now, site_pools
from scheduler.latency_trim import kept_cap_w
from scheduler.orders import PoolOrder, planned_order, step_index
from scheduler.safety import LEASE_INTERVALS, clamp, emergency_sites, lowest_cap_w
from scheduler.standing import held_orders, standing
from scheduler.targets import pace
from scheduler.trim import shed_orders

Orders = Mapping[str, PoolOrder]
Steps = list[tuple[float, Orders]]
Line = dict[datetime, Orders]
Span = tuple[datetime, datetime]

SLACK = 1.005
"""A plan this little above an event's cap fits it: the rest is shed."""

BOUND = frozenset({Reason.DR_EVENT, Reason.REBOUND_LIMIT})
"""Reasons of an order that an event has made lower; one that asks for no less than was planned anyway is none."""

LAG = timedelta(minutes=10)
"""Cooling may take so long to follow a fall of IT: until then it counts as it is now, where that is more."""

CLIMB, MOST_STEPS, MINUTE = timedelta(seconds=2), 20, timedelta(minutes=1)
"""Orders that rise do so in steps of that long, or in so many: every node is told all of them."""

RELEASE_W_PER_S = 10.0
"""How fast a card rises where no ramp says so: as an agent that is told nothing else gives it back (its default)."""

LONGEST_RELEASE = timedelta(hours=6)
"""A site whose ramp takes longer to give everything back is given back by its agents then."""

INSTANT = timedelta(microseconds=1)


@dataclass
class Asked:
    """What events ask of a site, in a span and in whole steps of the plan. Of a regulation signal a step has hundreds
    of spans, so each is looked at once."""

    plan: Plan
    events: Sequence[GridEvent]
    _under_kw: dict[int, float] = field(default_factory=dict)

    def over_kw(self, at: datetime, end: datetime) -> float:
        """The cap at both ends of a span in which no slope changes."""
        return min(tightest_kw(self.events, at), tightest_kw(self.events, end - INSTANT))

    def planned_under_kw(self, index: int) -> float:
        """The cap that a whole step was planned under, though it may be asked for a part of it only."""
        if index not in self._under_kw:
            step = self.plan.grid.edges[index : index + 2]
            self._under_kw[index] = min((mean_limit_kw(event, *step) for event in self.events), default=INF)
        return self._under_kw[index]


def trajectory(ctx: Context, state: State, plan: Plan, now: datetime, *, last: bool = False) -> tuple[Steps, float]:
    """(seconds from now, orders by pool) at each change of the plan, and the seconds until which it holds; `last`: with
    clocks as they are now, which nobody moves any more."""
    ctx = alone(ctx, last=last)
    events = ctx.ledger.active(now)
    until = reach(ctx, events, now)
    limits = {site: standing(ctx, state, site, now) for site in ctx.sites}
    edges = {*plan.grid.starts, *(cut for event in events for cut in event_breakpoints(event))}
    edges |= {cut for limit in limits.values() for span, _ in limit.limits for cut in span}
    fallen = {cut for event in events for cut in fallen_at(event)}
    moments = [now, *sorted(edge for edge in edges if now < edge < until), until]
    tails = {site: limits[site].tail(until) for site in ctx.sites}
    ends = {site: tail[-1][1] if tail else until for site, tail in tails.items()}
    asked = {site: Asked(plan, [event for event in events if event.site == site]) for site in ctx.sites}
    lines: dict[str, Line] = {}
    for site, limit in limits.items():
        spans: list[tuple[Span, Orders]] = [
            (span, _orders(ctx, state, plan, site, span, limit.over(*span), asked[site], lagging=span[0] < now + LAG))
            for span in pairwise(moments)
        ]
        spans += [(span, held_orders(ctx, state, site, limit.over(*span), span)) for span in tails[site]]
        if ramped(ctx) or ends[site] < max(ends.values()):
            spans.append(((ends[site], ends[site] + LONGEST_RELEASE), freed(ctx, site, spans[-1][1])))
        lines[site] = dict(climbed(ctx, state, site, spans, events))
    lines, until = released(lines, ends)
    steps: Steps = []
    wished: dict[str, PoolOrder] = {}
    for at in sorted({at for line in lines.values() for at in line}):
        for line in lines.values():
            wished |= line.get(at, {})
        below_floor = emergency_sites(ctx.emergency_programs, events, at)
        orders, _ = clamp(wished, (model.pool for model in ctx.pools.values()), below_floor, at)
        if not steps or at in fallen or orders != steps[-1][1]:
            steps.append(((at - now).total_seconds(), orders))
    return steps, (until - now).total_seconds()


def reach(ctx: Context, events: Sequence[GridEvent], now: datetime) -> datetime:
    """Until when a trajectory goes: three intervals, and to the end of the events that have begun by then."""
    until = now + LEASE_INTERVALS * ctx.timing.interval
    for event in events:
        if event.start <= until:
            until = max(until, event.end + timedelta(seconds=event.ramp_out_s))
    return until


def ramped(ctx: Context) -> bool:
    """Whether a site may not rise as fast as its agents give cards back by themselves, which know of no site."""
    return any(site.ramp_up_kw_per_min < INF for site in ctx.sites.values())


def freed(ctx: Context, site: str, orders: Orders) -> Orders:
    """Every card of a site at its highest limit, with the work that it has in `orders`."""
    most_w = {entry.pool.id: int(entry.pool.max_cap_w) for entry in site_pools(ctx, site)}
    return {pool: replace(order, cap_w=most_w[pool]) for pool, order in orders.items()}


def released(lines: Mapping[str, Line], ends: Mapping[str, datetime]) -> tuple[dict[str, Line], datetime]:
    """Lines without what was to be followed where nothing is held any more, and the moment at which the last site has
    climbed: there the agents give the cards back, which have what was found on them by then. `ends`: from when on each
    site is free."""
    until = max(ends.values())
    last = max((at for line in lines.values() for at in line), default=until)
    if any(len([at for at in line if at >= ends[site]]) > 1 for site, line in lines.items()):
        return dict(lines), max(until, last + CLIMB)
    return {site: {at: orders for at, orders in line.items() if at < until} for site, line in lines.items()}, until


def climbed(
    ctx: Context, state: State, site: str, spans: Sequence[tuple[Span, Orders]], events: Sequence[GridEvent]
) -> Iterator[tuple[datetime, Orders]]:
    """The orders of each span from its beginning on; where they let the site rise, in steps that take as long as its
    ramp and that of its programs allow, or, where there is none, as the agents' own release takes. What falls, falls at
    once."""
    pools = [entry.pool for entry in site_pools(ctx, site)]
    held = {pool.id: state.held[pool.id] for pool in pools if pool.id in state.held}
    last_kw = settled_kw(ctx, state, site, held, spans[0][0][0]) if len(held) == len(pools) else INF
    cards = sum(pool.count for pool in pools)
    floors = {pool.id: kept_cap_w(state, pool) for pool in pools}
    for (begins, end), orders in spans:
        at = begins
        kw, pue = settled_kw(ctx, state, site, orders, at), pue_now(ctx, state, site, at)
        up, _ = pace(site, events, at, ctx.sites[site].ramp_up_kw_per_min, INF)
        up = min(up, cards * RELEASE_W_PER_S * 0.06 * pue)
        step = max(CLIMB, (kw - last_kw) / up / MOST_STEPS * MINUTE) if last_kw < kw and up > 0 else CLIMB
        while last_kw < kw - SAME_KW and at < end:
            last_kw = min(kw, last_kw + up * (step / MINUTE))
            yield at, shed_orders(state, pools, orders, floors, (kw - last_kw) / pue, at)[0]
            at += step
        if last_kw >= kw - SAME_KW and at < end:
            last_kw = kw
            yield at, orders


def fallen_at(event: GridEvent) -> tuple[datetime, ...]:
    """Moments from which on an event's cap is as low as its ramp in, or a stricter target, has brought it. A step there
    says so even where the caps stay: who commands may hold others until then, and die (`AgentCore._overtaken`)."""
    stricter = [after.start for before, after in pairwise(event.targets) if after.value < before.value]
    return (event.start + timedelta(seconds=event.ramp_in_s), *stricter)


def _orders(
    ctx: Context,
    state: State,
    plan: Plan,
    site: str,
    span: Span,
    limit_kw: float,
    asked: Asked,
    *,
    lagging: bool,
) -> dict[str, PoolOrder]:
    """Orders of a site's pools over a span: as planned for it where that keeps the cap of events and of the limit that
    binds and was not made for a stricter one (of an event that is over by then), else as planned for the interval
    before or after, else the least of the three; what is over the cap then is shed in merit order. Latencies and tiers
    hold against events, not against a limit."""
    at, end = span
    asked_kw = asked.over_kw(at, end)
    cap_kw = min(limit_kw, asked_kw)
    here, starts, planned_kw = step_index(plan, at), plan.grid.starts, plan.sites[site].import_kw
    near = [index for index in (here, here - 1, here + 1) if 0 <= index < len(starts)]
    fitting = [index for index in near if planned_kw[index] <= cap_kw * SLACK]
    pools = [entry.pool for entry in site_pools(ctx, site)]
    bound = [index for index in fitting if any(plan.pools[pool.id].reasons[index] in BOUND for pool in pools)]
    stricter = {index for index in bound if asked.planned_under_kw(index) * SLACK < asked_kw}
    fitting.sort(key=stricter.__contains__)  # stable: `here` is before its equals
    taken = fitting[0] if fitting else min(near, key=lambda index: planned_kw[index])
    planned = {pool.id: planned_order(plan, pool, starts[taken]) for pool in pools}
    orders = {pool.id: _within(pool, planned[pool.id]) for pool in pools}
    if cap_kw == INF:
        return orders
    most_kw = planned_kw[taken] + settled_kw(ctx, state, site, orders, at) - settled_kw(ctx, state, site, planned, at)
    over_kw = over_it_kw(ctx, state, site, orders, max(0.0, cap_kw), most_kw, at, lagging=lagging)
    deep = site in emergency_sites(ctx.emergency_programs, asked.events, at)
    floors = {pool.id: int(pool.min_cap_w) if deep else kept_cap_w(state, pool) for pool in pools}
    kept, left_kw = shed_orders(state, pools, orders, floors, over_kw, at)
    if left_kw <= 0 or limit_kw == INF:
        return kept
    limited_kw = over_it_kw(ctx, state, site, orders, max(0.0, limit_kw), most_kw, at, lagging=lagging)
    lowest = {pool.id: min(floors[pool.id], lowest_cap_w(pool)) for pool in pools}
    return shed_orders(state, pools, kept, lowest, limited_kw - (over_kw - left_kw), at)[0]


def _within(pool: GpuPool, order: PoolOrder) -> PoolOrder:
    """An order as nodes alone carry it out: see `alone`."""
    return replace(order, cap_w=min(int(pool.max_cap_w), max(int(pool.min_cap_w), order.cap_w)))
