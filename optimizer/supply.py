"""Batteries and generators on the grid, before anything is decided; and what they do where no solver decides.

Why at the meter: a battery and a roof full of panels feed the site's bus. import = PUE * IT + charge - discharge -
output. A meter at the grid's connection shows all of it already, so nothing of this is ever added to a measurement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from optimizer.assets import Battery, BatteryPlan, Generator, GeneratorPlan, ReservePlan

if TYPE_CHECKING:
    from optimizer.facts import Facts

Floats = NDArray[np.float64]
LEAST_WEAR = 1e-6
"""Money per kWh that moving energy or spilling costs at least: between equals nothing is moved and nothing spilled."""


@dataclass(frozen=True, eq=False)
class Supply:
    """Batteries and generators of all sites with their site's number. `low_kw`, `high_kw` and `spill_per_kwh` are
    [generator, interval]; `spill_per_kwh` is what must-take energy would earn as import, so that a negative price never
    pays for spilling."""

    batteries: tuple[tuple[int, Battery], ...]
    generators: tuple[tuple[int, Generator], ...]
    low_kw: Floats
    high_kw: Floats
    spill_per_kwh: Floats
    must_take_kw: Floats
    """Must-take generation [site, interval]."""
    most_output_kw: Floats
    """All that generators can give [site, interval]."""

    def wear(self, number: int) -> float:
        """Money per kWh that a battery discharges."""
        return self.batteries[number][1].wear_per_kwh + LEAST_WEAR

    def bounds(self, number: int) -> tuple[float, float]:
        """Least and most kWh stored: the battery's own, widened to what is in it now."""
        battery = self.batteries[number][1]
        return min(battery.min_kwh, battery.stored_now_kwh), max(battery.max_kwh, battery.stored_now_kwh)

    def share_of_full(self, number: int, output_kw: Floats) -> Floats:
        """Output of a generator as a share of the most that it can give [interval]; 0 where it can give nothing."""
        high = self.high_kw[number]
        share: Floats = np.divide(output_kw, high, out=np.zeros_like(high), where=high > 0)
        return share

    def share_now(self, number: int) -> float:
        """The same for what it gives now."""
        high = float(self.high_kw[number].max(initial=0.0))
        return min(1.0, max(0.0, self.generators[number][1].output_now_kw) / high) if high > 0 else 0.0

    def started(self, number: int, output_kw: Floats) -> float:
        """How often a generator starts, a part of full output as a part of a start; must-take ones never do."""
        if self.generators[number][1].must_take:
            return 0.0
        share = self.share_of_full(number, output_kw)
        return float(np.clip(np.diff(share, prepend=self.share_now(number)), 0.0, None).sum())

    def dearest_start_per_kwh(self, site: int, shortest_h: float) -> float:
        """Most money that starting a generator of a site costs for each kWh of the shortest interval."""
        costs = [
            unit.start_cost / (float(self.high_kw[n].max()) * shortest_h)
            for n, (s, unit) in enumerate(self.generators)
            if s == site and unit.start_cost > 0 and self.high_kw[n].max(initial=0.0) > 0
        ]
        return max(costs, default=0.0)

    def dearest_per_kwh(self, site: int) -> float:
        """Most money that a kWh from a battery or a generator of a site costs."""
        costs = [unit.cost_per_mwh / 1000.0 for s, unit in self.generators if s == site]
        costs += [
            (self.wear(n) + max(0.0, battery.end_value_per_kwh)) / battery.discharge_efficiency
            for n, (s, battery) in enumerate(self.batteries)
            if s == site
        ]
        return max(costs, default=0.0)


def supply_of(facts: Facts) -> Supply:
    """The supply of a valid problem. A unit that may not export is throttled below its minimum where the site takes
    less than that."""
    sites = facts.problem.sites
    units = tuple((s, unit) for s, site in enumerate(sites) for unit in site.generators)
    shape = (len(units), facts.count)
    high = np.array([unit.high_kw for _, unit in units]).reshape(shape)
    low = np.array([[0.0] * facts.count if unit.must_take else unit.low_kw for _, unit in units]).reshape(shape)
    must, most = np.zeros(facts.pue.shape), np.zeros(facts.pue.shape)
    floor, spill = np.zeros(facts.pue.shape), np.zeros(shape)
    for number, (s, unit) in enumerate(units):
        most[s] += high[number]
        if unit.must_take:
            must[s] += high[number]
            spill[number] = np.clip(-facts.cost_per_kwh[s], 0.0, None) + LEAST_WEAR
        elif not unit.may_export:
            floor[s] += low[number]
    taken = facts.other_kw.copy()
    for pool in facts.pools:
        taken[pool.site] += pool.base_kw
    for number, (s, unit) in enumerate(units):
        if not unit.must_take and not unit.may_export:
            low[number] *= np.minimum(1.0, taken[s] * facts.pue[s] / np.maximum(floor[s], 1e-9))
    batteries = tuple((s, battery) for s, site in enumerate(sites) for battery in site.batteries)
    return Supply(batteries, units, low, high, spill, must, most)


@dataclass(frozen=True)
class Drawn:
    """What batteries and generators do: means in kW, [battery, interval] and [generator, interval]."""

    charge_kw: Floats
    discharge_kw: Floats
    output_kw: Floats
    offered_kw: Floats | None = None
    """Reserve [offer, interval]; None: none is offered."""

    def net_kw(self, facts: Facts) -> Floats:
        """What they add to the import [site, interval]."""
        net = np.zeros(facts.pue.shape)
        for number, (s, _) in enumerate(facts.supply.batteries):
            net[s] += self.charge_kw[number] - self.discharge_kw[number]
        for number, (s, _) in enumerate(facts.supply.generators):
            net[s] -= self.output_kw[number]
        return net


def without_solver(facts: Facts, consumption_kw: Floats) -> Drawn:
    """By rule, for plans that no solver made: must-take output is taken as far as it is used or may leave; dispatched
    units and then batteries give only what a hard limit or a firm event still lacks; nothing is charged."""
    supply, lacking = facts.supply, consumption_kw.copy()
    order = sorted(range(len(supply.generators)), key=lambda n: not supply.generators[n][1].must_take)
    output = supply.low_kw.copy()
    for number in order:
        s, unit = supply.generators[number]
        if not unit.must_take:
            lacking[s] -= output[number]
    for number in order:
        s, unit = supply.generators[number]
        if unit.must_take:
            free = supply.high_kw[number] if unit.may_export else np.clip(lacking[s], 0.0, None)
            output[number] = np.minimum(supply.high_kw[number], free)
            lacking[s] -= output[number]
        else:
            missing = np.clip(lacking[s] - np.maximum(0.0, facts.firm_cap_kw[s]), 0.0, None)
            more = np.minimum(supply.high_kw[number] - output[number], missing)
            output[number] += more
            lacking[s] -= more
    discharge = np.zeros((len(supply.batteries), facts.count))
    for number, (s, battery) in enumerate(supply.batteries):
        room = max(0.0, battery.stored_now_kwh - supply.bounds(number)[0]) * battery.discharge_efficiency
        for t in np.flatnonzero(lacking[s] > np.maximum(0.0, facts.firm_cap_kw[s]) + 1e-9).tolist():
            missing_kw = float(lacking[s, t] - max(0.0, facts.firm_cap_kw[s, t]))
            discharge[number, t] = min(missing_kw, battery.discharge_kw, room / float(facts.hours[t]))
            room -= discharge[number, t] * float(facts.hours[t])
            lacking[s, t] -= discharge[number, t]
    return Drawn(np.zeros_like(discharge), discharge, output)


def stored_kwh(facts: Facts, number: int, charge_kw: Floats, discharge_kw: Floats) -> Floats:
    """kWh in a battery at each interval's end: now + sum of hours * (efficiency * charge - discharge / efficiency)."""
    _, battery = facts.supply.batteries[number]
    flow = battery.charge_efficiency * charge_kw - discharge_kw / battery.discharge_efficiency
    stored: Floats = battery.stored_now_kwh + np.cumsum(flow * facts.hours)
    return stored


def battery_plans(facts: Facts, drawn: Drawn) -> dict[str, BatteryPlan]:
    """Plans of all batteries by id."""
    plans = {}
    for number, (s, battery) in enumerate(facts.supply.batteries):
        charge, discharge = drawn.charge_kw[number], drawn.discharge_kw[number]
        stored = stored_kwh(facts, number, charge, discharge)
        rows = (tuple(row.tolist()) for row in (charge, discharge, stored))
        plans[battery.id] = BatteryPlan(facts.problem.sites[s].id, *rows)
    return plans


def generator_plans(facts: Facts, drawn: Drawn) -> dict[str, GeneratorPlan]:
    """Plans of all generators by id."""
    plans = {}
    for number, (s, unit) in enumerate(facts.supply.generators):
        output = drawn.output_kw[number]
        spilled = np.clip(facts.supply.high_kw[number] - output, 0.0, None) if unit.must_take else np.zeros_like(output)
        plans[unit.id] = GeneratorPlan(facts.problem.sites[s].id, tuple(output.tolist()), tuple(spilled.tolist()))
    return plans


def reserve_plans(facts: Facts, drawn: Drawn) -> dict[str, ReservePlan]:
    """Plans of all reserve offers by id."""
    offers = [(site.id, offer.id) for site in facts.problem.sites for offer in site.reserves]
    rows = np.zeros((len(offers), facts.count)) if drawn.offered_kw is None else drawn.offered_kw
    return {name: ReservePlan(site, tuple(rows[n].tolist())) for n, (site, name) in enumerate(offers)}
