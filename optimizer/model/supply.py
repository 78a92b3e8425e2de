"""Batteries and generators in the model: what is stored, what is given, and what may leave the site."""

from __future__ import annotations

from math import inf

import numpy as np

from optimizer.facts import Facts, Floats
from optimizer.model.parts import Ints, Model, Rows


def import_low(facts: Facts) -> Floats:
    """Least import in kW [site, interval]: 0, or unbounded where something may leave the site (`export` rows)."""
    low = np.zeros(facts.pue.shape)
    for s, site in enumerate(facts.problem.sites):
        if any(b.may_export for b in site.batteries) or any(u.may_export for u in site.generators):
            low[s] = -inf
    return low


def add_batteries(model: Model) -> None:
    """stored[b,t] = stored[b,t-1] + hours * (efficiency_in * charge - discharge / efficiency_out), in kWh;
    min <= stored <= max, 0 <= charge, discharge <= their powers (kW; charge also <= room under the hard
    limit). import[s,t] gains charge - discharge.

    Objective: + wear * hours * discharge - end value * stored at the end (relative to now). There is no binary against
    doing both at once: where a negative price makes that pay, `oneway.py` branches on the interval.
    """
    facts, supply = model.facts, model.facts.supply
    count = len(supply.batteries)
    b, t = (part.ravel() for part in np.indices((count, facts.count)))
    each = [battery for _, battery in supply.batteries]
    site = np.array([s for s, _ in supply.batteries], dtype=np.int64)
    wear = np.array([supply.wear(n) for n in range(count)])
    bounds = np.array([supply.bounds(n) for n in range(count)]).reshape(count, 2)
    worth = np.where(t == facts.count - 1, np.array([item.end_value_per_kwh for item in each])[b], 0.0)
    powers = np.array([item.charge_kw for item in each])[b]
    charge = model.columns("charge", "bt", (b, t), high=_charge_kw(facts, site[b], t, powers))
    discharge = model.columns(
        "discharge", "bt", (b, t), high=np.array([i.discharge_kw for i in each])[b], cost=wear[b] * facts.hours[t]
    )
    stored = model.columns("stored", "bt", (b, t), low=bounds[b, 0], high=bounds[b, 1], cost=-worth)
    model.constant += sum(item.end_value_per_kwh * item.stored_now_kwh for item in each)
    begun = np.where(t == 0, np.array([item.stored_now_kwh for item in each])[b], 0.0)
    rows = model.rows("store", "bt", (b, t), low=begun, high=begun)
    rows.add(rows.all, stored, stored.all, 1.0)
    later = t > 0
    rows.add(rows.all[later], stored, stored.all[later] - 1, -1.0)
    into = np.array([item.charge_efficiency for item in each])[b]
    out = np.array([item.discharge_efficiency for item in each])[b]
    rows.add(rows.all, charge, charge.all, -into * facts.hours[t])
    rows.add(rows.all, discharge, discharge.all, facts.hours[t] / out)
    balance = model.row_families["balance"]
    balance.add(site[b] * facts.count + t, charge, charge.all, -1.0)
    balance.add(site[b] * facts.count + t, discharge, discharge.all, 1.0)


def _charge_kw(facts: Facts, s: Ints, t: Ints, most_kw: Floats) -> Floats:
    """Most charge in kW: its power, and an even part of what the hard limit leaves above the least import, so that no
    limit that could be kept is broken for a later need."""
    room = np.clip(facts.limit_kw + facts.supply.most_output_kw - facts.least_import_kw, 0.0, None)
    count = np.bincount(
        np.array([place for place, _ in facts.supply.batteries], dtype=np.int64), minlength=len(facts.limit_kw)
    )
    high: Floats = np.minimum(most_kw, room[s, t] / np.maximum(1, count[s]))
    return high


def add_generators(model: Model) -> None:
    """low <= output[u,t] <= high (kW; must-take from 0). import[s,t] loses output. Objective: + cost / 1000 * hours *
    output, for must-take + what its energy would earn as import at a negative price * hours * (high - output)."""
    facts, supply = model.facts, model.facts.supply
    u, t = (part.ravel() for part in np.indices(supply.high_kw.shape))
    site = np.array([s for s, _ in supply.generators], dtype=np.int64)
    cost = np.array([unit.cost_per_mwh / 1000.0 for _, unit in supply.generators])
    price = cost[u] - supply.spill_per_kwh[u, t]
    output = model.columns(
        "output", "ut", (u, t), low=supply.low_kw[u, t], high=supply.high_kw[u, t], cost=price * facts.hours[t]
    )
    model.constant += float((supply.spill_per_kwh * supply.high_kw * facts.hours).sum())
    balance = model.row_families["balance"]
    balance.add(site[u] * facts.count + t, output, output.all, 1.0)
    _add_starts(model)


def _add_starts(model: Model) -> None:
    """begun[u,t] >= output[u,t] / high[u,t] - output[u,t-1] / high[u,t-1] (before: what it gives now). Objective:
    + start cost * begun. Why in parts: a whole start for the last kW under a firm event would be saved."""
    facts, supply, output = model.facts, model.facts.supply, model.get("output")
    dear = [n for n, (_, unit) in enumerate(supply.generators) if unit.start_cost > 0 and not unit.must_take]
    u = np.repeat(np.array(dear, dtype=np.int64), facts.count)
    t = np.tile(np.arange(facts.count, dtype=np.int64), len(dear))
    price = np.array([supply.generators[n][1].start_cost for n in u.tolist()])
    begun = model.columns("begun", "ut", (u, t), high=1.0, cost=price)
    now = np.array([supply.share_now(n) for n in u.tolist()])
    rows = model.rows("begin", "ut", (u, t), low=np.where(t == 0, -now, 0.0))
    rows.add(rows.all, begun, begun.all, 1.0)
    high = supply.high_kw[u, t]
    some = high > 0
    share = np.divide(1.0, high, out=np.zeros_like(high), where=some)
    rows.add(rows.all[some], output, (u * facts.count + t)[some], -share[some])
    later = rows.all[some & (t < facts.count - 1)]
    rows.add(later + 1, output, (u * facts.count + t)[later], share[later])


def add_export(model: Model) -> None:
    """import + sum of discharge and output that may leave >= 0 (kW): what may not leave is used here."""
    facts = model.facts
    s, t = np.nonzero(np.isinf(import_low(facts)))
    rows = model.rows("export", "st", (s, t), low=0.0)
    rows.add(rows.all, model.get("import"), s * facts.count + t, 1.0)
    add_leaving(model, rows, 1.0)


def add_leaving(model: Model, rows: Rows, sign: float) -> None:
    """Add sign * (discharge and output that may leave the site) to rows of sites and intervals."""
    facts, supply = model.facts, model.facts.supply
    at = rows.find(facts.pue.shape)
    for family, items in (("discharge", supply.batteries), ("output", supply.generators)):
        columns = model.get(family)
        site = np.array([place for place, _ in items], dtype=np.int64)
        free = np.array([item.may_export for _, item in items], dtype=np.bool_)
        used = free[columns.keys[0]] if len(columns) else np.zeros(0, dtype=np.bool_)
        if used.any():
            place = at[site[columns.keys[0][used]], columns.keys[1][used]]
            rows.add(place[place >= 0], columns, columns.all[used][place >= 0], sign)
