"""The checker's part about promised deadlines (Flex tiers): no work is late that there was room for (see `check.py`).

Why with room: hard limits, emergencies and other promises may take it all, and then none is left. Work that is late
beside free GPUs and power is a promise that the plan broke by itself.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from optimizer.check_parking import awake_gpus
from optimizer.curves import Hull, clipped, hull_from_idle, throughput_at_cap
from optimizer.domain import BatchJob, JobState, Plan, PoolInputs, Problem, Rung, Work
from optimizer.envelope import mean_limit_kw
from optimizer.jobplans import JobPlans

Floats = NDArray[np.float64]
SOLVED = (Rung.OPTIMUM, Rung.INCUMBENT)
"""Plans that use any room there is; rules may leave some that is too small for all that is missing."""

OVER = (JobState.DONE, JobState.CANCELLED)


def tier_faults(problem: Problem, plan: Plan, jobs: JobPlans) -> Iterator[tuple[str, None, str]]:
    """Jobs whose deadline is a promise, of which more is done after it than had no room before. What somebody's rule
    plans, the loops correct: no such promise is asked of it."""
    if plan.rung is Rung.RULE:
        return
    for number, job in enumerate(problem.jobs):
        if not job.firm or not job.preemptible or job.state in OVER or job.left_gpu_h <= 1e-9:
            continue
        home = _home(problem, job, jobs.pools[number])
        if home is not None:
            missing, room = _missing(problem, plan, job, jobs.rates[number], home)
            tol = 1e-3 * (1 + job.left_gpu_h)
            if missing > tol and room > tol + (0.0 if plan.rung in SOLVED else missing):
                text = f"{missing:.3f} GPU-h miss its promised deadline, with room for {room:.3f} before it"
                yield job.id, None, text


def promised_jobs(problem: Problem, plan: Plan, jobs: JobPlans) -> list[str]:
    """Ids of those for which no room is left before their promised deadline: they work where they must. A gang in the
    interval about to run is whole or nothing: it must where all of that would have no room elsewhere."""
    found, now_h = [], problem.grid.hours[0]
    for number, job in enumerate(problem.jobs):
        home = _home(problem, job, jobs.pools[number]) if job.firm and job.preemptible else None
        if home is None:
            continue
        room = _missing(problem, plan, job, jobs.rates[number], home)[1]
        room -= float(jobs.rates[number][0]) * now_h if job.min_gpus > 1 else 0.0
        if room <= 1e-3 * (1 + job.left_gpu_h):
            found.append(job.id)
    return found


def _home(problem: Problem, job: BatchJob, planned: str) -> PoolInputs | None:
    """The pool that a plan has it in, else the first that it may run in."""
    able = [item for item in problem.pools if item.pool.id in job.pools and item.pool.work is Work.BATCH]
    able = [item for item in able if item.pool.count >= job.min_gpus]
    return next((item for item in able if item.pool.id == planned), able[0] if able else None)


def _missing(problem: Problem, plan: Plan, job: BatchJob, rates: Floats, home: PoolInputs) -> tuple[float, float]:
    """Work in GPU-hours that is not done before the deadline, and for how much more there would be room."""
    start, hours = problem.grid.start, np.array(problem.grid.hours)
    edges = np.array([(edge - start).total_seconds() / 3600.0 for edge in problem.grid.edges])
    deadline_h = (job.deadline - start).total_seconds() / 3600.0
    hull = hull_from_idle(clipped(home.pool.curve, home.pool.min_cap_w, home.pool.max_cap_w))
    rate = min(job.max_gpus, home.pool.count) * hull.top_throughput
    most = rate * np.clip(np.minimum(edges[1:], deadline_h) - edges[:-1], 0.0, None)
    timely = np.minimum(rates * hours, most)
    missing = job.left_gpu_h - float(timely.sum()) - _top_rate(problem, job) * max(0.0, deadline_h - float(edges[-1]))
    room = np.minimum(_room(problem, plan, home, hull), (most - timely) / hours)
    room = _usable(problem, job, rates, np.clip(room, 0.0, None), most / hours)
    return missing, float((room * hours).sum())


def _usable(problem: Problem, job: BatchJob, rates: Floats, room: Floats, most: Floats) -> Floats:
    """What a job can use of the room beside its rates, both in GPU equivalents [interval]: one that runs as a whole or
    not at all needs its least GPUs in the interval about to run, and a least run room for as long as it lasts."""
    lasts = job.min_run_h > 0 or job.pause_cost > 0 or job.checkpoint_gpu_h + job.restart_gpu_h > 0
    if not (lasts or job.min_gpus > 1) or not room.any():
        return room
    hours, top = np.array(problem.grid.hours), float(most.max(initial=0.0))
    least = np.minimum(_least_rate(problem, job) * most / max(top, 1e-12), job.left_gpu_h / hours)
    fits = np.divide(rates + room, least, out=np.ones_like(room), where=least > 1e-12)
    share = np.minimum(1.0, fits)
    share[0] = float(fits[0] >= 1 - 1e-4 or rates[0] > 1e-9)
    if job.min_run_h > 0 and top > 0:
        share = _lasting(hours, share, _run_h(problem, job, job.left_gpu_h / top))
    found: Floats = np.clip(np.minimum(room, share * most - rates), 0.0, None)
    return found


def _least_rate(problem: Problem, job: BatchJob) -> float:
    """GPU equivalents of its least GPUs, each at the knee of the slowest of its pools."""
    able = [item.pool for item in problem.pools if item.pool.id in job.pools and item.pool.work is Work.BATCH]
    first = [hull_from_idle(clipped(one.curve, one.min_cap_w, one.max_cap_w)).segments[0]
             for one in able if one.count >= job.min_gpus]  # fmt: skip
    return max(1, job.min_gpus) * min((part.width_w * part.slope_per_w for part in first), default=0.0)


def _run_h(problem: Problem, job: BatchJob, work_h: float) -> tuple[float, float]:
    """Hours that a run from now, and one from later, must last; `work_h`: hours of work that are left."""
    whole = min(job.min_run_h, work_h)
    if job.state is not JobState.RUNNING or job.gpus <= 0:
        return whole, whole
    begun_h = (problem.grid.start - job.running_since).total_seconds() / 3600.0 if job.running_since else job.min_run_h
    return min(whole, max(0.0, job.min_run_h - begun_h)), whole


def _lasting(hours: Floats, share: Floats, run_h: tuple[float, float]) -> Floats:
    """The best share [interval] of runs through each interval that take no less of any interval for as long as a run
    must last, out of what there is (`share`). `run_h`: as from `_run_h`."""
    ends, found = np.cumsum(hours), np.zeros_like(share)
    for first in range(len(share)):
        least = np.minimum.accumulate(share[first:])
        long_enough = ends[first:] >= ends[first] - hours[first] + run_h[first > 0] - 1e-9
        long_enough[-1] = True
        run = np.where(long_enough, least, 0.0)
        np.maximum(found[first:], np.maximum.accumulate(run[::-1])[::-1], out=found[first:])
    return found


def _top_rate(problem: Problem, job: BatchJob) -> float:
    """Its highest rate in any pool: after the horizon it may be in another one."""
    able = [item.pool for item in problem.pools if item.pool.id in job.pools and item.pool.work is Work.BATCH]
    tops = [throughput_at_cap(clipped(one.curve, one.min_cap_w, one.max_cap_w), one.max_cap_w) for one in able]
    return max((min(job.max_gpus, one.count) * top for one, top in zip(able, tops, strict=True)), default=0.0)


def _room(problem: Problem, plan: Plan, home: PoolInputs, hull: Hull) -> Floats:
    """GPU equivalents [interval] for which the pool has GPUs and the site power, at full speed and under every cap."""
    site = next(site for site in problem.sites if site.id == home.pool.site)
    asking = [event for event in problem.events if event.site == site.id]
    asking = [event for event in asking if not event.undecided or event.id in plan.taken]
    steps = list(zip(problem.grid.edges[:-1], problem.grid.edges[1:], strict=True))
    caps = [np.array([max(0.0, mean_limit_kw(event, *step)) for step in steps]) for event in asking]
    cap = np.minimum.reduce([np.array(site.limit_kw), *caps])
    each_kw = (hull.top_w - hull.base_w) / hull.top_throughput / 1000.0 * np.array(site.pue)
    # The pool's present work at full speed, as who fills it up would need it.
    orders = plan.pools[home.pool.id]
    base_kw = home.pool.count * home.pool.curve.idle_w / 1000.0 * np.array(site.pue)
    drawn_kw = np.array(orders.draw_kw) * np.array(site.pue)
    full_kw = np.maximum(drawn_kw, base_kw + np.array(orders.work_gpus) * each_kw)
    free_kw = cap - np.array(plan.sites[site.id].import_kw) - (full_kw - drawn_kw)
    free = awake_gpus(problem, plan, home) * hull.top_throughput - np.array(orders.work_gpus)
    found: Floats = np.clip(np.minimum(free, free_kw / each_kw), 0.0, None)
    return found
