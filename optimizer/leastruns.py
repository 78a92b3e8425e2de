"""Rules for jobs that must run for a least time once they run: whoever plans without the solver keeps them up too.

Why after everything else is placed: such a run needs no more than its least GPUs, and gives way only where none is
free. Why room is what the plan leaves then, and not what was booked while jobs were placed: bookings count every job at
full speed and no engine that must run, and a run that has begun is not stopped for power that nobody draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from optimizer.facts import Facts, Floats
from optimizer.speeds import fastest, speed_for
from optimizer.steps import Steps
from optimizer.supply import without_solver

MOST_PASSES = 20
"""So many times all runs are looked at."""


@dataclass(frozen=True, eq=False)
class Space:
    """What is still free: GPU equivalents [pool, interval], IT power in kW [site, interval], and the power that a GPU
    equivalent takes [pool, interval]; `first_kw`: what the first of them takes beyond that, where the work that a pool
    has goes slower than it will beside more. Changed in place."""

    free: Floats
    room_kw: Floats
    kw_per_work: Floats
    first_kw: Floats


@dataclass(frozen=True, eq=False)
class _Plan:
    """What a whole plan draws and leaves free: work, draw in kW, free GPU equivalents and the fastest job's speed
    [pool, interval], and IT power in kW that is free under every cap [site, interval]. Changed in place."""

    work: Floats
    draw_kw: Floats
    free: Floats
    fastest: Floats
    room_kw: Floats


def keep_runs(facts: Facts, steps: Steps, rates: Floats, homes: Sequence[int], draw_kw: Floats) -> Floats:
    """Give every run that has begun, or begins now, its least GPUs until it has lasted as long as it must, where there
    is room; its later work becomes less. Changes `rates` [job, interval]. Returns `draw_kw` [pool, interval] with batch
    pools at what their work takes.

    Again while something is added: what a run does now is less to be done later, by which others have more room.
    """
    lasting = np.flatnonzero((steps.least_h > 0) | (steps.hold_h > 0)).tolist()
    plan = _drawn(facts, rates, homes, draw_kw)
    for _ in range(MOST_PASSES if lasting else 0):
        if not _pass(facts, steps, rates, homes, (lasting, plan)):
            break
        plan = _drawn(facts, rates, homes, draw_kw)
    return plan.draw_kw


def space_left(facts: Facts, rates: Floats, homes: Sequence[int], draw_kw: Floats, kw_per_work: Floats) -> Space:
    """What a whole plan leaves free, its engines that must run counted in."""
    plan, first_kw = _drawn(facts, rates, homes, draw_kw), np.zeros_like(draw_kw)
    for pool in (pool for pool in facts.pools if pool.batch):
        g = pool.index
        first_kw[g] = np.clip(pool.base_kw + plan.work[g] * kw_per_work[g] - plan.draw_kw[g], 0.0, None)
    return Space(plan.free, plan.room_kw, kw_per_work, first_kw)


def _drawn(facts: Facts, rates: Floats, homes: Sequence[int], draw_kw: Floats) -> _Plan:
    """The plan with batch pools at what their jobs take, and with the batteries and engines that rules use for it."""
    draw, home, it_kw = draw_kw.copy(), np.array(homes, dtype=np.int64), facts.other_kw.copy()
    work, free, speeds = np.zeros_like(draw), np.zeros_like(draw), fastest(facts, rates, home)
    for pool in facts.pools:
        if pool.batch:
            g = pool.index
            work[g] = rates[home == g].sum(axis=0)
            draw[g] = pool.draws_for(work[g], speeds[g])
            free[g] = np.clip(pool.working * pool.hulls[0].top_throughput - work[g], 0.0, None)
        it_kw[pool.site] += draw[pool.index]
    used_kw = it_kw * facts.pue
    imports = used_kw + without_solver(facts, used_kw).net_kw(facts)
    caps = np.maximum(0.0, np.minimum(facts.limit_kw, facts.events_cap_kw))
    return _Plan(work, draw, free, speeds, np.clip((caps - imports) / facts.pue, 0.0, None))


def _pass(facts: Facts, steps: Steps, rates: Floats, homes: Sequence[int], asked: tuple[list[int], _Plan]) -> bool:
    """Fill the runs of the jobs asked for once, and say whether anything was added."""
    ends, added = np.cumsum(facts.hours), False
    for number in asked[0]:
        begun = rates[number, 0] > 1e-9
        hold_h = float(steps.hold_h[number] if steps.runs[number] else steps.least_h[number] if begun else 0.0)
        if hold_h > 1e-9 and homes[number] >= 0:
            inside = ends <= hold_h + 1e-9
            inside[0] = True
            intervals = np.flatnonzero(inside).tolist()
            added |= _fill(facts, steps, rates, (number, homes[number]), (intervals, asked[1]))
    return added


def _fill(facts: Facts, steps: Steps, rates: Floats, job_pool: tuple[int, int], where: tuple[list[int], _Plan]) -> bool:
    """Put the least into the intervals of a run in which nothing is planned; whether there was any such with room."""
    (number, g), (intervals, plan) = job_pool, where
    job, s, added = facts.jobs[number], facts.pools[g].site, False
    for t in intervals:
        if float(rates[number, :t] @ facts.hours[:t]) >= job.left * (1 - 1e-9):
            break
        hours = float(facts.hours[t])
        share = float(job.on_time_h[t] + job.late_h[t]) / hours
        need = min(float(steps.least_work[number]) * share, job.left / hours)
        if rates[number, t] > 1e-9 or need <= 1e-9 or need > plan.free[g, t] + 1e-12:
            continue
        speed = max(float(plan.fastest[g, t]), need * speed_for(facts, number, g, t))
        draw_kw = facts.pools[g].draw_for(t, float(plan.work[g, t]) + need, speed)
        more_kw = draw_kw - float(plan.draw_kw[g, t])
        if more_kw > plan.room_kw[s, t] + 1e-12:
            continue
        rates[number, t], added = need, True
        plan.work[g, t], plan.draw_kw[g, t], plan.fastest[g, t] = plan.work[g, t] + need, draw_kw, speed
        plan.free[g, t] -= need
        plan.room_kw[s, t] = max(0.0, plan.room_kw[s, t] - more_kw)
    if added:
        work = rates[number] * facts.hours
        before = np.cumsum(work) - work
        rates[number] = np.clip(np.minimum(work, job.left - before), 0.0, None) / facts.hours
    return added
