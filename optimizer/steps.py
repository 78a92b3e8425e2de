"""Jobs that can't take any rate at any time: gangs, least runs, pauses that cost, jobs that wait for others.

Why apart from the jobs' other facts: few jobs have any of this, and model, rules and bill must read the same of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.curves import clipped, hull_from_idle
from optimizer.domain import BatchJob, JobState, PowerCurve
from optimizer.facts import Facts, Floats
from optimizer.jobfacts import JobFacts, hours_from
from optimizer.once import once, once_for_jobs

Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Steps:
    """Arrays over jobs. `stepped`: preemptible with a gang, a least run or a cost of pausing; `lasting`: with one of
    the last two. `runs`: has GPUs now. `least_work`: GPU equivalents of its least GPUs at the knee of the slowest
    of its pools. `least_h`, `hold_h`: hours that a run from a start, and the present one from now, must last.
    `pause_cost`: money. `latest_h`: hours from now at which it must begin to be in time. `order`: pairs (i, j), where
    j waits for i."""

    stepped: Flags
    lasting: Flags
    runs: Flags
    least_work: Floats
    least_h: Floats
    hold_h: Floats
    pause_cost: Floats
    latest_h: Floats
    order: NDArray[np.int64]


@once
def steps_of(facts: Facts) -> Steps:
    """The steps of a problem's jobs; for the many problems without any, nothing is computed."""
    if _stepless(facts):
        none, off = np.zeros(len(facts.table)), np.zeros(len(facts.table), dtype=np.bool_)
        return Steps(off, off, off, none, none, none, none, none, np.zeros((0, 2), dtype=np.int64))
    jobs = facts.jobs
    lasting = [job.job.preemptible and bool(job.pools) and _lasts(job.job) for job in jobs]
    gang = [job.job.preemptible and bool(job.pools) and job.job.min_gpus > 1 for job in jobs]
    return Steps(
        stepped=np.array([a or b for a, b in zip(lasting, gang, strict=True)], dtype=np.bool_),
        lasting=np.array(lasting, dtype=np.bool_),
        runs=np.array([_runs(job.job) for job in jobs], dtype=np.bool_),
        least_work=np.array([least_work(facts, job) for job in jobs]),
        least_h=np.array([_within(job, job.job.min_run_h) for job in jobs]),
        hold_h=np.array([_within(job, _hold_h(facts, job.job)) for job in jobs]),
        pause_cost=np.array([_pause_cost(facts, job) for job in jobs]),
        latest_h=np.array([_latest_h(facts, job) for job in jobs]),
        order=np.array(_order(facts), dtype=np.int64).reshape(-1, 2),
    )


@once_for_jobs
def _stepless(facts: Facts) -> bool:
    """Whether no job has any of this."""
    return not any(_lasts(job) or job.min_gpus > 1 or job.after for job in facts.table.jobs)


def _lasts(job: BatchJob) -> bool:
    return job.min_run_h > 0 or job.pause_cost > 0 or job.checkpoint_gpu_h + job.restart_gpu_h > 0


def _runs(job: BatchJob) -> bool:
    return job.state is JobState.RUNNING and job.gpus > 0


def least_work(facts: Facts, job: JobFacts) -> float:
    """GPU equivalents that the least GPUs of a job do at the knee of the slowest of its pools."""
    knees = [hull_from_idle(_clipped(facts, g)).segments[0] for g in job.pools]
    return max(1, job.job.min_gpus) * min((part.width_w * part.slope_per_w for part in knees), default=0.0)


def _clipped(facts: Facts, g: int) -> PowerCurve:
    pool = facts.pools[g].pool
    return clipped(pool.curve, pool.min_cap_w, pool.max_cap_w)


def _hold_h(facts: Facts, job: BatchJob) -> float:
    """Hours that the present run of a job must still last."""
    if job.running_since is None or not _runs(job):
        return 0.0
    return max(0.0, job.min_run_h + hours_from(facts.problem.grid.start, job.running_since))


def _within(job: JobFacts, hours: float) -> float:
    """Those hours, or less where the work is done before."""
    return min(hours, job.left / job.rate) if job.rate > 0 else 0.0


def _pause_cost(facts: Facts, job: JobFacts) -> float:
    """Money for one suspend and restart: its own price, and its GPU-hours at their energy and the job's value."""
    item = job.job
    gpu_h = item.checkpoint_gpu_h + item.restart_gpu_h
    energy = max(0.0, float(facts.carry_cost[job.pools[0]])) if job.pools else 0.0
    return item.pause_cost + gpu_h * (energy + max(0.0, item.value_per_gpu_h))


def _latest_h(facts: Facts, job: JobFacts) -> float:
    """Hours from the grid's start to the last moment at which a job can begin and meet its deadline."""
    if job.rate <= 0:
        return float("inf")
    return hours_from(facts.problem.grid.start, job.job.deadline) - job.left / job.rate


def _order(facts: Facts) -> list[tuple[int, int]]:
    """Pairs of open jobs: the second waits for the first. One that has begun waits for nobody any more."""
    place = {job.job.id: n for n, job in enumerate(facts.jobs)}
    return [
        (place[name], n)
        for n, job in enumerate(facts.jobs)
        for name in dict.fromkeys(job.job.after)
        if name in place and job.job.started_at is None
    ]


def depths(facts: Facts, order: NDArray[np.int64]) -> list[int]:
    """How many jobs in a row each job waits for."""
    depth = [0] * len(facts.jobs)
    for _ in range(len(depth)):
        for before, then in order.tolist():
            depth[then] = max(depth[then], depth[before] + 1)
        if all(depth[then] > depth[before] for before, then in order.tolist()):
            break
    return depth


def may_work(facts: Facts, steps: Steps, rates: Floats, number: int) -> Flags:
    """Intervals in which a job may work beside these rates [job, interval]: those after its predecessors are done."""
    allowed = np.ones(facts.count, dtype=np.bool_)
    for before, then in steps.order.tolist():
        if then == number:
            done = np.cumsum(rates[before] * facts.hours)
            allowed &= np.concatenate(([False], done[:-1] >= facts.jobs[before].left * (1 - 1e-9)))
    return allowed


def least_now(facts: Facts, steps: Steps, number: int) -> float:
    """Least mean rate in GPU equivalents, in the interval about to run, of a job that runs with its least GPUs or not
    at all (a gang, a least run, pauses that cost); 0 for other jobs."""
    job = facts.jobs[number]
    if not steps.stepped[number]:
        return 0.0
    share = float(job.on_time_h[0] + job.late_h[0]) / float(facts.hours[0])
    return min(float(steps.least_work[number]) * share, job.left / float(facts.hours[0]))


def pauses(facts: Facts, steps: Steps, rates: Floats, carried: Floats) -> Floats:
    """Pauses [job] in a plan: starts anew after a time without work, a first start not among them; one more where a job
    that rests at the horizon's end has work left for later."""
    on = rates > 1e-9
    before = np.concatenate((steps.runs[:, None], on[:, :-1]), axis=1)
    ups = (on & ~before).sum(axis=1) + ((carried > 1e-6) & ~on[:, -1])
    counted: Floats = np.where(steps.lasting, np.maximum(0, ups - np.where(steps.runs, 0, 1)), 0).astype(np.float64)
    return counted


def least_rates(facts: Facts, steps: Steps) -> Floats:
    """Least mean rate [job, interval] in GPU equivalents of a job that runs."""
    share = (facts.table.on_time_h + facts.table.late_h) / facts.hours
    found: Floats = np.minimum(steps.least_work[:, None] * share, facts.table.left[:, None] / facts.hours)
    return found


def last_part(facts: Facts, steps: Steps, jobs: NDArray[np.int64], inside_h: Floats, least_h: Floats) -> Floats:
    """Part of what the least rate does in an interval (GPU-hours, `least_h`) that a run of each job must do in one of
    which so many hours lie inside of it: 1, or less where a run that lasts no longer than its work does at the highest
    rate has less left to do there."""
    rate, left = facts.table.rate[jobs], facts.table.left[jobs]
    ends = steps.least_h[jobs] * rate >= left * (1 - 1e-9)
    found: Floats = np.where(ends, np.minimum(1.0, rate * inside_h / np.maximum(least_h, 1e-12)), 1.0)
    return found


def rests(facts: Facts, steps: Steps, rates: Floats) -> Floats:
    """Part of each interval [job, interval] in which a plan stops a run that has not lasted as long as it must, with
    work left: the run in progress, or one that begins in the interval about to run."""
    ends, work = np.cumsum(facts.hours), rates * facts.hours
    begun = np.where(~steps.runs & (rates[:, 0] > 1e-9), steps.least_h, 0.0)[:, None]
    holds = (ends <= steps.hold_h[:, None] + 1e-9) | (np.arange(facts.count) == 0)
    holds &= steps.hold_h[:, None] > 1e-9
    lasts = holds | (ends - facts.hours < begun - 1e-9)
    left = np.cumsum(work, axis=1) - work < facts.table.left[:, None] * (1 - 1e-6)
    open_ = facts.table.on_time_h + facts.table.late_h > 1e-9
    found: Flags = lasts & left & open_ & steps.lasting[:, None] & (rates <= 1e-9)
    j, t = np.nonzero(found)
    inside_h = np.minimum(facts.hours, begun - ends + facts.hours)[j, t]
    parts = np.zeros_like(rates)
    parts[j, t] = last_part(facts, steps, j, inside_h, (least_rates(facts, steps) * facts.hours)[j, t])
    parts[found & holds] = 1.0
    return parts
