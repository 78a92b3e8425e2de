"""The rival that does nothing: no cap, no regard for price or event, jobs as soon as they come or evenly spread.

Why computed and not simulated: without control a hall is arithmetic. Draw follows from how many GPUs are busy, and jobs
take what is free in the order of their release.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from optimizer.domain import BatchJob, GpuPool, Problem, SiteInputs, Work
from scheduler.backtest.outcome import Floats, Outcome
from scheduler.config.runtime import NoControl


@dataclass(frozen=True)
class _Busy:
    """One busy GPU without a cap: its draw above idle in W and its throughput."""

    above_w: float
    speed: float


def no_control(truth: Problem, how: NoControl = NoControl.ASAP) -> Outcome:
    """What the site does when nobody throttles, shifts or listens."""
    free = {inputs.pool.id: _uncapped(inputs.pool) for inputs in truth.pools}
    rates = (_asap if how is NoControl.ASAP else _even)(truth, free)
    work: dict[str, Floats] = {}
    it_kw = {site.id: np.array(site.other_it_kw) for site in truth.sites}
    for inputs in truth.pools:
        pool, one = inputs.pool, free[inputs.pool.id]
        busy = np.array(inputs.load) * pool.count
        if pool.work is Work.BATCH:
            mine = [rates[job.id] for job in truth.jobs if job.pools[0] == pool.id]
            busy = sum(mine, np.zeros(len(truth.grid))) / one.speed
        work[pool.id] = busy * one.speed
        it_kw[pool.site] = it_kw[pool.site] + (pool.count * pool.curve.idle_w + busy * one.above_w) / 1000.0
    imports = {site.id: _at_meter(site, it_kw[site.id] * np.array(site.pue)) for site in truth.sites}
    engines = {unit.id: np.array(unit.low_kw) for site in truth.sites for unit in site.generators if not unit.must_take}
    return Outcome(truth.grid, imports, work, rates, given_kw=engines)


def _at_meter(site: SiteInputs, load_kw: Floats) -> Floats:
    """Import with engines at their least, idle batteries, and the sun as far as it is used or may leave."""
    left = load_kw - sum((np.array(u.low_kw) for u in site.generators if not u.must_take), np.zeros_like(load_kw))
    for unit in site.generators:
        if unit.must_take:
            sun = np.array(unit.high_kw)
            left = left - (sun if unit.may_export else np.minimum(sun, np.maximum(0.0, left)))
    return left


def _uncapped(pool: GpuPool) -> _Busy:
    """A busy GPU at the highest cap, on the measured points themselves."""
    points = pool.curve.points
    caps = [point.cap_w for point in points]
    draw_w = float(np.interp(pool.max_cap_w, caps, [point.draw_w for point in points]))
    speed = float(np.interp(pool.max_cap_w, caps, [point.throughput for point in points]))
    return _Busy(draw_w - pool.curve.idle_w, speed)


def _open_h(job: BatchJob, truth: Problem, until_deadline: bool) -> Floats:
    """Hours of every interval in which the job may run."""
    last = job.deadline if until_deadline else truth.grid.end
    return np.array([truth.grid.overlap_h(index, job.release, last) for index in range(len(truth.grid))])


def _asap(truth: Problem, free: Mapping[str, _Busy]) -> dict[str, Floats]:
    """Rates in full-speed GPU equivalents: first released, first served, up to the pool's GPUs."""
    hours = np.array(truth.grid.hours)
    room_h = {inputs.pool.id: inputs.pool.count * hours for inputs in truth.pools}
    rates = {}
    for job in sorted(truth.jobs, key=lambda job: (job.release, job.deadline, job.id)):
        pool = job.pools[0]
        most = np.minimum(job.max_gpus * _open_h(job, truth, until_deadline=False), room_h[pool]) * free[pool].speed
        before = np.concatenate(([0.0], np.cumsum(most)[:-1]))
        done = np.clip(job.left_gpu_h - before, 0.0, most)
        room_h[pool] = room_h[pool] - done / free[pool].speed
        rates[job.id] = done / hours
    return rates


def _even(truth: Problem, free: Mapping[str, _Busy]) -> dict[str, Floats]:
    """Rates of jobs that run at one pace from release to deadline, as far as their pool has room."""
    hours = np.array(truth.grid.hours)
    room_h = {inputs.pool.id: inputs.pool.count * hours for inputs in truth.pools}
    rates = {}
    for job in sorted(truth.jobs, key=lambda job: (job.deadline, job.release, job.id)):
        pool, speed = job.pools[0], free[job.pools[0]].speed
        open_h = _open_h(job, truth, until_deadline=True)
        gpus = min(job.max_gpus, job.left_gpu_h / speed / max(float(open_h.sum()), 1e-9))
        used_h = np.minimum(gpus * open_h, room_h[pool])
        room_h[pool] = room_h[pool] - used_h
        rates[job.id] = used_h * speed / hours
    return rates
