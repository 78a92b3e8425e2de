"""What a daemon does before its first turn: take over what a predecessor left, on disk and in the GPUs.

Why before everything else: a killed daemon leaves caps in force, perhaps in the middle of an event. Its first limits
stay the ones to restore, the operator's orders hold, and the loops must know which caps and jobs they inherit, or
they would count busy GPUs from the wrong cap and start their ramps at the wrong power.
"""

from __future__ import annotations

from datetime import datetime

import structlog

from optimizer.domain import Work
from optimizer.reasons import Note, Reason, Severity
from scheduler.engine import Context, Decision, State
from scheduler.flex import catch_up
from scheduler.granting import granted
from scheduler.letting_go import forget_left, left_at_stop
from scheduler.orders import PoolOrder
from scheduler.overrides import restore_orders
from scheduler.parking import adopt_parking
from scheduler.wiring import Parts
from scheduler.work import read_jobs

log = structlog.get_logger()


def reconcile(parts: Parts, reloaded: bool = False) -> None:
    """Make the predecessor's limits, orders, plan, grants and caps ours. A GPU that is in no pool any more gets its
    limit back, and where nothing may be written all do."""
    ctx, state, now = parts.ctx, parts.state, parts.ctx.clock.now()
    left = ctx.dispatcher.adopt()
    restore_orders(ctx, state, now)
    state.decision = Decision(ctx.store.load_plan())
    inherit_grants(ctx, state)
    state.notes.extend(catch_up(ctx, state))
    adopt_parking(ctx, state)
    if ctx.clocks is not None:
        inherit_clocks(ctx, state)
    if left and ctx.dispatcher.writes:
        inherit_caps(ctx, state)
    if left and not reloaded:
        state.notes.append(_outstanding(ctx, left, now))
    forget_left(ctx.store)
    if left:
        strangers = ctx.dispatcher.strangers() if ctx.dispatcher.writes else None
        state.notes.extend(ctx.dispatcher.release(now, strangers))
    log.info("reconciled", outstanding_gpus=left, mode=ctx.mode)


def _outstanding(ctx: Context, gpus: int, now: datetime) -> Note:
    """Why GPUs still have our limits."""
    if left_at_stop(ctx.store):
        who = "a daemon that was stopped in the middle of an event or under a limit"
        text = f"{gpus} GPUs were left to their agents by {who}"
        return Note(Reason.CAP_DRIFT, "power", f"{text}; what it found first is kept", Severity.INFO, now)
    text = f"{gpus} GPUs still had our limits from a daemon that did not stop in order; what it found first is kept"
    return Note(Reason.CAP_DRIFT, "power", text, Severity.WARNING, now)


def inherit_grants(ctx: Context, state: State) -> None:
    """The jobs that run now, in the pools in which the plan put them."""
    state.notes.extend(read_jobs(ctx, state, ctx.clock.now()))
    planned = state.plan.jobs if state.plan is not None else {}
    for job in state.jobs:
        if job.gpus:
            pool = planned[job.id].pool if job.id in planned else ""
            state.grants[job.id] = (pool or job.pools[0], job.gpus)


def inherit_clocks(ctx: Context, state: State) -> None:
    """Go on with clocks that a predecessor locked, or let them go where nothing may be written."""
    assert ctx.clocks is not None
    ctx.clocks.adopt()
    if not ctx.dispatcher.writes:
        state.notes.extend(ctx.clocks.release(ctx.clock.now()))
    ctx.pools.put_clocked(ctx.clocks.levers.clocked)
    for pool, mhz in ctx.clocks.locked_mhz.items():
        model, held = ctx.pools[pool].pool, ctx.clocks.levers.clocked[pool]
        order_w = round(held.draw_w(model.curve.idle_w, mhz / held.max_mhz))
        state.held[pool] = PoolOrder(order_w, model.count)
        state.adopted = True
    state.surprises.clear()


def inherit_caps(ctx: Context, state: State) -> None:
    """The caps that the GPUs have now."""
    state.adopted = True
    for pool_id, cap_w in ctx.dispatcher.in_force().items():
        if pool_id in state.held:  # it is held by its clocks, not by its limits
            continue
        pool = ctx.pools[pool_id].pool
        active = granted(state, pool_id) if pool.work is Work.BATCH else pool.count
        state.held[pool_id] = PoolOrder(cap_w, active)
