"""Why each pool and each job gets what it gets in each interval: one primary reason, read off the plan itself.

Why not from the solver's duals alone: a greedy or a held plan owes the same answer. A reason is what binds: a price
above the value of the next watt, a cap that the import touches, a floor, a ramp, a deadline.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from optimizer.domain import Work
from optimizer.facts import Facts, Floats
from optimizer.poolfacts import PoolFacts
from optimizer.ramps import allowed_kw
from optimizer.reasons import Reason

Codes = NDArray[np.int64]
REASONS: tuple[Reason, ...] = tuple(Reason)
CODE = {reason: number for number, reason in enumerate(REASONS)}
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
        for number, event in facts.events_of(s):
            touched = imports[s] >= facts.event_kw[number] * (1 - TOUCH)
            ended = np.array([start >= event.end for start in facts.problem.grid.starts])
            codes[s, touched & ~ended] = CODE[Reason.DR_EVENT]
            codes[s, touched & ended & (codes[s] != CODE[Reason.DR_EVENT])] = CODE[Reason.REBOUND_LIMIT]
    return codes


def _ramp_bound(facts: Facts, s: int, imports: Floats) -> NDArray[np.bool_]:
    """Intervals whose import rises as fast as it may."""
    site = facts.problem.sites[s]
    bound = np.zeros(facts.count, dtype=np.bool_)
    if np.isfinite(site.ramp_up_kw_per_min):
        for t in range(facts.count):
            before = float(imports[t - 1]) if t else site.import_now_kw
            allowed = allowed_kw(facts, s, t, True)
            bound[t] = before is not None and float(imports[t]) - before >= allowed * (1 - TOUCH)
    return bound


def pool_reasons(
    facts: Facts, draw_kw: Floats, work: Floats, imports: Floats, bindings: Codes
) -> list[tuple[Reason, ...]]:
    """Primary reason of every pool and interval."""
    over = imports > np.minimum(facts.limit_kw, facts.events_cap_kw) * (1 + 1e-6) + 1e-6
    found = []
    for pool in facts.pools:
        decide = _batch_reason if pool.batch else _busy_reason
        rows = zip(draw_kw[pool.index].tolist(), work[pool.index].tolist(), strict=True)
        found.append(
            tuple(
                decide(facts, pool, t, draw, done, (int(bindings[pool.site, t]), bool(over[pool.site, t])))
                for t, (draw, done) in enumerate(rows)
            )
        )
    return found


def _busy_reason(facts: Facts, pool: PoolFacts, t: int, draw_kw: float, work: float, bound: tuple[int, bool]) -> Reason:
    """Why an interactive or training pool draws what it does."""
    top, least, tol = float(pool.top_kw[t]), float(pool.least_kw[t]), 1e-3 * (1e-3 + float(pool.top_kw[t]))
    binding, over = bound
    if pool.working[t] <= 1e-9 or draw_kw >= top - tol:
        return Reason.NO_WORK if pool.working[t] <= 1e-9 else Reason.FULL_POWER
    if work < float(pool.floor_work[t]) - 1e-3 * (1.0 + float(pool.working[t])):
        return Reason.FLOOR_BROKEN
    if draw_kw <= least + tol and over:
        return Reason.SERVICE_FLOOR
    if draw_kw >= _wanted_kw(facts, pool, t, float(facts.cost_per_kwh[pool.site, t])) - tol:
        return _dear(facts, pool, t, draw_kw + tol)
    if binding != NONE:
        return REASONS[binding]
    return Reason.SERVICE_FLOOR if draw_kw <= least + tol else Reason.CHANGE_COST


def _dear(facts: Facts, pool: PoolFacts, t: int, draw_kw: float) -> Reason:
    """Which part of the cost of energy explains a draw: the price alone, carbon on top, or the grid's own peak."""
    s = pool.site
    if draw_kw >= _wanted_kw(facts, pool, t, facts.problem.sites[s].price_per_mwh[t] / 1000.0):
        return Reason.HIGH_PRICE
    lasting = float(facts.cost_per_kwh[s, t] - facts.coincident_per_kwh[s, t])
    return Reason.CARBON if draw_kw >= _wanted_kw(facts, pool, t, lasting) else Reason.COINCIDENT_PEAK


def _wanted_kw(facts: Facts, pool: PoolFacts, t: int, cost_per_kwh: float) -> float:
    """Draw at which the next watt would cost more than it is worth, at or above the floor."""
    cost = cost_per_kwh * float(facts.pue[pool.site, t])
    hull = pool.hulls[t]
    widths = [part.width_w for part in hull.segments if pool.pool.value_per_gpu_h * part.slope_per_w * 1000.0 >= cost]
    wanted = float(pool.base_kw[t]) + float(pool.working[t]) * sum(widths) / 1000.0
    return max(wanted, float(pool.least_kw[t]))


def _batch_reason(
    facts: Facts, pool: PoolFacts, t: int, draw_kw: float, work: float, bound: tuple[int, bool]
) -> Reason:
    """Why a batch pool runs as much as it does."""
    binding, _ = bound
    working = float(pool.working[t])
    if working <= 1e-9:
        return Reason.NO_WORK
    if work >= 0.999 * working * pool.hulls[t].top_throughput:
        return Reason.FULL_POWER
    if binding != NONE:
        return REASONS[binding]
    s = pool.site
    mean = float(facts.cost_per_kwh[s] @ facts.hours / facts.hours.sum())
    cheap = facts.cost_per_kwh[s, t] <= mean
    if not cheap and facts.cost_per_kwh[s, t] - facts.coincident_per_kwh[s, t] <= mean:
        return Reason.COINCIDENT_PEAK
    if work <= 1e-9:
        return Reason.NO_WORK if cheap else Reason.HIGH_PRICE
    return Reason.CHEAP_WINDOW if cheap else Reason.DEADLINE


def job_reasons(facts: Facts, rates: Floats, job_pool: tuple[int, ...], bindings: Codes) -> list[tuple[Reason, ...]]:
    """Primary reason of every job and interval."""
    jobs = facts.jobs
    pools = np.array(job_pool)
    site = np.array([facts.pools[g].site if g >= 0 else 0 for g in job_pool])
    done = rates * facts.hours
    left = np.array([job.left for job in jobs])[:, None]
    before = np.cumsum(done, axis=1) - done
    hours = np.array([job.on_time_h + job.late_h for job in jobs])
    late = np.array([job.late_h for job in jobs]) > 0
    tight = np.array([job.pace > 0.9 for job in jobs])[:, None]
    fixed = np.array([not job.job.preemptible for job in jobs])[:, None]
    cost = facts.cost_per_kwh[site]
    cheap = cost <= _mean_in_window(cost, hours)
    full = np.array([_pool_full(facts, rates, job_pool, g) for g in range(len(facts.pools))])[pools]
    runs = rates > 1e-9
    bound = bindings[site]
    choices = [
        (pools[:, None] < 0, Reason.DEADLINE_UNREACHABLE),
        (before >= left * (1 - 1e-9), Reason.WORK_DONE),
        (hours <= 1e-9, Reason.NOT_RELEASED),
        (runs & fixed, Reason.NOT_PREEMPTIBLE),
        (runs & (late | tight), Reason.DEADLINE),
        (runs & cheap, Reason.CHEAP_WINDOW),
        (runs, Reason.DEADLINE),
    ]
    shape = rates.shape
    coincident = ~cheap & (cost - facts.coincident_per_kwh[site] <= _mean_in_window(cost, hours))
    dear = np.where(coincident, CODE[Reason.COINCIDENT_PEAK], CODE[Reason.HIGH_PRICE])
    waiting = np.where(bound >= 0, bound, np.where(full, CODE[Reason.POOL_FULL], dear))
    codes = np.select(
        [np.broadcast_to(condition, shape) for condition, _ in choices], [CODE[r] for _, r in choices], waiting
    )
    return [tuple(row) for row in np.array(REASONS, dtype=object)[codes].tolist()]


def _mean_in_window(cost: Floats, hours: Floats) -> Floats:
    """Mean cost of energy over each job's own hours [job, 1]."""
    total = hours.sum(axis=1, keepdims=True)
    mean: Floats = (cost * hours).sum(axis=1, keepdims=True) / np.where(total > 0, total, 1.0)
    return mean


def _pool_full(facts: Facts, rates: Floats, job_pool: tuple[int, ...], g: int) -> NDArray[np.bool_]:
    """Intervals in which a pool has no free GPU for one more job."""
    if facts.pools[g].pool.work is not Work.BATCH:
        return np.zeros(facts.count, dtype=np.bool_)
    mine = np.array(job_pool) == g
    used: NDArray[np.bool_] = rates[mine].sum(axis=0) >= 0.999 * facts.pools[g].pool.count
    return used
