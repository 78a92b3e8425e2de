"""What the nodes do should the daemon fall silent: the rest of the published plan, to the end of what was promised.

Why: a dead daemon must neither leave a GPU capped for ever nor let a site spring back in the middle of an event. The
trajectory reaches to the end of every event in progress, its ramp included, or three intervals; after it the agent
releases by a ramp of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from optimizer.domain import Plan
from scheduler.engine import Context
from scheduler.orders import PoolOrder, planned_order
from scheduler.safety import LEASE_INTERVALS, clamp, emergency_sites

Steps = list[tuple[float, Mapping[str, PoolOrder]]]


def trajectory(ctx: Context, plan: Plan, now: datetime) -> tuple[Steps, float]:
    """(seconds from now, orders by pool) at each change of the plan, and the seconds until which it holds."""
    until = now + LEASE_INTERVALS * ctx.timing.interval
    events = ctx.ledger.active(now)
    for event in events:
        if event.start <= until:
            until = max(until, event.end + timedelta(seconds=event.ramp_out_s))
    steps: Steps = []
    for edge in plan.grid.starts:
        at = max(edge, now)
        if at >= until:
            break
        pools = [model.pool for model in ctx.pools.values()]
        below_floor = emergency_sites(ctx.emergency_programs, events, at)
        orders, _ = clamp({pool.id: planned_order(plan, pool, at) for pool in pools}, pools, below_floor, at)
        if not steps or orders != steps[-1][1]:
            steps.append((0.0 if edge <= now else (at - now).total_seconds(), orders))
    return steps, (until - now).total_seconds()
