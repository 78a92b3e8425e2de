"""Run a job when the present interval is among the cheapest that remain to it: fifteen lines that are hard to beat.

What is expected of prices is that of the day before (or the mean profile of a week), corrected by the last error, which
fades; a daemon gives the rule its own forecast, as it does every planner. Why it is shipped: whoever optimises must
first be better than this, on the same knowledge. `share_now` is all that decides, here and in the benchmark's years.
"""

from __future__ import annotations

import numpy as np

from optimizer.domain import Plan, Problem
from optimizer.facts import Facts, Floats
from optimizer.jobfacts import JobFacts
from optimizer.rivals.uniform_cap import all_alike
from optimizer.rivals.walk import Policy, Wish, follow

FADE = 0.95
"""What is left of an error one interval later."""


def corrected(expected: Floats, last_error: float, lead: int) -> Floats:
    """Prices of the intervals from `lead` after the last known one on: what was expected plus the fading error."""
    prices: Floats = expected + last_error * FADE ** np.arange(lead, lead + len(expected))
    return prices


def share_now(prices: Floats, owed: float, room: Floats | None = None) -> float:
    """How much of the first interval to use when `owed` fits into the cheapest of all. `room`: how much fits into each,
    in the unit of `owed` (None: one)."""
    cheaper = prices[1:] < prices[0]
    if room is None:
        return min(1.0, max(0.0, owed - float(np.count_nonzero(cheaper))))
    return min(1.0, max(0.0, owed - float(room[1:] @ cheaper)) / float(room[0])) if room[0] > 0 else 1.0


def cheapest_remaining(problem: Problem, _last: Plan | None = None) -> Plan:
    """Each job in the cheapest hours that remain before its deadline; one cap for all."""
    return follow(Policy("cheapest_remaining", all_alike, willing=_among_cheapest, voluntary=False), problem)


def _among_cheapest(facts: Facts) -> Wish:
    """What of a job's work does not fit into cheaper hours of the horizon; all of it once it is late."""

    def share(job: JobFacts, site: int, t: int, left: float) -> float:
        return share_now(facts.cost_per_kwh[site, t:], left / job.rate, job.on_time_h[t:])

    return share
