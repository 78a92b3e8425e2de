"""How much a site's mean import may change from one interval to the next.

Why apart: the model prices what goes beyond it, the evaluation charges the same, and both must agree about the one
exception: where a cap falls, its own ramp sets the pace and the site may follow at once.
"""

from __future__ import annotations

from math import inf

from optimizer.facts import Facts


def allowed_kw(facts: Facts, site: int, index: int, up: bool) -> float:
    """Allowed change of import in kW into interval `index`, upwards or downwards (inf: any).

    Ramp times the minutes between the middles of both intervals; for the first one, from its start to its middle.
    """
    inputs = facts.problem.sites[site]
    hours = facts.hours[index] / 2 + (facts.hours[index - 1] / 2 if index else 0.0)
    per_min = inputs.ramp_up_kw_per_min if up else inputs.ramp_down_kw_per_min
    allowed = per_min * 60.0 * float(hours) if per_min < inf else inf
    return allowed if up else allowed + _cap_fall_kw(facts, site, index)


def _cap_fall_kw(facts: Facts, site: int, index: int) -> float:
    """How far the strictest cap falls into an interval; inf where a cap begins to bind."""
    cap = _cap_kw(facts, site, index)
    if cap == inf:
        return 0.0
    if index == 0:
        now = facts.problem.sites[site].import_now_kw
        return inf if now is not None and now > cap else 0.0
    before = _cap_kw(facts, site, index - 1)
    return inf if before == inf else max(0.0, before - cap)


def _cap_kw(facts: Facts, site: int, index: int) -> float:
    """Strictest of hard limit and events."""
    return float(min(facts.limit_kw[site, index], facts.events_cap_kw[site, index]))
