"""What a pool is told: one cap for its active GPUs and how many are active; and how a plan's step becomes that.

Why per pool: NVML takes a limit per GPU, but GPUs of one pool do the same work on the same curve, so one cap for all of
them is the optimum (the curves are concave) and twelve thousand orders fit into one journal row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from math import ceil

from optimizer.curves import throughput_at_cap
from optimizer.domain import BatchJob, GpuPool, Plan, Work


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
        least = job.max_gpus if job.tier is not None else job.gpus
        if held and rates[job.id][1] < least:
            rates[job.id] = (rates[job.id][0], float(least))
    return rates


def last_chance(plan: Plan | None, jobs: Iterable[BatchJob], now: datetime) -> frozenset[str]:
    """Jobs whose deadline lies in the plan's present interval: what rounding takes from them now comes too late."""
    if plan is None or not plan.grid.start <= now < plan.grid.end:
        return frozenset()
    end = plan.grid.edges[plan.grid.index(now) + 1]
    return frozenset(job.id for job in jobs if now < job.deadline <= end)


def whole_order(plan: Plan | None, pool: GpuPool, jobs: tuple[BatchJob, ...], now: datetime) -> PoolOrder:
    """The plan's order with GPUs enough for the planned work at the ordered whole-watt cap, and whole ones for jobs on
    their last chance. Up to a GPU a job more than the plan has room for; the fast loop's ceiling has the last word."""
    order = planned_order(plan, pool, now)
    if plan is None or pool.work is not Work.BATCH or pool.id not in plan.pools:
        return order
    last, speed = last_chance(plan, jobs, now), throughput_at_cap(pool.curve, order.cap_w)
    needs = {
        job: rate / max(speed, 1e-6) for job, (home, rate) in planned_rates(plan, jobs, now).items() if home == pool.id
    }
    needed = sum(ceil(need - LEAST_BIT) if job in last else need for job, need in needs.items())
    return PoolOrder(order.cap_w, max(order.active_gpus, min(pool.count, ceil(needed - LEAST_BIT))))


def grant_gpus(
    jobs: tuple[BatchJob, ...],
    rates: Mapping[str, tuple[str, float]],
    orders: Mapping[str, PoolOrder],
    speeds: Mapping[str, float],
    last: frozenset[str] = frozenset(),
) -> dict[str, int]:
    """Whole GPUs for each job: its planned rate at the pool's present speed, inside the pool's active GPUs.

    In rounds: jobs that may not be interrupted and run keep what they have, and those that are paused (of a tier that
    is used up) get theirs back; gangs get theirs rounded up, at least their least, or none; `last`, those on their last
    chance, get theirs rounded up; the last bits of jobs, which need less than a GPU, get as many as they add up to
    (rounded down they would wait until they are late), who runs before who waits; then whole GPUs by priority and
    deadline; then what is left, one GPU each, to the earliest deadline that was rounded down.
    """
    needs = {job.id: _need(job, rates, speeds) for job in jobs}
    left = {pool: order.active_gpus for pool, order in orders.items()}
    grants = dict.fromkeys(needs, 0)

    def grant(job: BatchJob, gpus: int) -> None:
        pool = needs[job.id][0]
        given = max(0, min(gpus, left.get(pool, 0))) if job.preemptible else gpus
        grants[job.id] += given
        left[pool] = left.get(pool, 0) - given

    fixed = [job for job in jobs if job.started_at is not None and not job.preemptible]
    for job in sorted(fixed, key=_has_gpus_first):
        grant(job, _kept(job, needs[job.id][1], left.get(needs[job.id][0], 0)))

    others = sorted((job for job in jobs if job not in fixed), key=_turn)
    gangs = [job for job in others if job.preemptible and job.min_gpus > 1]
    for job in gangs:
        grant(job, _gang(job, *needs[job.id], left))
    others = [job for job in others if job not in gangs]
    soon = sorted((job for job in others if job.preemptible), key=lambda job: (job.deadline, job.id))
    for job in soon:
        if job.id in last:
            grant(job, min(job.max_gpus, ceil(needs[job.id][1] - LEAST_BIT)))
    for job in _last_bits(soon, needs):
        grant(job, 1 - grants[job.id])
    for job in others:
        pool, need = needs[job.id]
        whole = _whole(job, need, left.get(pool, 0))
        grant(job, max(0, whole - grants[job.id]))
    for job in soon:
        if needs[job.id][1] > grants[job.id] + LEAST_BIT:
            grant(job, min(1, job.max_gpus - grants[job.id]))
    return grants


def _has_gpus_first(job: BatchJob) -> tuple[bool, int, datetime, str]:
    """Order of those that may not be interrupted: who has GPUs, then who is to have them back."""
    return job.gpus == 0, -job.priority, job.deadline, job.id


def _kept(job: BatchJob, need: float, left: int) -> int:
    """GPUs of a job that may not be interrupted any more: what it has; of a tier all of them, also where it is
    paused."""
    if not job.gpus:
        return _whole(job, need, left)
    return max(job.gpus, min(job.max_gpus, left) if job.tier is not None else 0)


def _turn(job: BatchJob) -> tuple[int, datetime, str]:
    """Who goes first: by priority and deadline."""
    return -job.priority, job.deadline, job.id


def _gang(job: BatchJob, pool: str, need: float, left: Mapping[str, int]) -> int:
    """GPUs of a gang: its need rounded up, its least at least, or none."""
    fits = need > LEAST_BIT and left.get(pool, 0) >= job.min_gpus
    return max(job.min_gpus, min(job.max_gpus, ceil(need - LEAST_BIT))) if fits else 0


LEAST_BIT = 0.02
"""Part of a GPU that is not worth one."""

NOISE = 1e-6
"""Part of a GPU that is rounding."""


def _need(job: BatchJob, rates: Mapping[str, tuple[str, float]], speeds: Mapping[str, float]) -> tuple[str, float]:
    """Pool of a job, and the GPUs that give its rate at the pool's speed."""
    pool, rate = rates.get(job.id, (job.pools[0], 0.0))
    return pool, min(float(job.max_gpus), rate / max(speeds.get(pool, 1.0), 1e-6))


def _last_bits(jobs: list[BatchJob], needs: Mapping[str, tuple[str, float]]) -> list[BatchJob]:
    """Of the jobs that need less than a GPU, as many as their needs add up to in GPUs: those that need half of one
    before those that need less, then those that run, then in the order given. Bits that are worth no GPU add up too,
    and come last: a thousand jobs that are alike have a sixtieth of a GPU each on sixteen."""
    chosen: list[BatchJob] = []
    for pool in {needs[job.id][0] for job in jobs}:
        bits = [(job, needs[job.id][1]) for job in jobs if needs[job.id][0] == pool]
        bits = [(job, need) for job, need in bits if NOISE < need < 1.0]
        bits.sort(key=lambda bit: (bit[1] <= LEAST_BIT, bit[1] < 0.5, bit[0].gpus == 0))
        worth = ceil(sum(need for _, need in bits if need > LEAST_BIT))
        every = ceil(sum(need for _, need in bits) - LEAST_BIT)
        chosen += [job for job, _ in bits[: max(worth, every)]]
    return chosen


def _whole(job: BatchJob, need: float, left: int) -> int:
    """GPUs of a need, rounded down; all or nothing for a job that can't be interrupted."""
    if not job.preemptible:
        return job.max_gpus if need > 0 and left >= job.max_gpus else 0
    return int(need + 1e-6)
