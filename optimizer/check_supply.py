"""The checker's part about batteries and generators, with arithmetic of its own (see `check.py`)."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf, isfinite

import numpy as np
from numpy.typing import NDArray

from optimizer.assets import Battery, Generator
from optimizer.domain import Plan, Problem, SiteInputs
from optimizer.envelope import mean_limit_kw

Floats = NDArray[np.float64]
TOL = 1e-6
TOL_KW = 1e-3

Fault = tuple[str, int | None, str]
"""What it is about, the interval (None: the whole plan), and a sentence."""


def shape_faults(problem: Problem, plan: Plan) -> Iterator[Fault]:
    """Batteries and generators that are missing, of another length, or not numbers."""
    count = len(problem.grid)
    for site in problem.sites:
        for battery in site.batteries:
            made = plan.batteries.get(battery.id)
            rows = (made.charge_kw, made.discharge_kw, made.stored_kwh) if made else ()
            yield from _shape(battery.id, "battery", rows, count)
        for unit in site.generators:
            given = plan.generators.get(unit.id)
            yield from _shape(unit.id, "generator", (given.output_kw, given.spilled_kw) if given else (), count)


def _shape(name: str, kind: str, rows: tuple[tuple[float, ...], ...], count: int) -> Iterator[Fault]:
    if not rows:
        yield name, None, f"{kind} is missing from the plan"
    elif any(len(row) != count or not all(isfinite(value) for value in row) for row in rows):
        yield name, None, f"{kind} has missing values, or values that are no numbers"


def net_kw(plan: Plan, site: SiteInputs) -> Floats:
    """What a site's batteries and generators add to its import [interval]."""
    net = np.zeros(len(site.pue))
    for battery in site.batteries:
        orders = plan.batteries[battery.id]
        net += np.array(orders.charge_kw) - np.array(orders.discharge_kw)
    for unit in site.generators:
        net -= np.array(plan.generators[unit.id].output_kw)
    return net


def supply_faults(problem: Problem, plan: Plan, site: SiteInputs) -> Iterator[Fault]:
    """Powers, stored energy, both directions at once, outputs out of range, and export of what may not leave."""
    for battery in site.batteries:
        yield from _battery(problem, plan, battery)
    for unit in site.generators:
        yield from _generator(plan, unit)
    bought = np.array(plan.sites[site.id].import_kw)
    leaves = np.zeros(len(bought))
    for leaving in (
        *(plan.batteries[battery.id].discharge_kw for battery in site.batteries if battery.may_export),
        *(plan.generators[unit.id].output_kw for unit in site.generators if unit.may_export),
    ):
        leaves += np.array(leaving)
    for t in np.flatnonzero(bought < -leaves - TOL_KW).tolist():
        yield site.id, t, f"{-bought[t]:.3f} kW leave the site, {leaves[t]:.3f} kW may"


def _battery(problem: Problem, plan: Plan, battery: Battery) -> Iterator[Fault]:
    orders, stored = plan.batteries[battery.id], battery.stored_now_kwh
    tol = TOL_KW + TOL * (battery.max_kwh + battery.charge_kw + battery.discharge_kw)
    low, high = min(battery.min_kwh, stored), max(battery.max_kwh, stored)
    for t, hours in enumerate(problem.grid.hours):
        charge, discharge = orders.charge_kw[t], orders.discharge_kw[t]
        if not (-tol <= charge <= battery.charge_kw + tol and -tol <= discharge <= battery.discharge_kw + tol):
            yield battery.id, t, f"charge {charge:.3f} kW, discharge {discharge:.3f} kW: more than it can"
        if min(charge, discharge) > tol:
            yield battery.id, t, f"charges {charge:.3f} kW and discharges {discharge:.3f} kW at once"
        stored += hours * (charge * battery.charge_efficiency - discharge / battery.discharge_efficiency)
        if abs(stored - orders.stored_kwh[t]) > tol or not low - tol <= stored <= high + tol:
            yield battery.id, t, f"holds {stored:.3f} kWh, said {orders.stored_kwh[t]:.3f}, of {low:.3f}..{high:.3f}"


def _generator(plan: Plan, unit: Generator) -> Iterator[Fault]:
    for t, output in enumerate(plan.generators[unit.id].output_kw):
        low = 0.0 if unit.must_take or not unit.may_export else unit.low_kw[t]
        if not low - TOL_KW <= output <= unit.high_kw[t] * (1 + TOL) + TOL_KW:
            yield unit.id, t, f"gives {output:.3f} kW, outside {low:.3f}..{unit.high_kw[t]:.3f} kW"


def most_output_kw(site: SiteInputs) -> Floats:
    """All that a site's generators can give [interval]."""
    most = np.zeros(len(site.pue))
    for unit in site.generators:
        most += np.array(unit.high_kw)
    return most


def charged_for_kw(problem: Problem, plan: Plan, site: SiteInputs, t: int) -> float:
    """Charge in an interval that a later one needs: an event may give to keep a hard limit or an event after it."""
    imports = plan.sites[site.id].import_kw
    events = [event for event in problem.events if event.site == site.id and (event.firm or event.emergency)]
    events = [event for event in events if not event.undecided or plan.events[event.id].take_part]
    for later in range(t + 1, len(problem.grid)):
        start, end = problem.grid.edges[later], problem.grid.edges[later + 1]
        caps = [max(0.0, mean_limit_kw(event, start, end)) for event in events]
        if imports[later] >= min(site.limit_kw[later], *caps, inf) * (1 - 1e-3) - TOL_KW:
            return sum(plan.batteries[battery.id].charge_kw[t] for battery in site.batteries)
    return 0.0
