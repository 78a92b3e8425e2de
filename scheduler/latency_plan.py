"""What latencies ask of a plan, and what a plan lets expect of them.

Why floors by interval: the same cap that is too low at noon is high enough at night. What is planned below would be
taken back by the guard, so it must not be counted on: not for an event, not as reserve, not as a price. A hard limit
comes first here as it does in the fast loop: where the floors of a site don't fit under it, what latencies ask beyond
the configured floors is lowered, the same part for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from optimizer.curves import cap_for_throughput, draw_at_cap
from optimizer.domain import BatchJob, GpuPool, Plan, PoolInputs, Problem, SiteInputs, Work
from optimizer.reasons import Note, Reason, Severity
from scheduler.engine import Context
from scheduler.latency import Guard, speed_of

Floats = NDArray[np.float64]


def with_latency_floors(
    ctx: Context,
    pools: list[PoolInputs],
    sites: list[SiteInputs],
    jobs: tuple[BatchJob, ...],
    now: datetime,
) -> tuple[tuple[PoolInputs, ...], tuple[Note, ...]]:
    """The pools with the floors that their latencies need at the forecast load, as far as hard limits leave them."""
    asked = {inputs.pool.id: _floors(ctx.latency[inputs.pool.id], inputs, now)
             for inputs in pools if inputs.pool.id in ctx.latency}  # fmt: skip
    asked = {pool: floors for pool, floors in asked.items() if floors.any()}
    notes: list[Note] = []
    found = list(pools)
    for site in sites if asked else ():
        mine = [inputs for inputs in pools if inputs.pool.site == site.id]
        part = _fitting(mine, asked, site, jobs)
        if part.min() < 1.0:
            text = f"{site.id}: its limit leaves no room for all that latency objectives need; it comes first"
            notes.append(Note(Reason.LATENCY_YIELDS, site.id, text, Severity.ALERT, now))
        for place, inputs in enumerate(found):
            if inputs.pool.id in asked and inputs.pool.site == site.id:
                extra = np.maximum(0.0, asked[inputs.pool.id] - inputs.pool.floor)
                floors = np.where(extra > 0, inputs.pool.floor + part * extra, 0.0)
                found[place] = replace(inputs, floors=tuple(np.minimum(1.0, floors).tolist()))
    return tuple(found), tuple(notes)


def _floors(guard: Guard, inputs: PoolInputs, now: datetime) -> Floats:
    """Floor of each interval at its load; what the guard holds now counts for the first one."""
    known: dict[float, float] = {}
    for load in set(inputs.load):
        known[load] = guard.least_speed(load, now)
    floors = np.array([known[load] for load in inputs.load])
    floors[0] = guard.floor or floors[0]
    return np.where(floors > inputs.pool.floor, floors, 0.0)


def _fitting(
    pools: list[PoolInputs], asked: Mapping[str, Floats], site: SiteInputs, jobs: tuple[BatchJob, ...]
) -> Floats:
    """Part (0 to 1) of what is asked beyond the floors that fits under the site's limit, by interval."""
    limit_kw = np.array(site.limit_kw) / np.array(site.pue) - np.array(site.other_it_kw)
    base_kw, extra_kw = np.zeros(len(limit_kw)), np.zeros(len(limit_kw))
    for inputs in pools:
        pool, busy = inputs.pool, np.array(inputs.load) * inputs.pool.count
        if pool.work is Work.BATCH:
            held = sum(job.gpus for job in jobs if not job.preemptible and job.gpus and pool.id in job.pools)
            top_w = draw_at_cap(pool.curve, pool.max_cap_w)
            base_kw += (pool.count * pool.curve.idle_w + min(held, pool.count) * (top_w - pool.curve.idle_w)) / 1000.0
            continue
        low_w = _draw_w(pool, pool.floor if pool.work is Work.INTERACTIVE else 0.0)
        base_kw += ((pool.count - busy) * pool.curve.idle_w + busy * low_w) / 1000.0
        if pool.id in asked:
            draws = {floor: _draw_w(pool, floor) for floor in set(asked[pool.id].tolist())}
            extra_kw += busy * (np.maximum(low_w, [draws[floor] for floor in asked[pool.id].tolist()]) - low_w) / 1000.0
    room_kw = np.maximum(0.0, limit_kw - base_kw)
    part: Floats = np.where(extra_kw > room_kw, room_kw / np.maximum(extra_kw, 1e-9), 1.0)
    return part


def _draw_w(pool: GpuPool, floor: float) -> float:
    """Draw of a busy GPU at the lowest cap that keeps a floor."""
    top = speed_of(pool, pool.max_cap_w)
    return draw_at_cap(pool.curve, max(pool.min_cap_w, cap_for_throughput(pool.curve, min(floor, top))))


def forecast_s(guard: Guard, problem: Problem, plan: Plan, now: datetime) -> dict[str, tuple[float | None, ...]]:
    """By objective: what is to be expected at most in each interval of the plan, at its load and its caps. Where only a
    least is known, and that is beyond the threshold, it is told instead."""
    inputs = next(inputs for inputs in problem.pools if inputs.pool.id == guard.pool)
    caps = plan.pools[guard.pool].cap_w
    speeds = {cap: speed_of(inputs.pool, cap) for cap in set(caps)}
    found = {}
    for one in guard.objectives:
        known: dict[tuple[float, int], float | None] = {}
        for load, cap in set(zip(inputs.load, caps, strict=False)):
            least, most = guard.books[one.name].forecast(load, speeds[cap], now)
            ratio = most if most is not None else least if least is not None and least > 1.0 else None
            known[load, cap] = ratio * one.threshold_s if ratio is not None else None
        found[one.name] = tuple(known[place] for place in zip(inputs.load, caps, strict=False))
    return found
