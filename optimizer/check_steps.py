"""The checker's part about gangs and jobs that wait for others. Why with arithmetic of its own: see `check.py`."""

from __future__ import annotations

from optimizer.curves import clipped, hull_from_idle
from optimizer.domain import BatchJob, JobState, Problem, Work
from optimizer.jobplans import JobPlans

Fault = tuple[str, int, str]
OVER = (JobState.DONE, JobState.CANCELLED)


def step_faults(problem: Problem, jobs: JobPlans) -> list[Fault]:
    """What the jobs' plans break: gangs short of GPUs in the interval about to run, work before others are done."""
    bound = [(number, job) for number, job in enumerate(problem.jobs) if job.min_gpus > 1 or job.after]
    place = {job.id: number for number, job in enumerate(problem.jobs)} if bound else {}
    found: list[Fault] = []
    for number, job in bound:
        if job.state not in OVER and job.left_gpu_h > 1e-9:
            if job.preemptible and job.min_gpus > 1:
                found += _gang(problem, job, float(jobs.rates[number, 0]))
            if job.after and job.started_at is None:
                found += _waits(problem, jobs, place, number)
    return found


def _gang(problem: Problem, job: BatchJob, rate: float) -> list[Fault]:
    """Its least GPUs or none, each at no less than the knee of the slowest pool."""
    if rate <= 1e-9:
        return []
    knees = []
    for item in problem.pools:
        pool = item.pool
        if pool.id in job.pools and pool.work is Work.BATCH and pool.count >= job.min_gpus:
            first = hull_from_idle(clipped(pool.curve, pool.min_cap_w, pool.max_cap_w)).segments[0]
            knees.append(first.width_w * first.slope_per_w)
    if not knees:
        return [(job.id, 0, f"works, and no pool has its {job.min_gpus} GPUs")]
    opens = problem.grid.start if job.started_at is not None else job.release
    open_h = problem.grid.overlap_h(0, max(opens, problem.grid.start), problem.grid.end)
    least = min(job.min_gpus * min(knees) * open_h, job.left_gpu_h) / problem.grid.hours[0]
    if rate >= least * (1 - 1e-4) - 1e-6:
        return []
    return [(job.id, 0, f"rate {rate:.4f} is below that of its least {job.min_gpus} GPUs, {least:.4f}")]


def _waits(problem: Problem, jobs: JobPlans, place: dict[str, int], number: int) -> list[Fault]:
    """No work at all in the interval about to run while another job is not done; later no larger share of the rate than
    the share of the other's work that is done before."""
    job, rates = problem.jobs[number], jobs.rates
    tops = [
        min(job.max_gpus, item.pool.count) * max(point.throughput for point in item.pool.curve.points)
        for item in problem.pools
        if item.pool.id in job.pools
    ]
    rate = max(tops, default=0.0)
    found: list[Fault] = []
    for name in job.after:
        other = problem.jobs[place[name]] if name in place else None
        if other is None or other.state in OVER or other.left_gpu_h <= 1e-9:
            continue
        done = 0.0
        for t, hours in enumerate(problem.grid.hours):
            if rates[number, t] > rate * min(1.0, done / other.left_gpu_h) + 1e-4 * (1 + rate):
                found.append((job.id, t, f"works before {name} is done"))
                break
            done += float(rates[place[name], t]) * hours
    return found
