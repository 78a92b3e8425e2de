"""How much a site's mean import may change from one interval to the next.

Why apart: the model prices what goes beyond it, the evaluation charges the same, and both must agree about the one
exception: where a cap falls, its own ramp sets the pace and the site may follow at once.
"""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise
from math import inf

from optimizer.domain import GridEvent, SiteInputs
from optimizer.envelope import released_at
from optimizer.facts import Facts


def allowed_kw(facts: Facts, site: int, index: int, up: bool) -> float:
    """Allowed change of import in kW into interval `index`, upwards or downwards (inf: any).

    Ramp times the minutes between the middles of both intervals; for the first one, from its start to its middle.
    """
    hours = facts.hours[index] / 2 + (facts.hours[index - 1] / 2 if index else 0.0)
    per_min = pace_kw_per_min(facts, site, index, up)
    allowed = per_min * 60.0 * float(hours) if per_min < inf else inf
    return allowed if up else allowed + _cap_fall_kw(facts, site, index)


def pace_kw_per_min(facts: Facts, site: int, index: int, up: bool) -> float:
    """Ramp limit into interval `index` (inf: none): the site's own, or that of a program whose event is under way when
    the interval begins, from its start to the end of its ramp out; the slowest of them. Where events begin inside the
    interval, each part counts with its own limit and its length: until then the site moves as it may."""
    inputs, (start, end) = facts.problem.sites[site], facts.problem.grid.edges[index : index + 2]
    events = [event for _, event in facts.asking(site) if event.start < end and start < released_at(event)]

    def slowest(at: datetime) -> float:
        live = [event for event in events if event.start <= at < released_at(event)]
        sources: tuple[SiteInputs | GridEvent, ...] = (inputs, *live)
        return min(of.ramp_up_kw_per_min if up else of.ramp_down_kw_per_min for of in sources)

    moments = sorted({start, *(event.start for event in events if event.start > start), end})
    return sum((after - at) / (end - start) * slowest(at) for at, after in pairwise(moments))


def is_paced(facts: Facts, site: int, up: bool) -> bool:
    """Whether any ramp limit may hold on the grid."""
    events = (event for _, event in facts.asking(site))
    sources: tuple[SiteInputs | GridEvent, ...] = (facts.problem.sites[site], *events)
    return any(of.ramp_up_kw_per_min < inf if up else of.ramp_down_kw_per_min < inf for of in sources)


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
