"""Jobs on the grid, before anything is decided: their windows, rates and pools, one by one and as arrays.

Why both: rules and reasons speak of single jobs; the model has thousands of them and wants arrays. The arrays come
first, and a single job is cut out of them when somebody asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from operator import attrgetter
from typing import overload

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
class Stock:
    """Rows of a table that are the work of many jobs: GPU-hours that must and that can be done by the end of each
    interval [row, interval]."""

    rows: NDArray[np.int64]
    least: Floats
    most: Floats


@dataclass(frozen=True, eq=False)
class JobTable:
    """All jobs as arrays: [job] or [job, interval]; and every pair of a job and a pool that may run it, in the order of
    the job's list (`place` 0, 1, ...)."""

    jobs: tuple[BatchJob, ...]
    left: Floats
    rate: Floats
    on_time_h: Floats
    late_h: Floats
    hours_late: Floats
    beyond_h: Floats
    release_h: Floats
    deadline_h: Floats
    """Hours from the grid's start to the release (0: it may work now) and to the deadline."""
    pace: Floats
    reachable: NDArray[np.bool_]
    """Jobs that alone could still meet their deadline at their highest rate."""
    fixed: NDArray[np.bool_]
    """Jobs that run and may not be interrupted."""
    preemptible: NDArray[np.bool_]
    firm: NDArray[np.bool_]
    """Jobs whose deadline is a promise."""
    value_per_gpu_h: Floats
    late_penalty: Floats
    undone_penalty: Floats
    max_gpus: Floats
    priority: Floats
    pair_job: NDArray[np.int64]
    pair_pool: NDArray[np.int64]
    pair_place: NDArray[np.int64]
    pair_share: Floats
    """Highest rate of the job in this pool over that in its best one."""
    stock: Stock | None = None
    """Where rows are tanks of work (see `tanks.py`)."""

    def __len__(self) -> int:
        return len(self.jobs)

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(job.id for job in self.jobs)

    @cached_property
    def late_anyway(self) -> NDArray[np.bool_]:
        """Jobs that may be late for money alone: nothing is lost with their deadline but a penalty per hour."""
        return self.undone_penalty <= 0

    @cached_property
    def soonest_late_h(self) -> Floats:
        """Least hours after its deadline, on average over an interval, that a job may work late (inf: not at all)."""
        found: Floats = np.where(self.late_h > 0, self.hours_late, np.inf).min(axis=1, initial=np.inf)
        return found

    @cached_property
    def first_pool(self) -> NDArray[np.int64]:
        """The first pool of each job's list that can hold it (-1: none)."""
        first = np.full(len(self.left), -1, dtype=np.int64)
        jobs, head = np.unique(self.pair_job, return_index=True)
        first[jobs] = self.pair_pool[head]
        return first

    def of_pool(self, number: int) -> NDArray[np.int64]:
        """Jobs that may run in a pool."""
        found: NDArray[np.int64] = self.pair_job[self.pair_pool == number]
        return found


class Jobs(Sequence[JobFacts]):
    """The jobs of a table one by one, each made when it is first asked for."""

    def __init__(self, table: JobTable) -> None:
        self.table = table
        self._made: dict[int, JobFacts] = {}
        starts = np.searchsorted(table.pair_job, np.arange(len(table) + 1))
        self._starts: list[int] = starts.tolist()

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[JobFacts]:
        return (self._one(number) for number in range(len(self)))

    @overload
    def __getitem__(self, number: int) -> JobFacts: ...
    @overload
    def __getitem__(self, number: slice) -> tuple[JobFacts, ...]: ...
    def __getitem__(self, number: int | slice) -> JobFacts | tuple[JobFacts, ...]:
        if isinstance(number, slice):
            return tuple(self._one(n) for n in range(*number.indices(len(self))))
        return self._one(range(len(self))[number])

    def _one(self, n: int) -> JobFacts:
        found = self._made.get(n)
        if found is None:
            table = self.table
            pools = tuple(table.pair_pool[self._starts[n] : self._starts[n + 1]].tolist())
            rows = (table.on_time_h[n], table.late_h[n], table.hours_late[n])
            numbers = (float(table.left[n]), float(table.rate[n]))
            found = JobFacts(table.jobs[n], pools, *numbers, *rows, float(table.beyond_h[n]), float(table.pace[n]))
            self._made[n] = found
        return found


NUMBERS = attrgetter(
    "max_gpus", "value_per_gpu_h", "late_penalty", "undone_penalty", "left_gpu_h", "preemptible", "priority", "firm"
)  # fmt: skip


def table_of(problem: Problem, hours: Floats) -> JobTable:
    """Every job that still has work to do and is neither done nor cancelled, by id: no plan depends on their order in
    a list."""
    over = (JobState.DONE, JobState.CANCELLED)
    found = (job for job in problem.jobs if job.state not in over and job.left_gpu_h > 1e-9)
    jobs = tuple(sorted(found, key=attrgetter("id")))
    max_gpus, value, late_penalty, undone_penalty, left, free, priority, firm = (
        np.array([NUMBERS(job) for job in jobs], dtype=np.float64).reshape(len(jobs), 8).T
    )
    preemptible = free > 0
    started = np.array([job.started_at is not None for job in jobs], dtype=np.bool_)
    pairs, rate, share = _pairs(problem, jobs, max_gpus)
    release_h, deadline_h = _moments(problem, jobs)
    release_h = np.where(started, np.minimum(release_h, 0.0), release_h)
    on_time, late, hours_late, beyond = _windows(hours, release_h, deadline_h)
    available = rate * (on_time.sum(axis=1) + beyond)
    possible = available > 0
    served = np.bincount(pairs[0], minlength=len(jobs)) > 0
    return JobTable(
        jobs=jobs,
        left=left,
        rate=rate,
        on_time_h=on_time,
        late_h=late,
        hours_late=hours_late,
        beyond_h=beyond,
        release_h=np.maximum(release_h, 0.0),
        deadline_h=deadline_h,
        pace=np.where(possible, np.minimum(1.0, left / np.where(possible, available, 1.0)), 1.0),
        reachable=served & (left <= available * (1 + 1e-9) + 1e-9),
        fixed=~preemptible & started,
        preemptible=preemptible,
        firm=firm > 0,
        value_per_gpu_h=value,
        late_penalty=late_penalty,
        undone_penalty=undone_penalty,
        max_gpus=max_gpus,
        priority=priority,
        pair_job=pairs[0],
        pair_pool=pairs[1],
        pair_place=pairs[2],
        pair_share=share,
    )


def _moments(problem: Problem, jobs: tuple[BatchJob, ...]) -> tuple[Floats, Floats]:
    """Hours from the grid's start to each job's release and deadline."""
    start = problem.grid.start
    spans = [(job.release - start, job.deadline - start) for job in jobs]
    hours = np.array([(a.total_seconds(), b.total_seconds()) for a, b in spans]).reshape(len(jobs), 2) / 3600.0
    return hours[:, 0], hours[:, 1]


def _windows(hours: Floats, release_h: Floats, deadline_h: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Hours on time, late, how late (see JobFacts), each [job, interval], and hours past the horizon."""
    right = np.cumsum(hours)
    left = right - hours
    release, deadline = release_h[:, None], deadline_h[:, None]
    on_time = np.clip(np.minimum(right, deadline) - np.maximum(left, release), 0.0, None)
    late = np.clip(right - np.maximum(left, np.maximum(release, deadline)), 0.0, None)
    hours_late = np.where(late > 0, right - late / 2 - deadline, 0.0)
    return on_time, late, hours_late, np.clip(deadline_h - np.maximum(right[-1], release_h), 0.0, None)


def _pairs(problem: Problem, jobs: tuple[BatchJob, ...], max_gpus: Floats) -> tuple[NDArray[np.int64], Floats, Floats]:
    """Job, pool and place in the job's list of every pair that may be [3, pair], the highest rate of each job, and the
    share of it that each pair's pool can give."""
    batch = {item.pool.id: n for n, item in enumerate(problem.pools) if item.pool.work is Work.BATCH}
    kinds = {job.pools for job in jobs}
    lists = {pools: [batch[name] for name in dict.fromkeys(pools) if name in batch] for pools in kinds}
    found = [
        (n, g, place)
        for n, job in enumerate(jobs)
        for place, g in enumerate(lists[job.pools])
        if problem.pools[g].pool.count >= job.min_gpus
    ]
    pairs = np.array(found, dtype=np.int64).reshape(len(found), 3).T
    tops = np.array([_top(item.pool) if item.pool.work is Work.BATCH else 0.0 for item in problem.pools])
    count = np.array([item.pool.count for item in problem.pools], dtype=np.float64)
    rate = np.zeros(len(jobs))
    own = np.minimum(max_gpus[pairs[0]], count[pairs[1]]) * tops[pairs[1]] if found else np.zeros(0)
    np.maximum.at(rate, pairs[0], own)
    return pairs, rate, np.where(own > 0, own / np.where(own > 0, rate[pairs[0]], 1.0), 0.0)


def _top(pool: GpuPool) -> float:
    """Throughput of a GPU of a pool under its highest cap."""
    return throughput_at_cap(clipped(pool.curve, pool.min_cap_w, pool.max_cap_w), pool.max_cap_w)


def hours_from(start: datetime, moment: datetime) -> float:
    """Hours from one moment to another."""
    return (moment - start).total_seconds() / 3600.0
