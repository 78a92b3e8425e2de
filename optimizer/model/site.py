"""Sites: import through PUE, energy and carbon, the hard limit, events, the demand charge and ramps."""

from __future__ import annotations

from math import inf

import numpy as np

from optimizer.facts import Facts, Floats, with_taken
from optimizer.model.participation import add_taken, untaken_kw
from optimizer.model.parts import Columns, Flags, Ints, Model, Rows
from optimizer.model.supply import import_low
from optimizer.ramps import allowed_kw, is_paced
from optimizer.steps import steps_of
from optimizer.weights import in_force

LEEWAY_KW = 1e-3
"""What a limit that is out of reach leaves open above the least import: so its price, and no bound, is what a kW is
worth."""


def add_import(model: Model) -> None:
    """import[s,t] = PUE * (sum of pool draws + other IT) in kW; `supply.py` adds batteries and generators. Objective:
    + (price / 1000 + carbon price + price of a coincident peak per kW * its probability / hours) * hours * import. The
    dual of this row is the marginal value of a kW."""
    facts, seg = model.facts, model.get("seg")
    shape = facts.pue.shape
    s, t = (part.ravel() for part in np.indices(shape))
    bought = model.columns(
        "import", "st", (s, t), low=import_low(facts).ravel(), cost=(facts.cost_per_kwh * facts.hours).ravel()
    )
    fixed_kw = facts.other_kw.copy()
    for pool in facts.pools:
        fixed_kw[pool.site] += pool.base_kw
    fixed = (facts.pue * fixed_kw).ravel()
    balance = model.rows("balance", "st", (s, t), low=fixed, high=fixed)
    balance.add(balance.all, bought, bought.all, 1.0)
    where = np.array([pool.site for pool in facts.pools], dtype=np.int64)[seg.keys[0]]
    balance.add(where * shape[1] + seg.keys[1], seg, seg.all, -facts.pue[where, seg.keys[1]])


def import_at(facts: Facts, s: Ints | int, t: Ints | int) -> Ints:
    """Numbers of the import columns of sites and intervals."""
    return np.asarray(np.asarray(s) * facts.count + np.asarray(t), dtype=np.int64)


def add_limits(model: Model) -> None:
    """import - over <= hard limit (kW), 0 <= over <= what the least import, with all that generators can give, exceeds
    the limit by. Objective: + weight * hours * over.

    Why not by price alone: a small job that many others wait for carries the value of all of them, and no price of a
    kilowatt outweighs whatever work could be worth.
    """
    facts = model.facts
    s, t = np.nonzero(facts.limit_kw < inf)
    weight = np.array([weights.limit_per_kwh for weights in model.weights])
    beyond = (facts.least_import_kw - facts.supply.most_output_kw - facts.limit_kw)[s, t]
    most = np.where(beyond > 0, beyond + LEEWAY_KW, 0.0)
    over = model.columns("over_limit", "st", (s, t), high=most, cost=weight[s] * facts.hours[t])
    limit = model.rows("limit", "st", (s, t), high=facts.limit_kw[s, t])
    limit.add(limit.all, model.get("import"), import_at(facts, s, t), 1.0)
    limit.add(limit.all, over, over.all, -1.0)


def add_events(model: Model) -> None:
    """import - over <= mean cap of the event (kW), ramps and rebound included. Objective: + weight * hours * over.

    Where jobs have runs that last, gangs or an order, a firm event is missed by no more than it is out of reach by (see
    `_most_over`): over <= beyond; with batteries over <= beyond + charge, since a later limit may need the charge.

    A voluntary event that waits for an answer: import - over + slack * take <= cap + slack, where `slack` is what the
    most that can be imported exceeds the cap by. A firm one is taken whole or not at all: over = 0.
    """
    facts = model.facts
    e, t = np.nonzero(facts.event_kw < inf)
    sites = np.array([facts.site_index[event.site] for event in facts.problem.events], dtype=np.int64)
    prices = [model.weights[s].event_per_kwh[event.id] for s, event in zip(sites, facts.problem.events, strict=True)]
    cost = np.array(prices)[e, t] * facts.hours[t] if len(e) else 0.0
    most = np.array([_most_over(facts, number) for number in range(len(sites))]).reshape(facts.event_kw.shape)[e, t]
    charges = _charges(facts)[e] & (most < inf)
    over = model.columns("over_event", "et", (e, t), high=np.where(charges, inf, most), cost=cost)
    slack = untaken_kw(facts, e, t, sites[e]) if len(e) else np.zeros(0)
    cap = model.rows("event", "et", (e, t), high=np.maximum(0.0, facts.event_kw[e, t]) + slack)
    add_taken(model, cap, e, slack)
    cap.add(cap.all, model.get("import"), import_at(facts, sites[e] if len(e) else e, t), 1.0)
    cap.add(cap.all, over, over.all, -1.0)
    _add_charged_for(model, over, np.flatnonzero(charges), most)


def _most_over(facts: Facts, number: int) -> Floats:
    """Most that an event's cap may be exceeded by [interval]: for a firm one what the least import, with all that
    generators can give, exceeds it by. Only an emergency in force goes below floors for it; and where jobs have
    promised their end, which goes before any other firm event, the price alone decides.

    Why not by price alone: a kilowatt that a run which must last, or a job that others wait for, does not get may cost
    hours of work for five minutes of an event, and no price outweighs whatever that could be worth. What all other jobs
    lose the price outweighs.
    """
    event, s, steps = facts.problem.events[number], facts.site_index[facts.problem.events[number].site], steps_of(facts)
    if event.undecided and event.firm:
        return np.zeros(facts.count)
    if event.undecided or not (event.firm or event.emergency) or not (steps.stepped.any() or len(steps.order)):
        return np.full(facts.count, inf)
    deep = in_force(facts, event) & event.emergency
    least = np.where(deep, facts.least_import_kw[s], facts.kept_import_kw[s]) - facts.supply.most_output_kw[s]
    beyond = least - np.maximum(0.0, facts.event_kw[number])
    most = np.where(beyond > 0, beyond + LEEWAY_KW, 0.0)
    return np.where(deep, most, inf) if _has_promised(facts, s) else most


def _has_promised(facts: Facts, site: int) -> bool:
    """Whether a job that may be interrupted, and has promised its end, can run at a site."""
    table = facts.table
    promised = table.pair_pool[(table.firm & table.preemptible)[table.pair_job]]
    return any(facts.pools[g].site == site for g in np.unique(promised).tolist())


def _charges(facts: Facts) -> Flags:
    """Events [event] that have their answer, at sites with batteries."""
    having = {s for s, _ in facts.supply.batteries}
    events = facts.problem.events
    found = [not event.undecided and facts.site_index[event.site] in having for event in events]
    return np.array(found, dtype=np.bool_)


def _add_charged_for(model: Model, over: Columns, which: Ints, most: Floats) -> None:
    """over <= most + charge of the site's batteries: what they take for a limit or an event after it may be missing."""
    facts, charge = model.facts, model.get("charge")
    e, t = over.keys[0][which], over.keys[1][which]
    rows = model.rows("charged_for", "et", (e, t), high=most[which])
    rows.add(rows.all, over, which, 1.0)
    at = np.array([facts.site_index[facts.problem.events[n].site] for n in e.tolist()], dtype=np.int64)
    site = np.array([s for s, _ in facts.supply.batteries], dtype=np.int64)[charge.keys[0]]
    row, column = np.nonzero((at[:, None] == site) & (t[:, None] == charge.keys[1]))
    rows.add(row, charge, column, -1.0)


def add_demand_charges(model: Model) -> None:
    """peak >= import in every active interval, peak >= peak so far (kW). Objective: + price * (peak - peak so far)."""
    facts = model.facts
    charges = [(s, charge) for s, site in enumerate(facts.problem.sites) for charge in site.demand_charges]
    so_far = np.array([charge.peak_so_far_kw for _, charge in charges])
    price = np.array([charge.price_per_kw for _, charge in charges])
    peak = model.columns("peak", "c", (np.arange(len(charges)),), low=so_far, cost=price)
    model.constant -= float(so_far @ price)
    active = np.array([charge.active for _, charge in charges], dtype=np.bool_).reshape(len(charges), facts.count)
    c, t = np.nonzero(active)
    sites = np.array([s for s, _ in charges], dtype=np.int64)
    peaks = model.rows("peaks", "ct", (c, t), low=0.0)
    peaks.add(peaks.all, peak, c, 1.0)
    peaks.add(peaks.all, model.get("import"), import_at(facts, sites[c] if len(c) else c, t), -1.0)


def add_ramps(model: Model) -> None:
    """|import[t] - import[t-1]| <= ramp * minutes between the intervals' middles + slack (kW); the first step counts
    from the present import. Objective: + weight * slack. `w` is 0 for up, 1 for down.

    A falling cap may be followed at once: its own ramp is part of it, and so is what exceeded the cap before. Where a
    voluntary event that waits for an answer falls, it may if the site takes part.
    """
    facts = model.facts
    keys, high = _ramp_keys(facts)
    s, t, way = keys
    weight = np.array([weights.ramp_per_kw for weights in model.weights])
    slack = model.columns("over_ramp", "stw", keys, cost=weight[s])
    ramp = model.rows("ramp", "stw", keys, high=high)
    sign = np.where(way == 0, 1.0, -1.0)
    later = t > 0
    ramp.add(ramp.all, model.get("import"), import_at(facts, s, t), sign)
    ramp.add(ramp.all, slack, slack.all, -1.0)
    ramp.add(ramp.all[later], model.get("import"), import_at(facts, s[later], t[later] - 1), -sign[later])
    for number in np.flatnonzero(later & (way == 1)).tolist():
        _add_over(model, ramp, number, int(s[number]), int(t[number]) - 1)
    for e in model.get("take").keys[0].tolist():
        _add_fall(model, ramp, e)


def _ramp_keys(facts: Facts) -> tuple[tuple[Ints, Ints, Ints], list[float]]:
    """Site, interval and way of every ramp row, and its right side; none where a cap that begins to bind sets the
    pace."""
    keys: list[tuple[int, int, int]] = []
    high: list[float] = []
    for s, site in enumerate(facts.problem.sites):
        for way in (0, 1):
            if not is_paced(facts, s, way == 0):
                continue
            for t in range(0 if site.import_now_kw is not None else 1, facts.count):
                allowed = allowed_kw(facts, s, t, way == 0)
                if allowed < inf:
                    keys.append((s, t, way))
                    now = float(site.import_now_kw or 0.0) if t == 0 else 0.0
                    high.append(allowed + (now if way == 0 else -now))
    table = np.array(keys, dtype=np.int64).reshape(len(keys), 3)
    return (table[:, 0], table[:, 1], table[:, 2]), high


def _add_fall(model: Model, ramp: Rows, e: int) -> None:
    """What a voluntary event allows the import to fall by, where the site takes part: as far as its own cap falls."""
    facts, take = model.facts, model.get("take")
    event = facts.problem.events[e]
    alone = with_taken(facts, frozenset({event.id}))
    s, t, way = ramp.keys
    mine = np.flatnonzero((s == facts.site_index[event.site]) & (way == 1))
    most = float(facts.most_import_kw.max()) + max(site.import_now_kw or 0.0 for site in facts.problem.sites)
    fall = np.array([[min(allowed_kw(f, int(s[n]), int(t[n]), False), most) for f in (alone, facts)] for n in mine])
    more = fall.reshape(len(mine), 2) @ np.array([1.0, -1.0])
    ramp.add(mine[more > 0], take, np.flatnonzero(take.keys[0] == e), -more[more > 0])


def _add_over(model: Model, ramp: Rows, number: int, s: int, t: int) -> None:
    """What exceeds the strictest cap of the interval before may be left at once."""
    facts = model.facts
    caps = [(float(facts.limit_kw[s, t]), "over_limit", s)]
    caps += [(float(facts.event_kw[e, t]), "over_event", e) for e, _ in facts.asking(s)]
    kw, family, first = min(caps, key=lambda cap: cap[0])
    if kw < inf:
        over: Columns = model.get(family)
        member = np.flatnonzero((over.keys[0] == first) & (over.keys[1] == t))
        ramp.add(number, over, member, -1.0)
