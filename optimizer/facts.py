"""What follows from a problem before anything is decided: arrays over the grid for pools, jobs and sites.

Why one place: the model, the greedy plan, the shifted plan and the evaluation must read the same problem. (The checker
has arithmetic of its own, on purpose.) Power is in kW of a whole pool, work in GPU equivalents at full throughput.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from optimizer.curves import (
    Hull,
    cap_for_throughput,
    clipped,
    draw_at_cap,
    hull_from_idle,
    hull_of_caps,
    throughput_at_cap,
)
from optimizer.domain import BatchJob, GpuPool, GridEvent, JobState, PowerCurve, Problem, Work
from optimizer.envelope import mean_limit_kw

Floats = NDArray[np.float64]
INF = float("inf")
PREFERENCE_PER_GPU_H = 0.001
"""Money per GPU-hour for each place down a job's list of pools: order decides between equals, and nothing else."""

PACE_STEP = 0.02
"""Paces are rounded up to this, so that a pool has few different hulls."""


@dataclass(frozen=True)
class PoolFacts:
    """A pool on the grid. `hulls[t]` is throughput over draw of one working GPU; `working[t]` how many may work."""

    pool: GpuPool
    index: int
    site: int
    curve: PowerCurve
    working: Floats
    hulls: tuple[Hull, ...]
    floor_cap_w: int
    may_break_floor: NDArray[np.bool_]
    draw_now_kw: float | None

    @property
    def batch(self) -> bool:
        """Whether the pool runs queued jobs (its GPUs may idle)."""
        return self.pool.work is Work.BATCH

    @property
    def top_work(self) -> float:
        """Work of all GPUs under the highest cap, in GPU equivalents."""
        return self.pool.count * self.hulls[0].top_throughput

    @cached_property
    def base_kw(self) -> Floats:
        """Draw that no order can go below: idle GPUs, and for pools that only take caps their lowest cap."""
        idle_w = self.curve.idle_w
        above = np.array([hull.base_w - idle_w for hull in self.hulls])
        draw: Floats = (self.pool.count * idle_w + self.working * above) / 1000.0
        return draw

    @cached_property
    def top_kw(self) -> Floats:
        """Draw at the best throughput of all GPUs that may work."""
        widths = np.array([hull.top_w - hull.base_w for hull in self.hulls])
        draw: Floats = self.base_kw + self.working * widths / 1000.0
        return draw

    @cached_property
    def least_kw(self) -> Floats:
        """Least draw that keeps the service floor."""
        if self.batch:
            return self.base_kw
        floor_w = draw_at_cap(self.curve, self.floor_cap_w)
        need = np.array([max(0.0, min(floor_w, hull.top_w) - hull.base_w) for hull in self.hulls])
        draw: Floats = self.base_kw + self.working * need / 1000.0
        return draw

    @cached_property
    def floor_work(self) -> Floats:
        """Work in GPU equivalents under the floor's cap (interactive and training pools)."""
        work: Floats = self.working * throughput_at_cap(self.curve, self.floor_cap_w)
        return work

    def work_at(self, index: int, draw_kw: float) -> float:
        """Work in GPU equivalents that a draw of the pool does."""
        working, hull = float(self.working[index]), self.hulls[index]
        if working <= 0:
            return 0.0
        return working * hull.throughput(hull.base_w + (draw_kw - float(self.base_kw[index])) * 1000.0 / working)

    def draw_for(self, index: int, work: float) -> float:
        """Least draw of the pool in kW that does `work` GPU equivalents."""
        working, hull = float(self.working[index]), self.hulls[index]
        if working <= 0:
            return float(self.base_kw[index])
        above_w = working * (hull.draw_w(work / working) - hull.base_w)
        return float(self.base_kw[index]) + above_w / 1000.0


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
class Facts:
    """What follows from a problem; arrays are [site, interval] or [event, interval]. Equal to itself only."""

    problem: Problem
    hours: Floats
    cost_per_kwh: Floats
    pue: Floats
    other_kw: Floats
    limit_kw: Floats
    event_kw: Floats
    pools: tuple[PoolFacts, ...]
    jobs: tuple[JobFacts, ...]

    @property
    def count(self) -> int:
        """Number of intervals."""
        return len(self.hours)

    @cached_property
    def site_index(self) -> dict[str, int]:
        """Site id -> its row."""
        return {site.id: number for number, site in enumerate(self.problem.sites)}

    def events_of(self, site: int) -> list[tuple[int, GridEvent]]:
        """Events of a site with their row in `event_kw`."""
        events = enumerate(self.problem.events)
        return [(number, event) for number, event in events if self.site_index[event.site] == site]

    @cached_property
    def events_cap_kw(self) -> Floats:
        """Strictest event cap per site and interval (inf: none)."""
        caps = np.full_like(self.limit_kw, INF)
        for number, event in enumerate(self.problem.events):
            row = self.site_index[event.site]
            caps[row] = np.minimum(caps[row], self.event_kw[number])
        return caps

    @cached_property
    def firm_cap_kw(self) -> Floats:
        """Strictest of the hard limit and the firm events per site and interval."""
        caps = self.limit_kw.copy()
        for number, event in enumerate(self.problem.events):
            if event.firm or event.emergency:
                row = self.site_index[event.site]
                caps[row] = np.minimum(caps[row], self.event_kw[number])
        return caps

    @cached_property
    def fixed_work(self) -> Floats:
        """Work in GPU equivalents per pool and interval of jobs that run and may not be interrupted."""
        work = np.zeros((len(self.pools), self.count))
        for facts in self.jobs:
            if facts.fixed and facts.pools:
                work[facts.pools[0]] += unbroken_run(self, facts, 0)
        return work

    def runs_fit(self, index: int) -> bool:
        """Whether a batch pool has the GPUs for all its jobs that run and may not be interrupted."""
        return bool(self.fixed_work[index].max() <= self.pools[index].top_work + 1e-9)

    @cached_property
    def least_import_kw(self) -> Floats:
        """Least import per site and interval: floors, idle GPUs, and jobs that may not be interrupted."""
        total = self.other_kw.copy()
        for facts in self.pools:
            draw = np.where(facts.may_break_floor, facts.base_kw, facts.least_kw)
            if facts.batch:
                draw = np.array([facts.draw_for(t, self.fixed_work[facts.index, t]) for t in range(self.count)])
            total[facts.site] += draw
        return total * self.pue

    @cached_property
    def carry_cost(self) -> Floats:
        """Money per GPU-hour of work left for after the horizon: the mean cost of energy at each pool's knee."""
        mean_cost = (self.cost_per_kwh * self.pue * self.hours).sum(axis=1) / self.hours.sum()
        knees = [hull_from_idle(facts.curve).segments[0] for facts in self.pools]
        return np.array([mean_cost[f.site] / (1000.0 * k.slope_per_w) for f, k in zip(self.pools, knees, strict=True)])


def unbroken_run(facts: Facts, job: JobFacts, start: int) -> Floats:
    """Work in GPU equivalents per interval of a job that starts at interval `start` (or at its release inside it) and
    runs at its highest rate without a break."""
    ends = np.cumsum(facts.hours)
    begins = ends - facts.hours
    first = max(float(begins[start]), _release_h(facts, job)) if not job.fixed else float(begins[start])
    last = first + (job.left / job.rate if job.rate > 0 else 0.0)
    overlap = np.clip(np.minimum(ends, last) - np.maximum(begins, first), 0.0, None)
    work: Floats = job.rate * overlap / facts.hours
    return work


def late_tail(facts: Facts, job: JobFacts, done: float) -> tuple[float, float]:
    """GPU-hours that a run without a break, with `done` of it inside the horizon, does after both horizon and deadline,
    and how many hours after the deadline they lie on average."""
    tail = max(0.0, job.left - done)
    late = tail - job.rate * job.beyond_h
    if job.rate <= 0 or late <= 1e-9 * max(1.0, job.left):
        return 0.0, 0.0
    end_h = float(facts.hours.sum())
    deadline_h = _hours_from(facts.problem.grid.start, job.job.deadline)
    return late, (max(end_h, deadline_h) + end_h + tail / job.rate) / 2 - deadline_h


def _release_h(facts: Facts, job: JobFacts) -> float:
    """Hours from the grid's start to the job's release."""
    return (job.job.release - facts.problem.grid.start).total_seconds() / 3600.0


def facts_of(problem: Problem) -> Facts:
    """Compute the facts of a valid problem."""
    hours = np.array(problem.grid.hours)
    sites = {site.id: number for number, site in enumerate(problem.sites)}
    tonne = problem.prices.carbon_per_tonne
    cost = [
        np.array(site.price_per_mwh) / 1000.0 + np.array(site.carbon_g_per_kwh) * tonne / 1e6 for site in problem.sites
    ]
    edges = problem.grid.edges
    caps = [[mean_limit_kw(event, edges[t], edges[t + 1]) for t in range(len(hours))] for event in problem.events]
    jobs = _jobs(problem, hours)
    facts = Facts(
        problem,
        hours,
        np.array(cost),
        np.array([site.pue for site in problem.sites]),
        np.array([site.other_it_kw for site in problem.sites]),
        np.array([site.limit_kw for site in problem.sites]),
        np.array(caps).reshape(len(problem.events), len(hours)),
        tuple(_pool(problem, number, sites, jobs) for number in range(len(problem.pools))),
        jobs,
    )
    return replace(facts, pools=tuple(_with_floors(facts, pool) for pool in facts.pools))


def _with_floors(facts: Facts, pool: PoolFacts) -> PoolFacts:
    """The pool with its floor breakable only where nothing else helps.

    Under an emergency order that the operator has allowed, any floor; under a hard limit, training's; and only where
    all floors together don't fit under that cap.
    """
    cap = facts.limit_kw[pool.site] if pool.pool.work is Work.TRAINING else np.full(facts.count, INF)
    for number, event in facts.events_of(pool.site):
        if event.emergency:
            ended = event.end + timedelta(seconds=event.ramp_out_s)
            active = np.array([start < ended for start in facts.problem.grid.starts])
            asked = np.minimum(facts.limit_kw[pool.site], facts.event_kw[number])
            cap = np.where(active & (facts.event_kw[number] < INF), np.minimum(cap, asked), cap)
    return replace(pool, may_break_floor=facts.least_import_kw[pool.site] > cap + 1e-9)


def _jobs(problem: Problem, hours: Floats) -> tuple[JobFacts, ...]:
    """Facts of every job that still has work to do and is neither done nor cancelled."""
    over = {JobState.DONE, JobState.CANCELLED}
    jobs = [job for job in problem.jobs if job.state not in over and job.left_gpu_h > 1e-9]
    batch = {inputs.pool.id: n for n, inputs in enumerate(problem.pools) if inputs.pool.work is Work.BATCH}
    start = problem.grid.start
    release = np.array([_hours_from(start, job.release) for job in jobs])
    started = np.array([job.started_at is not None for job in jobs], dtype=np.bool_)
    release = np.where(started, np.minimum(release, 0.0), release)[:, None]
    deadline = np.array([_hours_from(start, job.deadline) for job in jobs])[:, None]
    right = np.cumsum(hours)
    left = right - hours
    on_time = np.clip(np.minimum(right, deadline) - np.maximum(left, release), 0.0, None)
    late = np.clip(right - np.maximum(left, np.maximum(release, deadline)), 0.0, None)
    hours_late = np.where(late > 0, right - late / 2 - deadline, 0.0)
    beyond = np.clip(deadline - np.maximum(right[-1], release), 0.0, None)[:, 0]
    return tuple(
        _job(problem, job, batch, (on_time[n], late[n], hours_late[n]), float(beyond[n])) for n, job in enumerate(jobs)
    )


def _job(
    problem: Problem, job: BatchJob, batch: dict[str, int], rows: tuple[Floats, Floats, Floats], beyond_h: float
) -> JobFacts:
    pools = tuple(batch[name] for name in dict.fromkeys(job.pools) if name in batch)
    rate = max((_top_rate(problem.pools[number].pool, job) for number in pools), default=0.0)
    available = rate * (float(rows[0].sum()) + beyond_h)
    pace = min(1.0, job.left_gpu_h / available) if available > 0 else 1.0
    return JobFacts(job, pools, job.left_gpu_h, rate, *rows, beyond_h, pace)


def _top_rate(pool: GpuPool, job: BatchJob) -> float:
    """Highest rate of a job in a pool, in GPU equivalents: its GPUs under the pool's highest cap."""
    curve = clipped(pool.curve, pool.min_cap_w, pool.max_cap_w)
    return min(job.max_gpus, pool.count) * throughput_at_cap(curve, pool.max_cap_w)


def _hours_from(start: datetime, moment: datetime) -> float:
    return (moment - start).total_seconds() / 3600.0


def _pool(problem: Problem, number: int, sites: dict[str, int], jobs: tuple[JobFacts, ...]) -> PoolFacts:
    inputs = problem.pools[number]
    pool = inputs.pool
    curve = clipped(pool.curve, pool.min_cap_w, pool.max_cap_w)
    top = throughput_at_cap(curve, pool.max_cap_w)
    floor_cap = max(int(pool.min_cap_w), cap_for_throughput(curve, min(pool.floor, top)))
    if pool.work is Work.BATCH:
        working, hulls = _batch(problem, number, curve, jobs)
    else:
        working = np.array(inputs.load) * pool.count
        hulls = (hull_of_caps(curve),) * len(problem.grid)
    breakable = np.zeros(len(problem.grid), dtype=np.bool_)
    return PoolFacts(pool, number, sites[pool.site], curve, working, hulls, floor_cap, breakable, inputs.draw_now_kw)


def _batch(
    problem: Problem, number: int, curve: PowerCurve, jobs: tuple[JobFacts, ...]
) -> tuple[Floats, tuple[Hull, ...]]:
    """GPUs that jobs could keep busy in each interval, and hulls that are never slower than the tightest job needs.

    All active GPUs of a pool share one cap, so a job that must run at pace 0.9 of its highest rate until its deadline
    forbids caps below a throughput of 0.9 while it may run.
    """
    mine = [facts for facts in jobs if number in facts.pools]
    if not mine:
        return np.zeros(len(problem.grid)), (hull_from_idle(curve),) * len(problem.grid)
    share = np.array([facts.on_time_h + facts.late_h for facts in mine]) / np.array(problem.grid.hours)
    gpus = np.array([min(facts.job.max_gpus, problem.pools[number].pool.count) for facts in mine])
    working = gpus @ share
    paces = np.array([facts.pace for facts in mine])
    tight = paces > throughput_of_knee(curve)
    steps = np.where(tight, np.minimum(1.0, np.ceil(paces / PACE_STEP) * PACE_STEP), 0.0)
    pressed = np.array([facts.on_time_h if facts.reachable else facts.on_time_h + facts.late_h for facts in mine])
    least = np.where(pressed > 0, steps[:, None], 0.0).max(axis=0)
    hulls = {pace: hull_from_idle(curve, pace) for pace in set(least.tolist())}
    return np.minimum(working, problem.pools[number].pool.count), tuple(hulls[pace] for pace in least.tolist())


def throughput_of_knee(curve: PowerCurve) -> float:
    """Throughput at the knee of a curve."""
    first = hull_from_idle(curve).segments[0]
    return first.width_w * first.slope_per_w
