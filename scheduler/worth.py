"""What a GPU-hour of each pool is worth between two plans, and which GPUs no lever may stop.

Why not what its tokens cost: work that can as well be done later loses next to nothing now, and the plan's duals say
so.
"""

from __future__ import annotations

from datetime import datetime

from optimizer.domain import BatchJob, GpuPool, Work
from scheduler.engine import State
from scheduler.orders import step_index


def pool_value(state: State, pool: GpuPool, now: datetime) -> float:
    """Worth of a GPU-hour in a pool. A batch pool's is what its jobs would lose, by the plan's duals: next to nothing
    for work that can as well be done later, all of its worth with the deadline close. Where no duals are known, it is
    that of its least valuable running job."""
    if pool.work is not Work.BATCH:
        return pool.value_per_gpu_h
    quote = state.plan.quotes.get(pool.id) if state.plan is not None else None
    if state.plan is not None and quote is not None and quote.yield_per_gpu_h:
        lost = quote.yield_per_gpu_h[step_index(state.plan, now)]
        if lost is not None:
            return max(0.0, lost)
    running = [job for job in state.jobs if job.gpus and state.grants.get(job.id, ("", 0))[0] == pool.id]
    return min((job.value_per_gpu_h + job.late_penalty for job in running), default=0.0)


def cost_per_wh(state: State, site: str, pue: float, now: datetime) -> float | None:
    """What a Wh of IT costs at a site's meter, by the price of the problem in force and that of carbon; None where it
    has none for now."""
    problem = state.problem
    if problem is None or not problem.grid.start <= now < problem.grid.end:
        return None
    inputs, t = next(inputs for inputs in problem.sites if inputs.id == site), problem.grid.index(now)
    carbon = inputs.carbon_g_per_kwh[t] * problem.prices.carbon_per_tonne / 1e6
    return (inputs.price_per_mwh[t] / 1000.0 + carbon) * pue / 1000.0


def kept_gpus(state: State, pool: GpuPool) -> int:
    """GPUs of a batch pool that run work which must not be interrupted, or that a job of a tier must have back."""
    return sum(
        job.gpus if job.tier is None else job.max_gpus
        for job in state.jobs
        if not job.preemptible and job.started_at is not None and _home(state, job) == pool.id
    )


def _home(state: State, job: BatchJob) -> str:
    """The pool that a job runs in; one of a tier that was paused, the pool in which it will."""
    return state.grants.get(job.id, (job.pools[0] if job.tier is not None else "", 0))[0]
