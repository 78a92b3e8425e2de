"""Prices of what has to give, so that it gives in the right order whatever the numbers in the config.

Order, first to give: economics, ramps and best-effort events; deadlines; firm events; deadlines that are promises (Flex
tiers); the service floors that may give at all (training under a hard limit, any pool under an allowed emergency); the
hard limit, which gives only when it is physically out of reach. Each price is the configured one or, where that is too
low to keep the order, a margin above what it must outweigh. Work whose `undone_penalty` is 0 is optional: it is done
when it pays and has no such price, unless its deadline is a promise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
from numpy.typing import NDArray

from optimizer.domain import GridEvent
from optimizer.facts import Facts, Floats
from optimizer.once import once

MARGIN = 1.5
LATER_CUT = MARGIN - 1.0
"""Part of its price at which a least run is cut in later intervals: work and run together must be worth less than what
they take from a firm event, which is worth MARGIN of the work."""

LEAST_SLOPE = 0.05
"""GPU-hours per kWh below which a curve is taken as flat; keeps the floor's price finite."""


@dataclass(frozen=True)
class Weights:
    """Planning prices of one site: per kWh of import over a limit or an event (by event id and interval), per GPU-hour
    below a floor, per kW of ramp beyond the allowed."""

    limit_per_kwh: float
    event_per_kwh: Mapping[str, Floats]
    floor_per_gpu_h: float
    ramp_per_kw: float


@dataclass(frozen=True, eq=False)
class JobWeights:
    """Planning prices of each job per GPU-hour [job]: done late (before any hour of lateness counts), never done."""

    late_per_gpu_h: Floats
    undone_per_gpu_h: Floats


@once
def weights_of(facts: Facts, site: int) -> Weights:
    """Planning prices of the site with that index."""
    prices = facts.problem.prices
    steepest, gentlest = _slopes(facts, site)
    plain, firm, promise = _usual_events(facts, site)
    promised = MARGIN * _dearest(facts, site, job_weights(facts)) * steepest if facts.table.firm.any() else 0.0
    floor_price = max(prices.below_floor_per_gpu_h, max(promise, promised) / gentlest)
    emergency = {
        event.id: max(plain[event.id], MARGIN * floor_price * steepest)
        for _, event in facts.events_of(site)
        if event.emergency
    }
    usual = {**plain, **firm}
    asked = {**usual, **emergency}
    dearest = max([_together(facts, site, emergency), *asked.values()])  # a battery serves it, or all of them, later
    limit = max(prices.over_limit_per_kwh, MARGIN * floor_price * steepest, MARGIN * dearest)
    events = {
        event.id: np.where(in_force(facts, event), emergency.get(event.id, usual[event.id]), usual[event.id])
        for _, event in facts.events_of(site)
    }
    return Weights(limit, events, floor_price, prices.ramp_per_kw)


@once
def _usual_events(facts: Facts, site: int) -> tuple[dict[str, float], dict[str, float], float]:
    """Prices per kWh of a site's events as they are configured, of those that are firm, and what a kWh is worth to a
    deadline that is a promise: more than all that ask for it at the same time."""
    worth = MARGIN * (_dearest(facts, site, _usual(facts)) * _slopes(facts, site)[0] + _pressure(facts, site))
    plain = {event.id: event.penalty_per_kwh + event.credit_per_kwh for _, event in facts.events_of(site)}
    firm = {e.id: max(plain[e.id], worth) for _, e in facts.events_of(site) if e.firm or e.emergency}
    return plain, firm, MARGIN * max(worth, *firm.values(), _together(facts, site, firm))


def _together(facts: Facts, site: int, per_kwh: Mapping[str, float]) -> float:
    """Most that events of a site with these prices per kWh ask for it at the same time."""
    found = np.zeros(facts.count)
    for number, event in facts.events_of(site):
        found += np.where(np.isfinite(facts.event_kw[number]), per_kwh.get(event.id, 0.0), 0.0)
    return float(found.max())


def in_force(facts: Facts, event: GridEvent) -> NDArray[np.bool_]:
    """Intervals [interval] that begin before an event's ramp out has ended: an emergency goes below floors until then,
    its rebound limit doesn't."""
    over = event.end + timedelta(seconds=event.ramp_out_s)
    return np.array([start < over for start in facts.problem.grid.starts], dtype=np.bool_)


def _dearest(facts: Facts, site: int, weights: JobWeights) -> float:
    """Most that a GPU-hour never done costs, by these prices, among the jobs that may run at a site."""
    at = np.array([pool.site == site for pool in facts.pools], dtype=np.bool_)[facts.table.pair_pool]
    losses = weights.undone_per_gpu_h[facts.table.pair_job[at]]
    return float(losses.max()) if len(losses) else 0.0


@once
def job_weights(facts: Facts) -> JobWeights:
    """Planning prices of every job: a deadline that can be met is not missed to save money, and a promised one not for
    an event either."""
    if not facts.table.firm.any():
        return _usual(facts)
    promised = [_usual_events(facts, site)[2] for site in range(len(facts.problem.sites))]
    return _priced(facts, promised)


@once
def _usual(facts: Facts) -> JobWeights:
    """The same with no deadline promised: what events are weighed against."""
    return _priced(facts, None)


def _priced(facts: Facts, promised: list[float] | None) -> JobWeights:
    """Planning prices of every job; `promised`: worth of a kWh for promised deadlines [site]."""
    table = facts.table

    def premium_of(per_kwh: Callable[[int], float]) -> Floats:
        """The highest of a job's pools, of a price per kWh of their sites."""
        each = [per_kwh(pool.site) * _kwh_per_gpu_h(facts, pool.index) if pool.batch else 0.0 for pool in facts.pools]
        found = np.full(len(table), -np.inf)
        np.maximum.at(found, table.pair_job, np.array(each)[table.pair_pool])
        return found

    premium = premium_of(lambda site: MARGIN * _pressure(facts, site))
    if promised is not None:
        premium = np.where(table.firm, np.maximum(premium, premium_of(promised.__getitem__)), premium)
    lost = table.undone_penalty + table.value_per_gpu_h
    worst_h = table.hours_late.max(axis=1, initial=0.0) + float(facts.hours[-1])
    optional = ((table.undone_penalty <= 0) & ~table.firm) | ~np.isfinite(premium)
    late = np.where(optional, 0.0, premium)
    return JobWeights(late, np.where(optional, 0.0, MARGIN * (late + table.late_penalty * worst_h)) + lost)


@once
def _pressure(facts: Facts, site: int) -> float:
    """Most money that a kWh of import less can bring by economics alone: energy, a billed peak, ramps into and out of
    the shortest interval, and the best service value that the power could carry instead."""
    shortest = float(facts.hours.min())
    peaks = sum(charge.price_per_kw for charge in facts.problem.sites[site].demand_charges)
    moves = 2 * (facts.problem.prices.ramp_per_kw + facts.problem.prices.change_per_kw)
    values = [pool.pool.value_per_gpu_h for pool in facts.pools if pool.site == site]
    service = max(values, default=0.0) * _slopes(facts, site)[0]
    supplied = facts.supply.dearest_per_kwh(site) + facts.supply.dearest_start_per_kwh(site, shortest)
    supplied += sum(max(offer.price_per_kw_h, default=0.0) for offer in facts.problem.sites[site].reserves)
    return service + float(np.abs(facts.cost_per_kwh[site]).max()) + supplied + (peaks + moves) / shortest


def _kwh_per_gpu_h(facts: Facts, index: int) -> float:
    """Import in kWh that a GPU-hour of work takes in a batch pool at full speed."""
    pool = facts.pools[index]
    hull = pool.from_idle
    return (hull.top_w - hull.base_w) / hull.top_throughput / 1000.0 * float(facts.pue[pool.site].max())


@once
def _slopes(facts: Facts, site: int) -> tuple[float, float]:
    """Most work that a kWh of import carries in any pool of the site, and least at any pool's floor (GPU-h per kWh)."""
    pue = float(facts.pue[site].min())
    steep, gentle = [LEAST_SLOPE], []
    for pool in facts.pools:
        if pool.site != site:
            continue
        steep.append(pool.from_idle.segments[0].slope_per_w * 1000.0 / pue)
        if not pool.batch:
            steep.append(max((part.slope_per_w for part in pool.hulls[0].segments), default=0.0) * 1000.0 / pue)
            gentle.append(_slope_at_floor(facts, pool.index) / float(facts.pue[site].max()))
    return max(steep), max(LEAST_SLOPE, min(gentle, default=max(steep)))


def _slope_at_floor(facts: Facts, index: int) -> float:
    """Work per kWh of IT energy just below a pool's floor."""
    pool = facts.pools[index]
    hull = pool.hulls[0]
    at_w, slope = hull.base_w, hull.segments[0].slope_per_w if hull.segments else 1.0
    for segment in hull.segments:
        if hull.throughput(at_w) >= pool.pool.floor:
            break
        slope, at_w = segment.slope_per_w, at_w + segment.width_w
    return slope * 1000.0
