"""Pools: draw along the concave curve, service floors, and the work that batch pools must draw power for."""

from __future__ import annotations

import numpy as np

from optimizer.facts import Facts, Floats
from optimizer.model.parts import Columns, Flags, Ints, Model, Rows
from optimizer.once import once
from optimizer.poolfacts import PoolFacts, stacked, stacked_segments


def add_draw(model: Model) -> None:
    """seg[g,t,k] in kW above the pool's base draw, 0 <= seg <= working GPUs * width of the hull's k-th segment.

    draw = base + sum_k seg; work = base work + sum_k slope_k * 1000 * seg (GPU equivalents). Because slopes fall, the
    cheapest way to work fills the segments in order. A floor that may not break is a lower bound on the segments.
    Objective: - value * hours * work of interactive and training pools (money).
    """
    facts = model.facts
    g, t, k, low, high = _segments(facts)
    value = np.array([0.0 if pool.batch else pool.pool.value_per_gpu_h for pool in facts.pools])
    slope = stacked_segments(facts.pools, "seg_slope_per_kw", facts.count)[g, t, k]
    model.columns("seg", "gtk", (g, t, k), low=low, high=high, cost=-(value[g] * facts.hours[t] * slope))
    for pool in facts.pools:
        if not pool.batch:
            base = pool.working * pool.base_throughput
            model.constant -= float(pool.pool.value_per_gpu_h * (facts.hours * base).sum())


def _segments(facts: Facts) -> tuple[Ints, Ints, Ints, Floats, Floats]:
    """Pool, interval, number, least and most kW of every segment that may draw. A floor that may not break is a lower
    bound on the segments."""
    pools, count = facts.pools, facts.count
    working, least_kw, base_kw = (stacked(pools, name, count) for name in ("working", "least_kw", "base_kw"))
    gives = np.array([pool.may_break_floor for pool in pools], dtype=np.bool_).reshape(working.shape)
    batch = np.array([pool.batch for pool in pools], dtype=np.bool_)
    width_w = stacked_segments(pools, "seg_width_w", count)
    g, t, k = np.nonzero((working > 1e-9)[:, :, None] & (width_w > 0))
    wide = working[:, :, None] * width_w / 1000.0
    floor_kw = np.where(gives, 0.0, least_kw - base_kw)[:, :, None]
    low = np.minimum(np.maximum(floor_kw - (np.cumsum(wide, axis=2) - wide), 0.0), wide)[g, t, k]
    return g, t, k, np.where(batch[g], 0.0, low), wide[g, t, k]


@once
def slopes(facts: Facts, seg: Columns) -> Floats:
    """Slope in GPU equivalents per kW of every segment column."""
    found: Floats = stacked_segments(facts.pools, "seg_slope_per_kw", facts.count)[seg.keys]
    return found


def add_breakable_floors(model: Model) -> None:
    """work + short >= floor work (GPU equivalents), where a floor may give: training under a hard limit, and any pool
    under an emergency order that the operator has allowed. Objective: + weight * hours * short.

    The floor work is what the hull says of the draw that keeps the floor on the measured points. Where they are not
    concave that is more than the floor; with the floor itself, less draw would look like enough.
    """
    facts, seg = model.facts, model.get("seg")
    open_ = np.array([_breakable(pool) for pool in facts.pools]).reshape(len(facts.pools), facts.count)
    g, t = np.nonzero(open_)
    weight = np.array([model.weights[pool.site].floor_per_gpu_h for pool in facts.pools])
    short = model.columns("short", "gt", (g, t), cost=weight[g] * facts.hours[t])
    at = [(facts.pools[pool], interval) for pool, interval in zip(g.tolist(), t.tolist(), strict=True)]
    need = [of.work_at(n, float(of.least_kw[n])) - float(of.working[n] * of.base_throughput[n]) for of, n in at]
    floor = model.rows("floor", "gt", (g, t), low=need)
    floor.add(floor.all, short, short.all, 1.0)
    _add_segments(floor, seg, open_.shape, slopes(facts, seg))


def _breakable(pool: PoolFacts) -> Flags:
    """Where the pool's floor may give."""
    open_: Flags = pool.may_break_floor & (pool.working > 1e-9) & (not pool.batch)
    return open_


def _add_segments(rows: Rows, seg: Columns, shape: tuple[int, ...], coefficient: Floats) -> None:
    """Add the segments of each row's pool and interval, with the coefficient of each segment column."""
    at = rows.find(shape)[seg.keys[0], seg.keys[1]]
    used = at >= 0
    rows.add(at[used], seg, seg.all[used], coefficient[used])


def add_batch_work(model: Model) -> None:
    """Batch pools: sum_j work rate = sum_k slope_k * seg_k (GPU equivalents), and draw above idle <= what the same work
    takes at full speed, so that a negative price can't pay for burning power without work."""
    facts, seg = model.facts, model.get("seg")
    shape = (len(facts.pools), facts.count)
    loads = [model.get(family) for family in ("x", "late")]
    runs, (run_start, run_g, run_t, run_rate) = model.get("start"), model.runs
    busy = np.zeros(shape, dtype=np.bool_)
    for columns in loads:
        busy[columns.keys[1], columns.keys[2]] = True
    busy[run_g, run_t] = True
    work = model.rows("batch_work", "gt", np.nonzero(busy), low=0.0, high=0.0)
    burn = model.rows("batch_burn", "gt", np.nonzero(busy), high=0.0)
    at = work.find(shape)
    for columns in loads:
        work.add(at[columns.keys[1], columns.keys[2]], columns, columns.all, 1.0)
    work.add(at[run_g, run_t], runs, run_start, run_rate)
    slope = slopes(facts, seg)
    _add_segments(work, seg, shape, -slope)
    per_work = np.zeros(shape)
    for pool in facts.pools:
        per_work[pool.index] = pool.kw_per_work
    _add_segments(burn, seg, shape, 1.0 - per_work[seg.keys[0], seg.keys[1]] * slope)
