"""Run a job when the present interval is among the cheapest that remain to it: fifteen lines that are hard to beat.

Prices to come are those of the day before (or the mean profile of a week), corrected by the last error, which fades.
Why it is shipped: whoever optimises must first be better than this, on the same knowledge.
"""

from __future__ import annotations

import numpy as np

from optimizer.domain import Plan, Problem
from optimizer.facts import Facts, Floats
from optimizer.rivals.uniform_cap import all_alike
from optimizer.rivals.walk import Policy, follow

FADE = 0.95
"""What is left of an error one interval later."""


def corrected(expected: Floats, last_error: float, lead: int) -> Floats:
    """Prices of the intervals from `lead` after the last known one on: what was expected plus the fading error."""
    prices: Floats = expected + last_error * FADE ** np.arange(lead, lead + len(expected))
    return prices


def share_now(prices: Floats, owed: float) -> float:
    """How much of the first interval to use when `owed` intervals of work fit into the cheapest of all."""
    return min(1.0, max(0.0, owed - float(np.count_nonzero(prices[1:] < prices[0]))))


def cheapest_remaining(problem: Problem, _last: Plan | None = None) -> Plan:
    """Jobs in the cheapest hours before the last deadline that hold all work that may wait; one cap for all."""
    return follow(Policy("cheapest_remaining", all_alike, willing=_bar, voluntary=False), problem)


def _bar(facts: Facts) -> Floats:
    """The cost of a kWh up to which the cheapest hours of each site hold its longest job [site, interval]."""
    bars = np.full((len(facts.problem.sites), facts.count), -np.inf)
    for job in facts.jobs:
        if not job.pools or job.rate <= 0:
            continue
        s = facts.pools[job.pools[0]].site
        order = np.argsort(facts.cost_per_kwh[s], kind="stable")
        hours = np.cumsum(job.on_time_h[order])
        place = min(int(np.searchsorted(hours, job.left / job.rate - 1e-9)), facts.count - 1)
        bars[s] = np.maximum(bars[s], facts.cost_per_kwh[s, order[place]])
    return bars
