"""Jobs on the grid, before anything is decided: their windows, rates and pools, one by one and as arrays.

Why both: rules and reasons speak of single jobs; the model has thousands of them and wants arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from optimizer.curves import clipped, throughput_at_cap
from optimizer.domain import BatchJob, GpuPool, JobState, Problem, Work

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class JobFacts:
    """A job on the grid: hours of each interval before (`on_time_h`) and after (`late_h`) its deadline, and how many
    hours after the deadline the late part lies on average. `beyond_h`: hours left to it after the horizon."""

    job: BatchJob
    pools: tuple[int, ...]
    left: float
    rate: float
    on_time_h: Floats
    late_h: Floats
    hours_late: Floats
    beyond_h: float
    pace: float

    @property
    def reachable(self) -> bool:
        """Whether the job alone could still meet its deadline at its highest rate."""
        hours = float(self.on_time_h.sum()) + self.beyond_h
        return bool(self.pools) and self.left <= self.rate * hours * (1 + 1e-9) + 1e-9

    @property
    def fixed(self) -> bool:
        """Whether the job runs and may not be interrupted."""
        return not self.job.preemptible and self.job.started_at is not None


@dataclass(frozen=True, eq=False)
class JobTable:
    """All jobs as arrays: [job] or [job, interval]; and every pair of a job and a pool that may run it, in the order of
    the job's list (`place` 0, 1, ...)."""

    left: Floats
    rate: Floats
    on_time_h: Floats
    late_h: Floats
    hours_late: Floats
    beyond_h: Floats
    preemptible: NDArray[np.bool_]
    value_per_gpu_h: Floats
    late_penalty: Floats
    pair_job: NDArray[np.int64]
    pair_pool: NDArray[np.int64]
    pair_place: NDArray[np.int64]

    late_anyway: NDArray[np.bool_]
    """Jobs that may be late for money alone: nothing is lost with their deadline but a penalty per hour."""

    @cached_property
    def first_pool(self) -> NDArray[np.int64]:
        """The first pool of each job's list (-1: none)."""
        first = np.full(len(self.left), -1, dtype=np.int64)
        head = self.pair_place == 0
        first[self.pair_job[head]] = self.pair_pool[head]
        return first


def table_of(jobs: tuple[JobFacts, ...], count: int) -> JobTable:
    """Jobs as arrays."""
    pairs = [(n, g, place) for n, job in enumerate(jobs) for place, g in enumerate(job.pools)]
    pair = np.array(pairs, dtype=np.int64).reshape(len(pairs), 3)

    def rows(name: str) -> Floats:
        return np.array([getattr(job, name) for job in jobs]).reshape(len(jobs), count)

    return JobTable(
        left=np.array([job.left for job in jobs]),
        rate=np.array([job.rate for job in jobs]),
        on_time_h=rows("on_time_h"),
        late_h=rows("late_h"),
        hours_late=rows("hours_late"),
        beyond_h=np.array([job.beyond_h for job in jobs]),
        preemptible=np.array([job.job.preemptible for job in jobs], dtype=np.bool_),
        value_per_gpu_h=np.array([job.job.value_per_gpu_h for job in jobs]),
        late_penalty=np.array([job.job.late_penalty for job in jobs]),
        pair_job=pair[:, 0],
        pair_pool=pair[:, 1],
        pair_place=pair[:, 2],
        late_anyway=np.array([job.job.undone_penalty <= 0 for job in jobs], dtype=np.bool_),
    )


def jobs_of(problem: Problem, hours: Floats) -> tuple[JobFacts, ...]:
    """Facts of every job that still has work to do and is neither done nor cancelled."""
    over = {JobState.DONE, JobState.CANCELLED}
    jobs = [job for job in problem.jobs if job.state not in over and job.left_gpu_h > 1e-9]
    batch = {inputs.pool.id: n for n, inputs in enumerate(problem.pools) if inputs.pool.work is Work.BATCH}
    start = problem.grid.start
    release = np.array([hours_from(start, job.release) for job in jobs])
    started = np.array([job.started_at is not None for job in jobs], dtype=np.bool_)
    release = np.where(started, np.minimum(release, 0.0), release)[:, None]
    deadline = np.array([hours_from(start, job.deadline) for job in jobs])[:, None]
    right = np.cumsum(hours)
    left = right - hours
    on_time = np.clip(np.minimum(right, deadline) - np.maximum(left, release), 0.0, None)
    late = np.clip(right - np.maximum(left, np.maximum(release, deadline)), 0.0, None)
    hours_late = np.where(late > 0, right - late / 2 - deadline, 0.0)
    beyond = np.clip(deadline - np.maximum(right[-1], release), 0.0, None)[:, 0]
    tops = {number: (problem.pools[number].pool.count, _top(problem.pools[number].pool)) for number in batch.values()}
    hours_on_time = on_time.sum(axis=1).tolist()
    return tuple(
        _job(job, batch, tops, (on_time[n], late[n], hours_late[n]), (hours_on_time[n], float(beyond[n])))
        for n, job in enumerate(jobs)
    )


def _job(
    job: BatchJob,
    batch: dict[str, int],
    tops: dict[int, tuple[int, float]],
    rows: tuple[Floats, Floats, Floats],
    hours: tuple[float, float],
) -> JobFacts:
    """Facts of one job; `tops`: GPUs and best throughput by pool, `hours`: to its deadline inside and past the
    horizon."""
    beyond_h = hours[1]
    pools = tuple(batch[name] for name in dict.fromkeys(job.pools) if name in batch)
    rate = max((min(job.max_gpus, tops[number][0]) * tops[number][1] for number in pools), default=0.0)
    available = rate * (hours[0] + beyond_h)
    pace = min(1.0, job.left_gpu_h / available) if available > 0 else 1.0
    return JobFacts(job, pools, job.left_gpu_h, rate, *rows, beyond_h, pace)


def _top(pool: GpuPool) -> float:
    """Throughput of a GPU of a pool under its highest cap."""
    return throughput_at_cap(clipped(pool.curve, pool.min_cap_w, pool.max_cap_w), pool.max_cap_w)


def hours_from(start: datetime, moment: datetime) -> float:
    """Hours from one moment to another."""
    return (moment - start).total_seconds() / 3600.0
