"""GPUs for jobs: what the plan gives, inside what the fast loop leaves.

Why in the fast loop: pausing a job is a lever like a cap. When a ceiling takes GPUs away from a batch pool, grants
follow in the same turn; when no order may be written (observe, advise, paused), jobs run as they would without us.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from adapters.work_ports import Quietable, WorkKeeper
from optimizer.curves import throughput_at_cap
from optimizer.domain import BatchJob, GpuPool, Work
from optimizer.reasons import Note, Reason, Severity
from scheduler.engine import Context, State
from scheduler.flex import admitted
from scheduler.orders import PoolOrder, free_order, grant_gpus, last_chance, planned_order, planned_rates
from scheduler.store.store import StoreDegraded


def granted(state: State, pool: str) -> int:
    """GPUs of a pool that jobs hold now."""
    return sum(gpus for held, gpus in state.grants.values() if held == pool)


def able(state: State, now: datetime) -> tuple[BatchJob, ...]:
    """Jobs that may have GPUs now: released, and waiting for no other job."""
    waiting = {job.id for job in state.jobs}
    return tuple(
        job
        for job in state.jobs
        if job.release <= now and (job.started_at is not None or not waiting.intersection(job.after))
    )


def filled(ctx: Context, state: State, orders: Mapping[str, PoolOrder], now: datetime) -> dict[str, PoolOrder]:
    """Orders with no more active GPUs in batch pools than the plan has work for: the others would draw nothing, and
    somebody else would be throttled for them."""
    batch = {pool: order for pool, order in orders.items() if ctx.pools[pool].pool.work is Work.BATCH}
    released = admitted(ctx, state, able(state, now), now)
    if not batch or state.plan is None:
        return dict(orders)
    rates = planned_rates(state.plan, released, now)
    speeds = {pool: throughput_at_cap(ctx.pools[pool].pool.curve, order.cap_w) for pool, order in batch.items()}
    used = dict.fromkeys(batch, 0)
    last = last_chance(state.plan, released, now)
    for job, gpus in grant_gpus(released, rates, batch, speeds, last).items():
        if rates[job][0] in used:
            used[rates[job][0]] += gpus
    return {
        pool: PoolOrder(order.cap_w, min(order.active_gpus, used[pool])) if pool in used else order
        for pool, order in orders.items()
    }


def grant_jobs(ctx: Context, state: State, orders: Mapping[str, PoolOrder], now: datetime) -> None:
    """Grant and book; a job system that refuses becomes a note."""
    if isinstance(ctx.jobs, Quietable):
        ctx.jobs.quiet(not ctx.dispatcher.writes)
    released = admitted(ctx, state, able(state, now), now) if ctx.dispatcher.writes else able(state, now)
    batch = {m.pool.id: m.pool for m in ctx.pools.values() if m.pool.work is Work.BATCH}
    if ctx.dispatcher.writes:
        in_force = {pool: orders[pool] for pool in batch}
        rates = held_rates(state, planned_rates(state.plan, released, now), orders, ctx)
    else:
        in_force = {pool: free_order(model) for pool, model in batch.items()}
        rates = {job.id: (job.pools[0], float(job.max_gpus)) for job in released}
    speeds = {pool: _speed(state, model, in_force[pool], now) for pool, model in batch.items()}
    grants = grant_gpus(released, rates, in_force, speeds, last_chance(state.plan, released, now))
    if not ctx.dispatcher.writes and isinstance(ctx.jobs, WorkKeeper):
        # A batch system outside knows itself what fits: while we write nothing, nothing there is held by us.
        applied(ctx, state, {job.id: job.max_gpus for job in state.jobs}, now)
        return
    pools = {job: rates[job][0] for job in grants}
    changed = {job: gpus for job, gpus in grants.items() if gpus != _held(released, job)}
    if isinstance(ctx.jobs, WorkKeeper):  # it carries orders out later: one that is on its way may have to be withdrawn
        changed = {job.id: grants.get(job.id, 0) for job in state.jobs}
    if changed:
        for job, reason in applied(ctx, state, changed, now).items():
            state.notes.append(Note(reason, job, f"job {job} did not take {changed[job]} GPUs", Severity.WARNING, now))
    state.grants = {job: (pools[job], gpus) for job, gpus in grants.items() if gpus}
    here = {job: ctx.pools[pool].pool.site for job, (pool, _) in state.grants.items() if pool in ctx.pools}
    waiting = {job.id for job in state.jobs}
    state.data_sites = {job: site for job, site in state.data_sites.items() if job in waiting} | here


def _speed(state: State, pool: GpuPool, order: PoolOrder, now: datetime) -> float:
    """Throughput of a GPU under an order; at most as the plan has it, so that power which is given back makes jobs
    faster and takes no GPU from them."""
    return throughput_at_cap(pool.curve, min(order.cap_w, planned_order(state.plan, pool, now).cap_w))


def applied(ctx: Context, state: State, gpus: Mapping[str, int], now: datetime) -> Mapping[str, Reason]:
    """Tell the job system; grants that can't be written down are an alert and no reason to stop."""
    try:
        return ctx.jobs.apply(gpus)
    except StoreDegraded as error:
        state.notes.append(Note(Reason.STORE_DEGRADED, "jobs", str(error), Severity.ALERT, now))
        return {}


def _held(jobs: tuple[BatchJob, ...], job_id: str) -> int:
    return next(job.gpus for job in jobs if job.id == job_id)


def held_rates(
    state: State, rates: dict[str, tuple[str, float]], orders: Mapping[str, PoolOrder], ctx: Context
) -> dict[str, tuple[str, float]]:
    """While a falling ramp keeps more GPUs active than the plan wants, running jobs keep what they have.

    Rounding up may add a GPU for each job and one for the pool; that is no ramp.
    """
    for job, (pool, gpus) in state.grants.items():
        if job not in rates or rates[job][0] != pool or pool not in orders:
            continue
        planned = sum(rate for held, rate in rates.values() if held == pool)
        rounding = 1 + sum(held == pool and rate > 0 for held, rate in rates.values())
        speed = throughput_at_cap(ctx.pools[pool].pool.curve, orders[pool].cap_w)
        if planned < (orders[pool].active_gpus - rounding) * speed:
            spare = orders[pool].active_gpus * speed - planned
            rates[job] = (pool, max(rates[job][1], min(gpus * speed, rates[job][1] + spare)))
    return rates
