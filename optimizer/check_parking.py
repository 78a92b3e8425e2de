"""The checker's part about parked GPUs, with arithmetic of its own (see `check.py`)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from optimizer.curves import clipped, throughput_at_cap
from optimizer.domain import BatchJob, GpuPool, JobState, Plan, PoolInputs, Problem, Work

Floats = NDArray[np.float64]
TOL = 1e-4


def saved_kw(plan: Plan, inputs: PoolInputs, count: int) -> Floats:
    """What a pool draws less than with all its GPUs awake [interval]."""
    pool = inputs.pool
    if pool.parking is None:
        return np.zeros(count)
    return _parked(plan, inputs, count) * max(0.0, pool.curve.idle_w - pool.parking.parked_w) / 1000.0


def _parked(plan: Plan, inputs: PoolInputs, count: int) -> Floats:
    rows = plan.pools[inputs.pool.id].parked_gpus
    return np.array(rows if len(rows) == count else (0.0,) * count)


def parking_faults(problem: Problem, plan: Plan, inputs: PoolInputs) -> Iterator[tuple[str, int | None, str]]:
    """Parked GPUs that are none or too many, parts of a step in the interval about to run, and active ones that are
    parked or still waking."""
    pool, rows, count = inputs.pool, plan.pools[inputs.pool.id].parked_gpus, len(problem.grid)
    if pool.parking is None:
        if any(rows):
            yield pool.id, None, "has parked GPUs, and can't park any"
        return
    if len(rows) not in {0, count} or not np.isfinite(rows).all():
        yield pool.id, None, "parked GPUs are missing, or no numbers"
        return
    parked = _parked(plan, inputs, count)
    for t in np.flatnonzero((parked < -TOL) | (parked > pool.count + TOL)).tolist():
        yield pool.id, t, f"{parked[t]:.2f} GPUs parked of {pool.count}"
    steps = parked[0] / max(1, pool.parking.step)
    if abs(steps - round(steps)) > TOL:
        yield pool.id, 0, f"{parked[0]:.2f} GPUs parked, in steps of {pool.parking.step}"
    awake = awake_gpus(problem, plan, inputs)
    active = np.array(plan.pools[pool.id].active_gpus)
    for t in np.flatnonzero(active > np.ceil(awake - TOL)).tolist():
        yield pool.id, t, f"{active[t]} GPUs active, {awake[t]:.2f} awake"


def awake_gpus(problem: Problem, plan: Plan, inputs: PoolInputs) -> Floats:
    """GPUs of a pool that are neither parked nor waking [interval], as a mean."""
    pool, grid = inputs.pool, problem.grid
    if pool.parking is None:
        return np.full(len(grid), float(pool.count))
    held = sum(_gpus_of(problem, job, pool) for job in problem.jobs if _fixed(problem, job, pool.id))
    free = max(0, int(pool.count - held + 1e-9))
    before = min(inputs.parked_now, free)
    asleep = _parked(plan, inputs, len(grid)).copy()
    left = [(0.0, inputs.wake_left_s, float(min(inputs.waking_now, free - before)))]
    for t, parked in enumerate(asleep.tolist()):
        begin = (grid.edges[t] - grid.start).total_seconds()
        left.append((begin, begin + pool.parking.wake_s, max(0.0, before - parked)))
        before = parked
    for t in range(len(grid)):
        begin, end = ((edge - grid.start).total_seconds() for edge in grid.edges[t : t + 2])
        for woken, works, gpus in left:
            asleep[t] += gpus * max(0.0, min(end, works) - max(begin, woken)) / (end - begin)
    return pool.count - asleep


def _gpus_of(problem: Problem, job: BatchJob, pool: GpuPool) -> float:
    """GPUs that a job takes in a pool: its own, or as many as its highest rate in any of its pools takes there."""
    rates = [
        min(job.max_gpus, item.pool.count) * _top(item.pool)
        for item in problem.pools
        if item.pool.id in job.pools and item.pool.work is Work.BATCH and item.pool.count >= job.min_gpus
    ]
    return min(float(pool.count), max(float(job.max_gpus), max(rates, default=0.0) / _top(pool)))


def _top(pool: GpuPool) -> float:
    """Throughput of a GPU of a pool under its highest cap."""
    return throughput_at_cap(clipped(pool.curve, pool.min_cap_w, pool.max_cap_w), pool.max_cap_w)


def _fixed(problem: Problem, job: BatchJob, pool: str) -> bool:
    """Whether a job runs in a pool and may not be stopped."""
    over = job.state in {JobState.DONE, JobState.CANCELLED} or job.left_gpu_h <= 1e-9
    if job.preemptible or job.started_at is None or over:
        return False
    batch = {item.pool.id: item.pool.count for item in problem.pools if item.pool.work is Work.BATCH}
    return next((name for name in job.pools if batch.get(name, -1) >= job.min_gpus), None) == pool
