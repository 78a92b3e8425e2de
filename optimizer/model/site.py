"""Sites: import through PUE, energy and carbon, the hard limit, events, the demand charge and ramps."""

from __future__ import annotations

from math import inf, isfinite
from typing import Any

import numpy as np

from optimizer.model.parts import Build, Row, Term, row, rows, variables
from optimizer.model.pools import segments
from optimizer.ramps import allowed_kw


def add_import(build: Build) -> None:
    """import[s,t] = PUE * (sum of pool draws + other IT) in kW. Objective: + (price / 1000 + carbon price) * hours *
    import. The dual of this row is the marginal value of a kW."""
    facts = build.facts
    keys = [(s, t) for s in range(len(facts.problem.sites)) for t in range(facts.count)]
    bought = variables(build, "import", keys)
    members: list[Row] = []
    for s, t in keys:
        pue = float(facts.pue[s, t])
        pools = [pool for pool in facts.pools if pool.site == s]
        terms: list[Term] = [(-pue, seg) for pool in pools for seg, _ in segments(build, pool, t)]
        fixed_kw = float(facts.other_kw[s, t]) + sum(float(pool.base_kw[t]) for pool in pools)
        members.append(row(pue * fixed_kw, [(1.0, bought[s, t]), *terms], pue * fixed_kw))
        build.cost.append((float(facts.cost_per_kwh[s, t] * facts.hours[t]), bought[s, t]))
    rows(build, "balance", members)


def add_limits(build: Build) -> None:
    """import - over <= hard limit (kW). Objective: + weight * hours * over."""
    facts, bought = build.facts, build.families["import"]
    keys = [(s, t) for s in range(len(facts.problem.sites)) for t in np.flatnonzero(facts.limit_kw[s] < inf).tolist()]
    over = variables(build, "over_limit", keys)
    rows(build, "limit", [
        row(None, [(1.0, bought[s, t]), (-1.0, over[s, t])], float(facts.limit_kw[s, t])) for s, t in keys
    ])  # fmt: skip
    for s, t in keys:
        build.cost.append((build.weights[s].limit_per_kwh * float(facts.hours[t]), over[s, t]))


def add_events(build: Build) -> None:
    """import - over <= mean cap of the event (kW), ramps and rebound included. Objective: + weight * hours * over."""
    facts, bought = build.facts, build.families["import"]
    keys = [(e, t) for e in range(len(facts.problem.events)) for t in np.flatnonzero(facts.event_kw[e] < inf).tolist()]
    over = variables(build, "over_event", keys)
    members: list[Row] = []
    for e, t in keys:
        event = facts.problem.events[e]
        s = facts.site_index[event.site]
        members.append(row(None, [(1.0, bought[s, t]), (-1.0, over[e, t])], max(0.0, float(facts.event_kw[e, t]))))
        weight = build.weights[s].event_per_kwh[event.id]
        build.cost.append((weight * float(facts.hours[t]), over[e, t]))
    rows(build, "event", members)


def add_demand_charges(build: Build) -> None:
    """peak >= import in every active interval, peak >= peak so far (kW). Objective: + price * (peak - peak so far)."""
    facts, bought = build.facts, build.families["import"]
    charges = [(s, charge) for s, site in enumerate(facts.problem.sites) for charge in site.demand_charges]
    keys = [(s, charge.id) for s, charge in charges]
    peaks = variables(build, "peak", keys, lower=[charge.peak_so_far_kw for _, charge in charges])
    members: list[Row] = []
    for s, charge in charges:
        peak = peaks[s, charge.id]
        build.cost.append((charge.price_per_kw, peak))
        build.constant -= charge.price_per_kw * charge.peak_so_far_kw
        members.extend(
            row(0.0, [(1.0, peak), (-1.0, bought[s, t])], None) for t in range(facts.count) if charge.active[t]
        )
    rows(build, "peaks", members)


def add_ramps(build: Build) -> None:
    """|import[t] - import[t-1]| <= ramp * minutes between the intervals' middles + slack (kW); the first step counts
    from the present import. Objective: + weight * slack.

    A falling cap may be followed at once: its own ramp is part of it, and so is what exceeded the cap before.
    """
    facts = build.facts
    keys = [
        (s, t, way)
        for s, site in enumerate(facts.problem.sites)
        for way, limit in (("up", site.ramp_up_kw_per_min), ("down", site.ramp_down_kw_per_min))
        if isfinite(limit)
        for t in range(0 if site.import_now_kw is not None else 1, facts.count)
    ]
    slack = variables(build, "ramp", keys)
    members = [_ramp_row(build, s, t, way, slack[s, t, way]) for s, t, way in keys]
    rows(build, "ramps", [member for member in members if member is not None])
    for s, t, way in keys:
        build.cost.append((build.weights[s].ramp_per_kw, slack[s, t, way]))


def _ramp_row(build: Build, s: int, t: int, way: str, slack: Any) -> Row | None:
    """One ramp row, or None where a cap that begins to bind sets the pace."""
    site = build.facts.problem.sites[s]
    up = way == "up"
    sign = 1.0 if up else -1.0
    allowed = allowed_kw(build.facts, s, t, up)
    if allowed == inf:
        return None
    terms: list[Term] = [(sign, build.families["import"][s, t]), (-1.0, slack)]
    if t == 0:
        return row(None, terms, allowed + sign * float(site.import_now_kw or 0.0))
    terms.append((-sign, build.families["import"][s, t - 1]))
    if not up:
        over = _over_strictest(build, s, t - 1)
        terms.extend([(-1.0, over)] if over is not None else [])
    return row(None, terms, allowed)


def _over_strictest(build: Build, s: int, t: int) -> Any | None:
    """The variable of what exceeds the strictest cap of an interval (None: no cap)."""
    caps = [(float(build.facts.limit_kw[s, t]), "over_limit", (s, t))]
    caps += [(float(build.facts.event_kw[e, t]), "over_event", (e, t)) for e, _ in build.facts.events_of(s)]
    _, family, key = min(caps, key=lambda cap: cap[0])
    return build.get(family, key)
