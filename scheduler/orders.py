"""What a pool is told: one cap for its active GPUs and how many are active; and how a plan's step becomes that.

Why per pool: NVML takes a limit per GPU, but GPUs of one pool do the same work on the same curve, so one cap for all of
them is the optimum (the curves are concave) and twelve thousand orders fit into one journal row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from optimizer.domain import BatchJob, GpuPool, JobState, Plan, Work


@dataclass(frozen=True, slots=True)
class PoolOrder:
    """Cap in W of the pool's active GPUs, and how many are active; the others get no work."""

    cap_w: int
    active_gpus: int


def free_order(pool: GpuPool) -> PoolOrder:
    """No throttling at all."""
    return PoolOrder(int(pool.max_cap_w), pool.count)


def step_index(plan: Plan, now: datetime) -> int:
    """The plan's interval for `now`; its last one when the plan has run out (a held plan)."""
    if now >= plan.grid.end:
        return len(plan.grid) - 1
    return plan.grid.index(max(now, plan.grid.start))


def planned_order(plan: Plan | None, pool: GpuPool, now: datetime) -> PoolOrder:
    """The plan's order for a pool now. Without a plan, or for an unknown pool, nothing is throttled.

    Interactive and training pools keep every GPU active: what follows their load is the work, not an order.
    """
    if plan is None or pool.id not in plan.pools:
        return free_order(pool)
    step = step_index(plan, now)
    orders = plan.pools[pool.id]
    active = orders.active_gpus[step] if pool.work is Work.BATCH else pool.count
    return PoolOrder(int(orders.cap_w[step]), int(active))


def planned_rates(plan: Plan | None, jobs: tuple[BatchJob, ...], now: datetime) -> dict[str, tuple[str, float]]:
    """Job -> (pool, full-speed GPU equivalents) that the plan gives now. A job the plan doesn't know waits, unless it
    already runs without preemption."""
    rates: dict[str, tuple[str, float]] = {}
    for job in jobs:
        held = bool(job.started_at) and not job.preemptible
        planned = plan.jobs.get(job.id) if plan is not None else None
        if planned is not None and plan is not None:
            rates[job.id] = (planned.pool or job.pools[0], planned.work_gpus[step_index(plan, now)])
        else:
            rates[job.id] = (job.pools[0], float(job.gpus) if held else 0.0)
        if held and rates[job.id][1] < job.gpus:
            rates[job.id] = (rates[job.id][0], float(job.gpus))
    return rates


def grant_gpus(
    jobs: tuple[BatchJob, ...],
    rates: Mapping[str, tuple[str, float]],
    orders: Mapping[str, PoolOrder],
    speeds: Mapping[str, float],
) -> dict[str, int]:
    """Whole GPUs for each job: its planned rate at the pool's present speed, inside the pool's active GPUs.

    Jobs that may not be interrupted and already run come first and keep what they have, then by priority, then by
    deadline; what a pool can't give is taken from the last in that order.
    """
    left = {pool: order.active_gpus for pool, order in orders.items()}
    grants: dict[str, int] = {}

    def rank(job: BatchJob) -> tuple[bool, int, datetime, str]:
        fixed = job.started_at is not None and not job.preemptible and job.state is JobState.RUNNING
        return (not fixed, -job.priority, job.deadline, job.id)

    for job in sorted(jobs, key=rank):
        pool, rate = rates.get(job.id, (job.pools[0], 0.0))
        fixed = not rank(job)[0]
        grants[job.id] = job.gpus if fixed else _wanted(job, rate, speeds.get(pool, 1.0), left.get(pool, 0))
        left[pool] = left.get(pool, 0) - grants[job.id]
    return grants


def _wanted(job: BatchJob, rate: float, speed: float, left: int) -> int:
    """Whole GPUs that give `rate` at `speed`, inside what is left; all or nothing for a job that can't be
    interrupted."""
    if not job.preemptible:
        return job.max_gpus if rate > 0 and left >= job.max_gpus else 0
    wanted = min(job.max_gpus, max(round(rate / max(speed, 1e-6)), 1 if rate > 0.25 else 0))
    return max(0, min(wanted, left))
