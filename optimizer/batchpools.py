"""A batch pool before anything is decided: which of its GPUs may work, and how fast they must for the tightest job."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from optimizer.curves import throughput_of_knee
from optimizer.domain import PowerCurve, Problem
from optimizer.jobfacts import JobTable
from optimizer.poolfacts import SLACK, SPEED_STEP

Floats = NDArray[np.float64]


def gpus_for(jobs: JobTable, mine: NDArray[np.bool_] | NDArray[np.int64], count: int, curve: PowerCurve) -> Floats:
    """GPUs that jobs could keep busy in a pool; a rate that another pool sets may need more than a job asks for."""
    found: Floats = np.minimum(np.maximum(jobs.max_gpus[mine], jobs.rate[mine] / curve.points[-1].throughput), count)
    return found


def working_of(
    problem: Problem, number: int, curve: PowerCurve, jobs: JobTable
) -> tuple[Floats, Floats, Floats | None]:
    """GPUs that jobs could keep busy in each interval; the speed of those with work, never slower than the tightest job
    needs; and see `PoolFacts.lone_gpus`.

    All active GPUs of a pool share one cap, so a job that must run at pace 0.9 of its highest rate until its deadline
    forbids caps below a throughput of 0.9 while it may run.
    """
    mine, knee = jobs.of_pool(number), throughput_of_knee(curve)
    if not len(mine):
        empty = np.zeros(len(problem.grid))
        return empty, empty + knee, empty if problem.pools[number].pool.one_cap else None
    on_time_h, count = jobs.on_time_h[mine], problem.pools[number].pool.count
    open_h = on_time_h + jobs.late_h[mine]
    top, gpus = curve.points[-1].throughput, gpus_for(jobs, mine, count, curve)
    working = gpus @ (open_h / np.array(problem.grid.hours))
    if not problem.pools[number].pool.one_cap:
        pressed = np.where(jobs.reachable[mine][:, None], on_time_h, open_h) > 0
        pace = np.where(pressed, jobs.pace[mine][:, None], 0.0).max(axis=0)
        return np.minimum(working, count), pace, None
    tardy = ~jobs.reachable[mine] | jobs.late_anyway[mine]
    pressed_h = np.where(tardy[:, None], open_h, on_time_h)
    pace = np.where(pressed_h > 0, jobs.pace[mine][:, None], 0.0).max(axis=0)
    able = gpus[:, None] * pressed_h / np.array(problem.grid.hours)
    least, most = np.where(able > 0, able, np.inf).min(axis=0), np.minimum(count, able.sum(axis=0))
    speed = np.minimum(top, np.maximum(np.ceil(pace * top / SPEED_STEP - SLACK) * SPEED_STEP, knee))
    lone = jobs.preemptible[mine].all() & (most > 0) & (least >= most * (1 - 1e-9))
    return np.minimum(working, count), speed, np.where(lone, most, 0.0)
