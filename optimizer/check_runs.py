"""The checker's part about least runs: one that has begun goes on while there is room (see `check.py`)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from optimizer.check_parking import awake_gpus, saved_kw
from optimizer.curves import clipped, hull_from_idle, throughput_at_cap
from optimizer.domain import BatchJob, JobState, Plan, PoolInputs, PowerCurve, Problem, Work
from optimizer.envelope import mean_limit_kw
from optimizer.jobplans import JobPlans

OVER = (JobState.DONE, JobState.CANCELLED)


def run_faults(problem: Problem, plan: Plan, jobs: JobPlans) -> Iterator[tuple[str, int, str]]:
    """Runs that end before they have lasted their least time, or their work is done, though there was room for their
    least GPUs: in a pool and under every cap. A job without a penalty for what is never done may be dropped."""
    for number, job in enumerate(problem.jobs):
        if job.min_run_h <= 0 or not job.preemptible:
            continue
        over = job.state in OVER or job.left_gpu_h <= 1e-9 or job.undone_penalty <= 0
        home = next((item for item in _able(problem, job) if item.pool.id == jobs.pools[number]), None)
        if not over and home is not None:
            yield from _run(problem, plan, job, jobs.rates[number], home)


def _run(
    problem: Problem, plan: Plan, job: BatchJob, rates: np.ndarray[tuple[int], np.dtype[np.float64]], home: PoolInputs
) -> Iterator[tuple[str, int, str]]:
    """The intervals of the run in progress, or of one that begins now."""
    grid = problem.grid
    last_h = _left_h(problem, job, float(rates[0]))
    done = 0.0
    for t, hours in enumerate(grid.hours):
        end_h = (grid.edges[t + 1] - grid.start).total_seconds() / 3600.0
        if last_h <= 1e-9 or (t > 0 and end_h > last_h + 1e-9) or done >= job.left_gpu_h * (1 - 1e-6):
            return
        if rates[t] <= 1e-9:  # where it had to stop, it is over: what comes later is another run
            if _room(problem, plan, job, home, t):
                yield job.id, t, f"has not run for its least {job.min_run_h:g} h, and is stopped"
            return
        done += float(rates[t]) * hours


def _left_h(problem: Problem, job: BatchJob, rate_now: float) -> float:
    """Hours from now that its run must last: what remains of the present one, or all of one that begins now."""
    tops = [
        min(job.max_gpus, item.pool.count) * throughput_at_cap(_curve(item), item.pool.max_cap_w)
        for item in _able(problem, job)
    ]
    hours = job.left_gpu_h / max(max(tops, default=0.0), 1e-9)
    if job.state is JobState.RUNNING and job.gpus > 0:
        if job.running_since is None:
            return 0.0
        return min(hours, job.min_run_h - (problem.grid.start - job.running_since).total_seconds() / 3600.0)
    return min(hours, job.min_run_h) if rate_now > 1e-9 else 0.0


def _able(problem: Problem, job: BatchJob) -> list[PoolInputs]:
    """Pools in which a job can run."""
    pools = [item for item in problem.pools if item.pool.id in job.pools and item.pool.work is Work.BATCH]
    return [item for item in pools if item.pool.count >= job.min_gpus]


def _curve(item: PoolInputs) -> PowerCurve:
    return clipped(item.pool.curve, item.pool.min_cap_w, item.pool.max_cap_w)


def _room(problem: Problem, plan: Plan, job: BatchJob, home: PoolInputs, t: int) -> bool:
    """Whether the pool had GPUs, and the site power, for the least that the job needs. The power is what surely
    suffices: all work of the pool at full speed, whatever else is drawn as it is planned."""
    hulls = [hull_from_idle(_curve(item)) for item in _able(problem, job)]
    need = max(1, job.min_gpus) * min(h.segments[0].width_w * h.segments[0].slope_per_w for h in hulls)
    need = min(need, job.left_gpu_h / problem.grid.hours[t])
    own, orders, awake = hull_from_idle(_curve(home)), plan.pools[home.pool.id], awake_gpus(problem, plan, home)
    free = awake[t] * own.top_throughput - orders.work_gpus[t]
    site = next(site for site in problem.sites if site.id == home.pool.site)
    asking = [event for event in problem.events if event.site == site.id]
    asking = [event for event in asking if not event.undecided or event.id in plan.taken]
    cap = min([site.limit_kw[t], *(max(0.0, mean_limit_kw(event, *problem.grid.edges[t : t + 2])) for event in asking)])
    full_kw = (orders.work_gpus[t] + need) * (own.top_w - own.base_w) / own.top_throughput / 1000.0
    saved = float(saved_kw(plan, home, len(awake))[t])
    above_kw = orders.draw_kw[t] + saved - home.pool.count * home.pool.curve.idle_w / 1000.0
    kw = max(0.0, full_kw - above_kw) * site.pue[t]
    return bool(need * (1 + 1e-3) + 1e-6 < free and plan.sites[site.id].import_kw[t] + kw * (1 + 1e-3) + 1e-3 < cap)
