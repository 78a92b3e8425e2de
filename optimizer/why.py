"""Why each pool and each job gets what it gets in each interval: one primary reason, read off the plan itself.

Why not from the solver's duals alone: a greedy or a held plan owes the same answer. A reason is what binds: a price
above the value of the next watt, a cap that the import touches, a floor, a ramp, a deadline.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from optimizer.facts import Facts, Floats
from optimizer.once import once_for_jobs
from optimizer.poolfacts import PoolFacts, stacked, stacked_segments
from optimizer.ramps import allowed_kw, is_paced
from optimizer.reasons import CODE, Reason
from optimizer.steps import may_work, steps_of

Codes = NDArray[np.int64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
SMALL = {reason: np.int16(code) for reason, code in CODE.items()}
"""Codes in two bytes: those of fifty thousand jobs in a day are four million."""

NONE = -1
TOUCH = 2e-4
"""An import this close to a cap (relative) touches it."""


def site_bindings(facts: Facts, imports: Floats) -> Codes:
    """What holds each site's import in each interval, as a code [site, interval] (-1: nothing): a hard limit, an event,
    its rebound, the peak of the billing period, a ramp."""
    codes = np.full(imports.shape, NONE, dtype=np.int64)
    for s, site in enumerate(facts.problem.sites):
        codes[s, _ramp_bound(facts, s, imports[s])] = CODE[Reason.RAMP_LIMIT]
        for charge in site.demand_charges:
            active = np.array(charge.active, dtype=np.bool_)
            peak = max(charge.peak_so_far_kw, float(np.max(imports[s], where=active, initial=0.0)))
            if charge.price_per_kw > 0:
                codes[s, active & (imports[s] >= peak * (1 - TOUCH))] = CODE[Reason.PEAK_AVOID]
        codes[s, imports[s] >= facts.limit_kw[s] * (1 - TOUCH)] = CODE[Reason.SITE_LIMIT]
        for number, event in facts.asking(s):
            touched = imports[s] >= facts.event_kw[number] * (1 - TOUCH)
            ended = np.array([start >= event.end for start in facts.problem.grid.starts])
            codes[s, touched & ~ended] = CODE[Reason.DR_EVENT]
            codes[s, touched & ended & (codes[s] != CODE[Reason.DR_EVENT])] = CODE[Reason.REBOUND_LIMIT]
    return codes


def _ramp_bound(facts: Facts, s: int, imports: Floats) -> NDArray[np.bool_]:
    """Intervals whose import rises as fast as it may."""
    site = facts.problem.sites[s]
    bound = np.zeros(facts.count, dtype=np.bool_)
    if is_paced(facts, s, True):
        for t in range(facts.count):
            before = float(imports[t - 1]) if t else site.import_now_kw
            allowed = allowed_kw(facts, s, t, True)
            bound[t] = before is not None and float(imports[t]) - before >= allowed * (1 - TOUCH)
    return bound


def pool_reasons(facts: Facts, draw_kw: Floats, work: Floats, imports: Floats, bindings: Codes) -> Codes:
    """Primary reason of every pool and interval, as codes [pool, interval]."""
    over = imports > np.minimum(facts.limit_kw, facts.events_cap_kw) * (1 + 1e-6) + 1e-6
    codes = np.zeros(draw_kw.shape, dtype=np.int64)
    for batch in (True, False):
        pools = [pool for pool in facts.pools if pool.batch is batch]
        rows = [pool.index for pool in pools]
        site = [pool.site for pool in pools]
        if batch and pools:
            codes[rows] = _batch_reasons(facts, pools, work[rows], bindings[site])
        elif pools:
            codes[rows] = _busy_reasons(facts, pools, draw_kw[rows], work[rows], (bindings[site], over[site]))
    return codes


def _first_of(choices: list[tuple[NDArray[np.bool_], Reason | Codes]], otherwise: Reason | Codes) -> Codes:
    """The reason of the first condition that holds, in each place."""
    codes = [CODE[reason] if isinstance(reason, Reason) else reason for _, reason in choices]
    last = CODE[otherwise] if isinstance(otherwise, Reason) else otherwise
    found: Codes = np.select([condition for condition, _ in choices], codes, last)
    return found


def _busy_reasons(
    facts: Facts, pools: list[PoolFacts], draw_kw: Floats, work: Floats, bound: tuple[Codes, NDArray[np.bool_]]
) -> Codes:
    """Why interactive and training pools draw what they do [pool, interval]."""
    binding, over = bound
    top_kw, least_kw, working, floor_work = (
        stacked(pools, name, facts.count) for name in ("top_kw", "least_kw", "working", "floor_work")
    )
    tol = 1e-3 * (1e-3 + top_kw)
    at_floor = draw_kw <= least_kw + tol
    site = [pool.site for pool in pools]
    wanted = _wanted(facts, pools)
    return _first_of(
        [
            (working <= 1e-9, Reason.NO_WORK),
            (draw_kw >= top_kw - tol, Reason.FULL_POWER),
            (work < floor_work - 1e-3 * (1.0 + working), Reason.FLOOR_BROKEN),
            (at_floor & over, Reason.SERVICE_FLOOR),
            (draw_kw >= wanted(facts.cost_per_kwh[site]) - tol, _dear(facts, site, draw_kw + tol, wanted)),
            (binding != NONE, binding),
            (at_floor, Reason.SERVICE_FLOOR),
        ],
        Reason.CHANGE_COST,
    )


def _dear(facts: Facts, site: list[int], draw_kw: Floats, wanted: Callable[[Floats], Floats]) -> Codes:
    """Which part of the cost of energy explains a draw: the price alone, carbon on top, or the grid's own peak."""
    price = np.array([item.price_per_mwh for item in facts.problem.sites]) / 1000.0
    lasting = facts.cost_per_kwh - facts.coincident_per_kwh
    if np.array_equal(lasting, price):  # carbon costs nothing
        lasting = price
    by_price = draw_kw >= wanted(price[site])
    by_carbon = by_price if lasting is price else draw_kw >= wanted(lasting[site])
    return _first_of([(by_price, Reason.HIGH_PRICE), (by_carbon, Reason.CARBON)], Reason.COINCIDENT_PEAK)


def _wanted(facts: Facts, pools: list[PoolFacts]) -> Callable[[Floats], Floats]:
    """Draw [pool, interval] at which the next watt would cost more than it is worth, at or above the floor, by the cost
    of energy in money per kWh [pool, interval]."""
    slope, width = (stacked_segments(pools, name, facts.count) for name in ("seg_slope_per_kw", "seg_width_w"))
    worth = np.array([pool.pool.value_per_gpu_h for pool in pools])[:, None, None] * slope
    base_kw, working, least_kw = (stacked(pools, name, facts.count) for name in ("base_kw", "working", "least_kw"))
    pue = facts.pue[[pool.site for pool in pools]]

    def wanted(cost_per_kwh: Floats) -> Floats:
        pays = worth >= (cost_per_kwh * pue)[:, :, None]
        drawn = base_kw + working * np.where(pays, width, 0.0).sum(axis=2) / 1000.0
        found: Floats = np.maximum(drawn, least_kw)
        return found

    return wanted


def _batch_reasons(facts: Facts, pools: list[PoolFacts], work: Floats, binding: Codes) -> Codes:
    """Why batch pools run as much as they do [pool, interval]."""
    cost = facts.cost_per_kwh
    mean = np.array([float(row @ facts.hours / facts.hours.sum()) for row in cost])[:, None]
    site = [pool.site for pool in pools]
    cheap, lasting = (cost <= mean)[site], (cost - facts.coincident_per_kwh <= mean)[site]
    working, top = (stacked(pools, name, facts.count) for name in ("working", "top_throughput"))
    return _first_of(
        [
            (working <= 1e-9, Reason.NO_WORK),
            (work >= 0.999 * working * top, Reason.FULL_POWER),
            (binding != NONE, binding),
            (~cheap & lasting, Reason.COINCIDENT_PEAK),
            (work <= 1e-9, np.where(cheap, CODE[Reason.NO_WORK], CODE[Reason.HIGH_PRICE])),
            (cheap, Reason.CHEAP_WINDOW),
        ],
        Reason.DEADLINE,
    )


@once_for_jobs
def _windows(facts: Facts) -> tuple[Floats, Flags, Flags]:
    """Hours in which each job may work [job], when it is pressed by its deadline, and when it may not work [job,
    interval]."""
    table = facts.table
    hours = table.on_time_h + table.late_h
    return hours.sum(axis=1), (table.late_h > 0) | (table.pace > 0.9)[:, None], hours <= 1e-9


def job_reasons(
    facts: Facts, rates: Floats, before: Floats, homes: tuple[tuple[int, ...], Floats], bindings: Codes
) -> NDArray[np.int16]:
    """Primary reason of every job and interval, as codes [job, interval]; `before`: GPU-hours that each has done before
    an interval; `homes`: the pool of each job, and the work of the pools."""
    table = facts.table
    pools = np.array(homes[0], dtype=np.int64)
    site = np.array([*(pool.site for pool in facts.pools), 0], dtype=np.int64)[pools]
    total, pressed, closed = _windows(facts)
    cost = facts.cost_per_kwh
    mean = _mean_in_window(facts, total, site)
    cheap = cost[site] <= mean
    full = _full(facts, homes[1])[pools]
    runs = rates > 1e-9
    bound = bindings.astype(np.int16)[site]
    working = np.where(pressed | ~cheap, SMALL[Reason.DEADLINE], SMALL[Reason.CHEAP_WINDOW])
    working[~table.preemptible] = SMALL[Reason.NOT_PREEMPTIBLE]
    dear: NDArray[np.int16] = np.full((1, 1), SMALL[Reason.HIGH_PRICE])
    if facts.coincident_per_kwh.any():
        lasting = cost - facts.coincident_per_kwh
        coincident = ~cheap & (lasting[site] <= mean)
        dear = np.where(coincident, SMALL[Reason.COINCIDENT_PEAK], dear)
    codes: NDArray[np.int16] = np.where(bound >= 0, bound, np.where(full, SMALL[Reason.POOL_FULL], dear))
    codes = np.where(runs, working, codes)
    if len(steps_of(facts).order):
        codes[~runs & _waits(facts, rates)] = CODE[Reason.PREDECESSOR]
    codes[closed] = CODE[Reason.NOT_RELEASED]
    codes[before >= (table.left * (1 - 1e-9))[:, None]] = CODE[Reason.WORK_DONE]
    codes[pools < 0] = CODE[Reason.DEADLINE_UNREACHABLE]
    return codes


def _waits(facts: Facts, rates: Floats) -> NDArray[np.bool_]:
    """Where a job waits for others to be done [job, interval]."""
    steps = steps_of(facts)
    waits = np.zeros(rates.shape, dtype=np.bool_)
    for number in np.unique(steps.order[:, 1]).tolist():
        waits[number] = ~may_work(facts, steps, rates, number)
    return waits


def _mean_in_window(facts: Facts, total: Floats, site: Ints) -> Floats:
    """Mean cost of energy over each job's own hours, `total` of them, at its site [job, 1]."""
    hours = facts.table.on_time_h + facts.table.late_h
    spent = (hours @ facts.cost_per_kwh.T)[np.arange(len(site)), site]
    mean: Floats = spent / np.where(total > 0, total, 1.0)
    return mean[:, None]


def _full(facts: Facts, work: Floats) -> Flags:
    """Where a batch pool has no free GPU for one more job [pool, interval]; `work` is that of its jobs."""
    gpus = np.array([0.999 * pool.pool.count if pool.batch else np.inf for pool in facts.pools])
    full: Flags = work >= gpus[:, None]
    return full
