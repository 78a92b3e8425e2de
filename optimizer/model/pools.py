"""Pools: draw along the concave curve, service floors, and the work that batch pools must draw power for."""

from __future__ import annotations

from typing import Any

import numpy as np

from optimizer.facts import PoolFacts
from optimizer.model.parts import Build, Row, Term, row, rows, variables


def add_draw(build: Build) -> None:
    """seg[g,t,k] in kW above the pool's base draw, 0 <= seg <= working GPUs * width of the hull's k-th segment.

    draw = base + sum_k seg; work = base work + sum_k slope_k * 1000 * seg (GPU equivalents). Because slopes fall, the
    cheapest way to work fills the segments in order. A floor that may not break is a lower bound on the segments.
    """
    keys: list[Any] = []
    upper: list[float | None] = []
    lower: list[float] = []
    for pool in build.facts.pools:
        for t, hull in enumerate(pool.hulls):
            working = float(pool.working[t])
            if working <= 1e-9:
                continue
            floor_kw = 0.0 if pool.may_break_floor[t] else float(pool.least_kw[t] - pool.base_kw[t])
            for k, segment in enumerate(hull.segments):
                width_kw = working * segment.width_w / 1000.0
                keys.append((pool.index, t, k))
                upper.append(width_kw)
                lower.append(min(width_kw, floor_kw))
                floor_kw = max(0.0, floor_kw - width_kw)
    variables(build, "seg", keys, upper, lower)


def segments(build: Build, pool: PoolFacts, t: int) -> list[tuple[Any, float]]:
    """The segments of a pool in an interval, each with its slope in GPU equivalents per kW."""
    made = build.segments.get((pool.index, t))
    if made is None:
        found = build.families["seg"]
        parts = ((found.get((pool.index, t, k)), part.slope_per_w) for k, part in enumerate(pool.hulls[t].segments))
        made = build.segments[pool.index, t] = [(seg, slope * 1000.0) for seg, slope in parts if seg is not None]
    return made


def add_value(build: Build) -> None:
    """Objective: - value * hours * work of interactive and training pools (money)."""
    for pool in build.facts.pools:
        if pool.batch:
            continue
        for t, hours in enumerate(build.facts.hours):
            worth = pool.pool.value_per_gpu_h * float(hours)
            build.constant -= worth * float(pool.working[t]) * pool.hulls[t].base_throughput
            build.cost.extend((-worth * slope, seg) for seg, slope in segments(build, pool, t))


def add_breakable_floors(build: Build) -> None:
    """work + short >= floor work (GPU equivalents), where a floor may give: training under a hard limit, and any pool
    under an emergency order that the operator has allowed. Objective: + weight * hours * short."""
    keys = [
        (pool.index, t)
        for pool in build.facts.pools
        if not pool.batch
        for t in np.flatnonzero(pool.may_break_floor & (pool.working > 1e-9)).tolist()
    ]
    short = variables(build, "short", keys)
    members: list[Row] = []
    for index, t in keys:
        pool = build.facts.pools[index]
        base = float(pool.working[t]) * pool.hulls[t].base_throughput
        terms: list[Term] = [(slope, seg) for seg, slope in segments(build, pool, t)]
        members.append(row(float(pool.floor_work[t]) - base, [*terms, (1.0, short[index, t])], None))
        weight = build.weights[pool.site].floor_per_gpu_h * float(build.facts.hours[t])
        build.cost.append((weight, short[index, t]))
    rows(build, "floor", members)


def add_batch_work(build: Build) -> None:
    """Batch pools: sum_j work rate = sum_k slope_k * seg_k (GPU equivalents), and draw above idle <= what the same work
    takes at full speed, so that a negative price can't pay for burning power without work."""
    loads: dict[tuple[int, int], list[Term]] = {}
    for family in ("x", "late"):
        for (_, g, t), variable in build.families[family].items():
            loads.setdefault((g, t), []).append((1.0, variable))
    for (_, g, t, _), (start, rate) in build.families["run"].items():
        loads.setdefault((g, t), []).append((rate, start))
    equal: list[Row] = []
    burn: list[Row] = []
    for (g, t), terms in loads.items():
        pool = build.facts.pools[g]
        parts = segments(build, pool, t)
        top = pool.hulls[t]
        kw_per_work = (top.top_w - top.base_w) / top.top_throughput / 1000.0
        equal.append(row(0.0, [*terms, *((-slope, seg) for seg, slope in parts)], 0.0))
        burn.append(row(None, [(1.0 - kw_per_work * slope, seg) for seg, slope in parts], 0.0))
    rows(build, "batch_work", equal)
    rows(build, "batch_burn", burn)
