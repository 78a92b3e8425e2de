"""The reference problem: one day of a site with 20 pools, a thousand jobs, a demand charge, a tight spell, one event.

Why made and not recorded: benchmarks need as many like problems as they have repeats, in any size. The shape is that of
a real day: prices with two peaks and a negative spell, a grid limit that is cut for five hours, a voluntary event of
two hours in the evening, three tiers of jobs, most of which are released already when the plan is made.
"""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from math import cos, pi

from optimizer.domain import (
    BatchJob,
    CurvePoint,
    DemandCharge,
    GpuPool,
    GridEvent,
    PoolInputs,
    PowerCurve,
    Prices,
    Problem,
    SiteInputs,
    Span,
    Work,
)
from optimizer.timegrid import TimeGrid, planning_grid, uniform_grid

START = datetime(2022, 9, 6, 7, tzinfo=UTC)
STEP = timedelta(minutes=5)
IDLE_W, LOWEST_W, HIGHEST_W = 70.0, 250.0, 700.0
PUE = 1.2
MOST_SMALL = 5000
"""So many jobs fit into the pools as they are; a job takes a GPU at least."""


def fine_grid(horizon_h: float = 24.0) -> TimeGrid:
    """Every interval 5 minutes."""
    return uniform_grid(START, START + timedelta(hours=horizon_h), STEP)


def coarse_grid(horizon_h: float = 24.0) -> TimeGrid:
    """The daemon's grid: 5 minutes for two hours, a quarter of an hour up to twelve, then hours."""
    return planning_grid(START, timedelta(hours=horizon_h), STEP)


def reference_problem(
    seed: int, grid: TimeGrid, jobs: int = 1000, pools: int = 20, change_per_kw: float = 0.0, one_cap: bool = False
) -> Problem:
    """One instance; the same seed gives the same day on any grid. Half of the pools serve users, half run the jobs.

    The cost of change is off, the part of a plan that is dearest to solve; the daemon has it on. Above MOST_SMALL jobs
    the pools grow with them. `one_cap`: jobs are held to what their GPUs do under the one cap of their pool.
    """
    rng = random.Random(seed)
    times = -(-jobs // MOST_SMALL)
    shapes = [_pool(rng, number, number % 2 == 1) for number in range(pools)]
    shapes = [replace(pool, count=pool.count * times, one_cap=one_cap and pool.work is Work.BATCH) for pool in shapes]
    loads = {pool.id: (rng.uniform(0.45, 0.75), rng.uniform(0.1, 0.25)) for pool in shapes}
    full_kw = PUE * sum(pool.count for pool in shapes) * HIGHEST_W / 1000.0
    batch = [pool for pool in shapes if pool.work is Work.BATCH]
    work = tuple(_job(rng, number, jobs, batch) for number in range(jobs))
    return Problem(
        made_at=grid.start,
        grid=grid,
        sites=(_site(rng, grid, full_kw),),
        pools=tuple(PoolInputs(pool, _load(grid, *loads[pool.id])) for pool in shapes),
        jobs=work,
        events=(_event(full_kw),),
        prices=Prices(change_per_kw=change_per_kw),
    )


def _pool(rng: random.Random, number: int, batch: bool) -> GpuPool:
    """A pool of 128 to 1,024 GPUs with five segments of falling slope on its curve."""
    work = Work.BATCH if batch else Work.INTERACTIVE
    return GpuPool(
        id=f"pool-{number:02}",
        site="dc",
        gpu_model="made",
        count=rng.choice((128, 256, 512, 1024)),
        work=work,
        curve=_curve(rng, f"curve-{number:02}", 5 if batch else 6),
        value_per_gpu_h=0.0 if batch else rng.uniform(2.0, 5.0),
        floor=0.0 if batch else 0.85,
        min_cap_w=LOWEST_W,
        max_cap_w=HIGHEST_W,
    )


def _curve(rng: random.Random, name: str, points: int) -> PowerCurve:
    """Concave: equal steps of power, each worth less than the one before (from idle too)."""
    gains = [0.8**number * rng.uniform(0.95, 1.05) for number in range(points - 1)]
    step_w = (HIGHEST_W - LOWEST_W) / (points - 1)
    first = 1.15 * (LOWEST_W - IDLE_W) / step_w * gains[0]
    total = first + sum(gains)
    speeds = accumulate(gains, initial=first)
    caps = [LOWEST_W + number * step_w for number in range(points)]
    made = tuple(CurvePoint(cap, cap, speed / total) for cap, speed in zip(caps, speeds, strict=True))
    return PowerCurve(name, IDLE_W, made, "made")


def _job(rng: random.Random, number: int, jobs: int, batch: list[GpuPool]) -> BatchJob:
    """Three in five are released already; about 7 hours of window; 1.3 to 6 times as fast as they need to be."""
    release_h = -rng.uniform(0.0, 2.0) if rng.random() < 0.6 else rng.uniform(0.0, 20.0)
    window_h = rng.lognormvariate(1.95, 0.5)
    slack = rng.uniform(1.3, 6.0)
    total = sum(pool.count for pool in batch)
    mean_gpus = rng.uniform(0.4, 1.6) * total / jobs
    gpus = max(1, round(mean_gpus * slack))
    ahead_h = max(0.25, release_h + window_h)
    usable_h = ahead_h - max(0.0, release_h)
    return BatchJob(
        id=f"job-{number:05}",
        pools=(rng.choices(batch, [pool.count for pool in batch])[0].id,),
        release=START + timedelta(hours=release_h),
        deadline=START + timedelta(hours=ahead_h),
        work_gpu_h=gpus * usable_h / slack,
        max_gpus=gpus,
        value_per_gpu_h=rng.choice((0.5, 1.0, 2.0)),
    )


def _site(rng: random.Random, grid: TimeGrid, full_kw: float) -> SiteInputs:
    """Prices, a limit that is cut from 10 h to 15 h, and a demand charge on top of the month's peak so far."""
    hours = [(edge - START).total_seconds() / 3600.0 for edge in grid.starts]
    hourly = [rng.gauss(0.0, 12.0) for _ in range(200)]
    count = len(grid)
    return SiteInputs(
        id="dc",
        price_per_mwh=tuple(_price(hour) + hourly[int(hour)] for hour in hours),
        limit_kw=tuple(full_kw * (0.6 if 10 <= hour < 15 else 0.95) for hour in hours),
        pue=(PUE,) * count,
        other_it_kw=(0.02 * full_kw,) * count,
        carbon_g_per_kwh=(350.0,) * count,
        demand_charges=(DemandCharge("month", 12.0, 0.55 * full_kw, (True,) * count),),
    )


def _price(hour: float) -> float:
    """$/MWh: two peaks a day, and a spell of negative prices around the fifth hour."""
    day = hour % 24.0
    return -20.0 if 4.5 <= day < 6.5 else 55.0 + 30.0 * cos(2 * pi * (day - 13.0) / 12.0)


def _load(grid: TimeGrid, mean: float, swing: float) -> tuple[float, ...]:
    """Share of busy GPUs of a pool that serves users, over the day."""
    hours = ((edge - START).total_seconds() / 3600.0 for edge in grid.starts)
    return tuple(mean + swing * cos(2 * pi * (hour - 14.0) / 24.0) for hour in hours)


def _event(full_kw: float) -> GridEvent:
    """A voluntary event from 17 h to 19 h at $1,500 per MWh."""
    start, end = START + timedelta(hours=17), START + timedelta(hours=19)
    target_kw = 0.45 * full_kw
    return GridEvent("evening", 1, "dc", start, end, (Span(start, end, target_kw),), 0.6 * full_kw, firm=False,
                     penalty_per_kwh=1.5)  # fmt: skip
