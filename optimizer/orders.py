"""From draws and work to orders: whole-watt caps and active GPUs, of all pools at once.

Why all at once: twenty pools one by one are twenty times as many calls on arrays that are each a few hundred bytes.
Rounding is on the safe side: caps that draw no more than planned, and whole GPUs that only round up where the site has
room for one more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from optimizer.curve_arrays import Ints, caps_for_draws, throughputs_at_draws
from optimizer.domain import PoolPlan
from optimizer.facts import Facts, Floats
from optimizer.jobplans import NAMES
from optimizer.parked import Parked
from optimizer.poolfacts import PoolFacts, stacked, stacked_segments
from optimizer.why import Codes, Flags

TOL_KW = 1e-6


def busy_work(facts: Facts, draw_kw: Floats) -> Floats:
    """Work in GPU equivalents along the measured curves [pool, interval]; 0 for batch pools."""
    work = np.zeros_like(draw_kw)
    pools = [pool for pool in facts.pools if not pool.batch]
    rows = [pool.index for pool in pools]
    working = stacked(pools, "working", facts.count)
    work[rows] = working * throughputs_at_draws([pool.curve for pool in pools], _busy_w(facts, pools, draw_kw[rows]))
    return work


def _busy_w(facts: Facts, pools: Sequence[PoolFacts], draw_kw: Floats) -> Floats:
    """Draw in W of one busy GPU of interactive and training pools [pool, interval]."""
    working, base_kw, base_w, top_w = (
        stacked(pools, name, facts.count) for name in ("working", "base_kw", "base_w", "top_w")
    )
    some = working > 0
    above = (draw_kw - base_kw) * 1000.0 / np.where(some, working, 1.0)
    found: Floats = np.where(some, base_w + above, top_w)
    return found


def pool_plans(
    facts: Facts, draw_kw: Floats, work: Floats, room_kw: Floats, reasons: Codes, parked: Floats
) -> dict[str, PoolPlan]:
    """Orders of every pool, with draw, work, reasons and parked GPUs [pool, interval]; rounding a batch pool up by a
    part of a GPU uses up the room of its site [site, interval]."""
    caps, active = _orders(facts, draw_kw, work, room_kw)
    names = NAMES[reasons].tolist()
    rows = zip(facts.pools, draw_kw.tolist(), work.tolist(), caps.tolist(), active.tolist(), names, strict=True)
    plans = {pool.pool.id: PoolPlan(*(tuple(part) for part in parts)) for pool, *parts in rows}
    for pool in facts.pools:
        if pool.parked is not None:
            plans[pool.pool.id] = _with_parked(pool.parked, plans[pool.pool.id], parked[pool.index])
    return plans


def _with_parked(how: Parked, orders: PoolPlan, parked: Floats) -> PoolPlan:
    """The orders with parked GPUs: they draw less, and no more are active than are awake."""
    awake = np.ceil(how.awake(parked) - 1e-6)
    active = np.minimum(np.array(orders.active_gpus), np.maximum(0, awake).astype(np.int64))
    draw = np.array(orders.draw_kw) - parked * how.saves_kw
    rows = (tuple(row.tolist()) for row in (draw, active, parked))
    return replace(orders, **dict(zip(("draw_kw", "active_gpus", "parked_gpus"), rows, strict=True)))


def _orders(facts: Facts, draw_kw: Floats, work: Floats, room_kw: Floats) -> tuple[Ints, Ints]:
    """Caps and active GPUs [pool, interval]."""
    each_w, shape = np.zeros_like(draw_kw), draw_kw.shape
    active = np.zeros(shape, dtype=np.int64)
    uncapped = np.zeros(shape, dtype=np.bool_)
    for batch in (True, False):
        pools = [pool for pool in facts.pools if pool.batch is batch]
        rows = [pool.index for pool in pools]
        if batch:
            each_w[rows], active[rows] = _batch_gpus(facts, pools, draw_kw[rows], work[rows], room_kw)
            uncapped[rows] = work[rows] <= 1e-9
        else:
            each_w[rows] = _busy_w(facts, pools, draw_kw[rows])
            active[rows] = np.array([pool.pool.count for pool in pools], dtype=np.int64)[:, None]
    return _caps(facts, each_w, uncapped), active


def _caps(facts: Facts, each_w: Floats, uncapped: Flags) -> Ints:
    """Whole-watt caps for draws of one busy GPU [pool, interval], the highest where it is `uncapped`; never below the
    floor's cap, where the floor holds."""
    pools, count = facts.pools, facts.count
    caps = caps_for_draws([pool.curve for pool in pools], each_w + 1e-6)
    lowest = np.array([int(np.ceil(pool.pool.min_cap_w)) for pool in pools], dtype=np.int64)[:, None]
    highest = np.array([int(pool.pool.max_cap_w) for pool in pools], dtype=np.int64)[:, None]
    floors = np.array([pool.floor_caps_w for pool in pools], dtype=np.int64).reshape(len(pools), count)
    gives = np.array([pool.may_break_floor | pool.batch for pool in pools], dtype=np.bool_).reshape(len(pools), count)
    caps = np.where(gives, caps, np.maximum(caps, floors))
    found: Ints = np.where(uncapped, highest, np.minimum(highest, np.maximum(lowest, caps)))
    return found


def _batch_gpus(
    facts: Facts, pools: Sequence[PoolFacts], draw_kw: Floats, work: Floats, room_kw: Floats
) -> tuple[Floats, Ints]:
    """Draw in W of one GPU at work and how many are, for batch pools to do `work` with the planned draw, all [pool,
    interval]."""
    busy = work > 1e-9
    base_kw = stacked(pools, "base_kw", facts.count)
    above_w, rate = _gpus_at(facts, pools, (draw_kw - base_kw) * 1000.0 / np.where(busy, work, 1.0))
    most = np.array([float(pool.pool.count) for pool in pools])[:, None]
    gpus = np.minimum(most, work / np.where(rate > 0, rate, 1.0))
    whole = np.ceil(gpus - 1e-6)
    extra_kw = (whole - gpus) * above_w / 1000.0
    takes_kw, fits = np.where(busy, np.maximum(0.0, extra_kw), 0.0), np.zeros(busy.shape, dtype=np.bool_)
    for number, pool in enumerate(pools):
        fits[number] = extra_kw[number] <= room_kw[pool.site] + TOL_KW
        room_kw[pool.site] -= np.where(fits[number], takes_kw[number], 0.0)
    active = np.where(busy, np.where(fits, whole, np.floor(gpus + 1e-6)), 0.0).astype(np.int64)
    idle_w = np.array([pool.curve.idle_w for pool in pools])[:, None]
    return idle_w + above_w, active


def _gpus_at(facts: Facts, pools: Sequence[PoolFacts], w_per_work: Floats) -> tuple[Floats, Floats]:
    """Draw above idle in W and throughput of one GPU that needs `w_per_work` watts for each unit of work, all [pool,
    interval]."""
    above, rate = np.zeros(w_per_work.shape), np.zeros(w_per_work.shape)
    going = np.ones(w_per_work.shape, dtype=np.bool_)
    widths, slopes = (stacked_segments(pools, name, facts.count) for name in ("seg_width_w", "seg_slope_per_kw"))
    for k in range(widths.shape[2]):
        width, slope = widths[:, :, k], slopes[:, :, k] / 1000.0
        full, done = above + width, rate + width * slope
        ends = going & (above > 0) & (full > w_per_work * done)
        rest = 1.0 - w_per_work * slope
        step = np.clip((w_per_work * rate - above) / np.where(ends, rest, 1.0), 0.0, width)
        above = np.where(ends, above + step, np.where(going, full, above))
        rate = np.where(ends, rate + step * slope, np.where(going, done, rate))
        going &= ~ends
    return above, rate
