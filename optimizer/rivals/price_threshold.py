"""Watch the price: below the horizon's median run what can run, above it let jobs wait until they would be late.

Pools that serve or train go down to their floor while an hour of a GPU at full power costs more than it is worth.
"""

from __future__ import annotations

import numpy as np

from optimizer.domain import Plan, Problem
from optimizer.facts import Facts, Floats
from optimizer.rivals.uniform_cap import all_alike
from optimizer.rivals.walk import Policy, Wish, follow, full_power, late_otherwise


def price_threshold(problem: Problem, _last: Plan | None = None) -> Plan:
    """Jobs while energy (carbon included) costs no more than the horizon's median; firm events by one cap for all."""
    return follow(Policy("price_threshold", all_alike, _worth_it, _cheap, voluntary=False), problem)


def _worth_it(facts: Facts) -> Floats:
    """Full power where an hour of a GPU brings at least what its energy costs, else the floor."""
    draw = full_power(facts)
    for pool in facts.pools:
        if not pool.batch:
            kwh = np.array([hull.top_w for hull in pool.hulls]) / 1000.0 * facts.pue[pool.site]
            dear = kwh * facts.cost_per_kwh[pool.site] > pool.pool.value_per_gpu_h
            draw[pool.index] = np.where(dear, np.minimum(pool.least_kw, pool.top_kw), draw[pool.index])
    return draw


def _cheap(facts: Facts) -> Wish:
    """Run while energy costs no more than the median at the site, and what would be late otherwise."""
    medians = [_median(cost, facts.hours) for cost in facts.cost_per_kwh]
    return lambda job, site, t, left: float(
        float(facts.cost_per_kwh[site, t]) <= medians[site] or late_otherwise(job, t, left)
    )


def _median(cost: Floats, hours: Floats) -> float:
    """Median cost of a kWh over the hours of the horizon."""
    order = np.argsort(cost, kind="stable")
    half = np.searchsorted(np.cumsum(hours[order]), hours.sum() / 2.0)
    return float(cost[order[min(int(half), len(order) - 1)]])
