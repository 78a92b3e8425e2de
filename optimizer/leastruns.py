"""Rules for jobs that must run for a least time once they run: whoever plans without the solver keeps them up too.

Why after everything else is placed: such a run needs no more than its least GPUs, and gives way only where none is
free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from optimizer.facts import Facts, Floats
from optimizer.steps import Steps


@dataclass(frozen=True, eq=False)
class Space:
    """What is still free: GPU equivalents [pool, interval], IT power in kW [site, interval], and the power that a GPU
    equivalent takes [pool, interval]. Changed in place."""

    free: Floats
    room_kw: Floats
    kw_per_work: Floats


def keep_runs(facts: Facts, steps: Steps, rates: Floats, homes: Sequence[int], space: Space) -> None:
    """Give every run that has begun, or begins now, its least GPUs until it has lasted as long as it must, where there
    is room; its later work becomes less. Changes `rates` [job, interval]."""
    ends = np.cumsum(facts.hours)
    for number in np.flatnonzero((steps.least_h > 0) | (steps.hold_h > 0)).tolist():
        begun = rates[number, 0] > 1e-9
        hold_h = float(steps.hold_h[number] if steps.runs[number] else steps.least_h[number] if begun else 0.0)
        if hold_h > 1e-9 and homes[number] >= 0:
            inside = ends <= hold_h + 1e-9
            inside[0] = True
            _fill(facts, steps, rates, (number, homes[number]), np.flatnonzero(inside).tolist(), space)


def _fill(
    facts: Facts, steps: Steps, rates: Floats, job_pool: tuple[int, int], intervals: list[int], space: Space
) -> None:
    """Put the least into the intervals of a run in which nothing is planned."""
    number, g = job_pool
    job, s = facts.jobs[number], facts.pools[g].site
    for t in intervals:
        if float(rates[number, :t] @ facts.hours[:t]) >= job.left * (1 - 1e-9):
            break
        hours = float(facts.hours[t])
        share = float(job.on_time_h[t] + job.late_h[t]) / hours
        need = min(float(steps.least_work[number]) * share, job.left / hours)
        room = min(space.free[g, t], space.room_kw[s, t] / space.kw_per_work[g, t])
        if rates[number, t] > 1e-9 or need > room + 1e-12:
            continue
        rates[number, t] = need
        space.free[g, t] -= need
        space.room_kw[s, t] = max(0.0, space.room_kw[s, t] - need * space.kw_per_work[g, t])
    work = rates[number] * facts.hours
    before = np.cumsum(work) - work
    rates[number] = np.clip(np.minimum(work, job.left - before), 0.0, None) / facts.hours
