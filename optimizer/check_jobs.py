"""The checker's part about jobs: window, rate, pool, conservation of work, no interruption.

Why with arithmetic of its own: see `check.py`. All jobs are judged at once; sentences are made for those that fail.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from optimizer.curves import clipped, throughput_at_cap
from optimizer.domain import BatchJob, GpuPool, JobState, Problem, Work
from optimizer.jobplans import JobPlans

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Ints = NDArray[np.int64]
TOL = 1e-6


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken promise: what it is about, the interval (None: the whole plan), and a sentence with numbers."""

    subject: str
    index: int | None
    text: str


@dataclass(frozen=True)
class _Seen:
    """All jobs as the problem tells them, [job] or [job, interval]; hours count from the grid's start."""

    hours: Floats
    rate: Floats
    left: Floats
    open_h: Floats
    timely_h: Floats
    after_h: Floats
    over: Flags
    whole: Flags


def check_jobs(problem: Problem, jobs: JobPlans, caps_w: Mapping[str, Sequence[float]]) -> list[Violation]:
    """What the jobs' plans break; `jobs` in the order of the problem's, `caps_w` [interval] as each pool is ordered."""
    if not problem.jobs:
        return []
    tops = {
        inputs.pool.id: (inputs.pool.count, _top(inputs.pool))
        for inputs in problem.pools
        if inputs.pool.work is Work.BATCH
    }
    told = _told(problem)
    seen = _seen(problem, tops, told)
    work = jobs.rates * seen.hours
    total = work.sum(axis=1)
    homeless = _homeless(jobs, tops, told)
    stray = (total > 1e-6) & (seen.over | homeless)
    ids = jobs.ids
    found = [
        Violation(ids[n], None, f"{total[n]:.3f} GPU-h planned on {jobs.pools[n]!r}, where it may not run")
        for n in np.flatnonzero(stray).tolist()
    ]
    live = ~stray & ~seen.over
    most = seen.rate[:, None] * seen.open_h / seen.hours + 1e-5 * (1 + seen.rate[:, None])
    outside = live[:, None] & (jobs.rates != 0) & ((jobs.rates < -TOL) | (jobs.rates > most))
    found += [
        Violation(ids[n], t, f"rate {jobs.rates[n, t]:.4f} is outside its window or above {seen.rate[n]:.1f} GPUs")
        for n, t in np.argwhere(outside).tolist()
    ]
    found += _too_fast(problem, jobs, seen, live & ~seen.whole, caps_w)
    found += _conserved(jobs, seen, work, total, live)
    for n in np.flatnonzero(live & seen.whole).tolist():
        found += _unbroken(problem, problem.jobs[n], jobs.rates[n], float(seen.rate[n]), (float(total[n]), tops))
    return found


def _too_fast(
    problem: Problem, jobs: JobPlans, seen: _Seen, live: Flags, caps_w: Mapping[str, Sequence[float]]
) -> list[Violation]:
    """Jobs that are promised more than their GPUs do under the one cap of their pool (which is rounded down to a whole
    watt). Runs without a break go at the highest rate by rule, and are not judged."""
    if not any(inputs.pool.one_cap for inputs in problem.pools):
        return []
    homes, found = np.array(jobs.pools, dtype=object), []
    gpus = np.array([job.max_gpus for job in problem.jobs], dtype=np.float64)
    for pool in (inputs.pool for inputs in problem.pools if inputs.pool.one_cap):
        mine, curve = np.flatnonzero(live & (homes == pool.id)), clipped(pool.curve, pool.min_cap_w, pool.max_cap_w)
        caps, which = np.unique(np.array(caps_w[pool.id]) + 1.0, return_inverse=True)
        speed = np.array([throughput_at_cap(curve, cap) for cap in caps.tolist()])[which]
        own = np.maximum(np.minimum(gpus[mine], pool.count), seen.rate[mine] / _top(pool))
        most = own[:, None] * seen.open_h[mine] / seen.hours * speed
        fast = jobs.rates[mine] > most * (1 + 1e-4) + 1e-4 * (1 + own[:, None])
        found += [
            Violation(jobs.ids[mine[n]], t, f"rate {jobs.rates[mine[n], t]:.4f} is more than its GPUs do at the pool's "
                                            f"cap of {caps_w[pool.id][t]:.0f} W: {most[n, t]:.4f}")
            for n, t in np.argwhere(fast).tolist()
        ]  # fmt: skip
    return found


def _top(pool: GpuPool) -> float:
    """Throughput of a GPU of a pool under its highest cap."""
    curve = clipped(pool.curve, pool.min_cap_w, pool.max_cap_w)
    return throughput_at_cap(curve, pool.max_cap_w)


def _top_rate(tops: dict[str, tuple[int, float]], job: BatchJob) -> float:
    """Highest rate of a job in any of its pools: its GPUs under the pool's highest cap."""
    found = [tops[name] for name in job.pools if name in tops]
    return max((min(job.max_gpus, count) * top for count, top in found), default=0.0)


@dataclass(frozen=True, eq=False)
class _Told:
    """What the jobs of a problem say, [job]; hours count from the grid's start. `kind`: which of `lists` is its list of
    pools."""

    jobs: tuple[BatchJob, ...]
    start: datetime
    gpus: Floats
    left: Floats
    release: Floats
    deadline: Floats
    over: Flags
    whole: Flags
    started: Flags
    kind: Ints
    lists: list[tuple[str, ...]]


TOLD = attrgetter("max_gpus", "left_gpu_h", "release", "deadline", "preemptible", "started_at", "state", "pools")
_last: list[_Told] = []
"""What was read last: a problem's jobs don't change, and its plan is judged more than once."""


def _told(problem: Problem) -> _Told:
    """Read the jobs, where they are not the very same objects as the last time."""
    jobs, start = problem.jobs, problem.grid.start
    known = _last[-1] if _last else None
    if known is not None and known.jobs is jobs and known.start == start:
        return known
    gpus, left, release, deadline, preemptible, started_at, state, pools = zip(*map(TOLD, jobs), strict=True)
    begins = np.array([(moment - start).total_seconds() for moment in release]) / 3600.0
    started = np.array([moment is not None for moment in started_at])
    kinds: dict[tuple[str, ...], int] = {}
    kind = [kinds.setdefault(names, len(kinds)) for names in pools]
    ended = (JobState.DONE, JobState.CANCELLED)
    told = _Told(
        jobs,
        start,
        gpus=np.array(gpus, dtype=np.float64),
        left=np.array(left),
        release=np.where(started, np.minimum(begins, 0.0), begins),
        deadline=np.array([(moment - start).total_seconds() for moment in deadline]) / 3600.0,
        over=np.array([one in ended for one in state]) | (np.array(left) <= 1e-9),
        whole=~np.array(preemptible, dtype=np.bool_),
        started=started,
        kind=np.array(kind, dtype=np.int64),
        lists=list(kinds),
    )
    _last[:] = [told]
    return told


def _homeless(jobs: JobPlans, tops: dict[str, tuple[int, float]], told: _Told) -> Flags:
    """Jobs [job] whose pool in the plan is none that may run them."""
    names = {name: number for number, name in enumerate(dict.fromkeys(jobs.pools))}
    home = np.array([names[name] for name in jobs.pools], dtype=np.int64)
    allowed = np.array([[name in tops and name in pools for name in names] for pools in told.lists])
    found: Flags = ~allowed[told.kind, home]
    return found


def _top_rates(tops: dict[str, tuple[int, float]], told: _Told) -> Floats:
    """Highest rate of every job in any of its pools (see `_top_rate`)."""
    rates = np.zeros(len(told.gpus))
    for number, pools in enumerate(told.lists):
        members = np.flatnonzero(told.kind == number)
        for count, top in (tops[name] for name in pools if name in tops):
            rates[members] = np.maximum(rates[members], np.minimum(told.gpus[members], count) * top)
    return rates


def _seen(problem: Problem, tops: dict[str, tuple[int, float]], told: _Told) -> _Seen:
    edges = np.array([(edge - told.start).total_seconds() / 3600.0 for edge in problem.grid.edges])
    opens = np.where(told.started, edges[-1], np.maximum(edges[-1], told.release))
    return _Seen(
        hours=np.diff(edges),
        rate=_top_rates(tops, told),
        left=told.left,
        open_h=np.clip(edges[1:] - np.maximum(edges[:-1], told.release[:, None]), 0.0, None),
        timely_h=np.clip(np.minimum(edges[1:], told.deadline[:, None]) - edges[:-1], 0.0, None),
        after_h=np.maximum(0.0, told.deadline - opens),
        over=told.over,
        whole=told.whole,
    )


def _conserved(jobs: JobPlans, seen: _Seen, work: Floats, total: Floats, live: Flags) -> list[Violation]:
    """Done, carried past the horizon and never done make up the work left; what is late is said to be late."""
    tol = 1e-5 * (1 + seen.left)
    undone = jobs.undone_gpu_h
    started = seen.whole & (total > 1e-9)
    carried = seen.left - total - undone
    wrong = live & ((total > seen.left + tol) | (undone < -tol) | (carried < -tol))
    gone = live & ~wrong & (carried > seen.rate * seen.after_h + tol) & ~started
    timely = np.minimum(work, seen.rate[:, None] * seen.timely_h)
    beyond = np.where(started, np.maximum(0.0, carried - seen.rate * seen.after_h), 0.0)
    late = total - np.where(jobs.rates > 0, timely, 0.0).sum(axis=1) + beyond
    hidden = live & ~wrong & ~gone & (late > jobs.late_gpu_h + tol)
    texts: tuple[tuple[Flags, Callable[[int], str]], ...] = (
        (wrong, lambda n: f"{total[n]:.3f} GPU-h done and {undone[n]:.3f} undone of {seen.left[n]:.3f}"),
        (gone, lambda n: f"{carried[n]:.3f} GPU-h vanish: they don't fit between horizon and deadline"),
        (hidden, lambda n: f"{late[n]:.3f} GPU-h come after the deadline, declared {jobs.late_gpu_h[n]:.3f}"),
    )
    return [Violation(jobs.ids[n], None, text(n)) for bad, text in texts for n in np.flatnonzero(bad).tolist()]


def _unbroken(
    problem: Problem, job: BatchJob, rates: Floats, rate: float, other: tuple[float, dict[str, tuple[int, float]]]
) -> list[Violation]:
    """A run without a break at the highest rate, that ends only with the work; a running job goes on, unless the pool
    has fewer GPUs than its running jobs need."""
    total, tops = other
    runs = np.flatnonzero(rates > 1e-9).tolist()
    if job.started_at is not None and (not runs or runs[0] != 0):
        stopped = Violation(job.id, 0, "runs, may not be interrupted, and is stopped")
        return [] if _crowded(problem, job, tops) else [stopped]
    if not runs:
        return []
    inner = [t for t in range(runs[0] + 1, runs[-1]) if rates[t] < rate * (1 - 1e-6)]
    ends_early = runs[-1] < len(problem.grid) - 1 and total < job.left_gpu_h * (1 - 1e-6)
    if inner or ends_early:
        return [Violation(job.id, inner[0] if inner else runs[-1], "may not be interrupted, and is")]
    return []


def _crowded(problem: Problem, job: BatchJob, tops: dict[str, tuple[int, float]]) -> bool:
    """Whether the running jobs of this job's pool need more GPUs than it has."""
    home = next((name for name in job.pools if name in tops), None)
    mates = [
        _top_rate(tops, other)
        for other in problem.jobs
        if not other.preemptible and other.started_at is not None and other.left_gpu_h > 1e-9
        and next((name for name in other.pools if name in tops), None) == home
    ]  # fmt: skip
    if home is None:
        return True
    count, top = tops[home]
    return sum(mates) > count * top * (1 - TOL)
