"""Prices of what has to give, so that it gives in the right order whatever the numbers in the config.

Order, first to give: comfort (best-effort events, economics, ramps), firm events, the service floors that may give
at all (training under a hard limit; any pool under an allowed emergency), the hard limit, which gives only when it
is physically out of reach. Each price is the configured one or, where that is too low to keep the order, twice the
price below it in the same unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from optimizer.curves import hull_from_idle
from optimizer.facts import Facts

MARGIN = 2.0
LEAST_SLOPE = 0.05
"""GPU-hours per kWh below which a curve is taken as flat; keeps the floor's price finite."""


@dataclass(frozen=True)
class Weights:
    """Planning prices of one site: per kWh of import over a limit or an event (by event id), per GPU-hour below a
    floor, per kW of ramp beyond the allowed."""

    limit_per_kwh: float
    event_per_kwh: Mapping[str, float]
    floor_per_gpu_h: float
    ramp_per_kw: float


def weights_of(facts: Facts, site: int) -> Weights:
    """Planning prices of the site with that index."""
    prices = facts.problem.prices
    steepest, gentlest = _slopes(facts, site)
    shortest = float(facts.hours.min())
    energy = float(np.abs(facts.cost_per_kwh[site]).max())
    peaks = sum(charge.price_per_kw for charge in facts.problem.sites[site].demand_charges)
    moves = 2 * prices.ramp_per_kw / shortest  # a kW less in one interval can spare a ramp into it and one out of it
    worth = MARGIN * (_best_value(facts, site) * steepest + energy + moves)
    plain = {event.id: event.penalty_per_kwh + event.credit_per_kwh for _, event in facts.events_of(site)}
    firm = {event.id: max(plain[event.id], worth) for _, event in facts.events_of(site) if event.firm}
    pressure = max(max(firm.values(), default=0.0), peaks / shortest + moves + energy)
    floor_price = max(prices.below_floor_per_gpu_h, MARGIN * pressure / gentlest)
    emergency = {
        event.id: max(plain[event.id], MARGIN * floor_price * steepest)
        for _, event in facts.events_of(site)
        if event.emergency
    }
    events = {**plain, **firm, **emergency}
    limit = max(prices.over_limit_per_kwh, MARGIN * floor_price * steepest, MARGIN * max(events.values(), default=0.0))
    return Weights(limit, events, floor_price, prices.ramp_per_kw)


def _slopes(facts: Facts, site: int) -> tuple[float, float]:
    """Most work that a kWh of import carries in any pool of the site, and least at any pool's floor (GPU-h per kWh)."""
    pue = float(facts.pue[site].min())
    steep, gentle = [1e-3], []
    for pool in facts.pools:
        if pool.site != site:
            continue
        steep.append(hull_from_idle(pool.curve).segments[0].slope_per_w * 1000.0 / pue)
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


def _best_value(facts: Facts, site: int) -> float:
    """What the most valuable GPU-hour of the site is worth, penalties for not doing it included."""
    values = [pool.pool.value_per_gpu_h for pool in facts.pools if pool.site == site]
    for job in facts.jobs:
        if any(facts.pools[number].site == site for number in job.pools):
            late = job.job.late_penalty * float(facts.hours.sum())
            values.append(max(0.0, job.job.value_per_gpu_h + job.job.undone_penalty, late))
    return max(values, default=0.0)
