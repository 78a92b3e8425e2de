"""Batteries, engines and panels in the two loops: what they are now, what the plan asks, and what is set.

Nothing is counted twice: a meter at the grid's connection already shows all of them. Only where import is derived from
the pools' power are they added, and only a prediction adds what they are asked to do. A device that does not answer is
told of, is planned without until it does, and counts as giving nothing; its last set-point ends with its lease.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from math import sqrt

from adapters.ports import AdapterError, DeviceReading, Lease, SetpointDevice
from optimizer.domain import Plan
from optimizer.reasons import Note, Reason, Severity
from scheduler.devicemodels import DeviceState
from scheduler.engine import Context, SiteModel, State
from scheduler.orders import step_index
from scheduler.status import SupplyStatus

SET_KW = 0.05
"""A change of set-point that is worth writing, and a difference on read-back that is worth a word (or 1 %)."""

RENEWALS = 3
"""A set-point is written again when this part of its lease has passed."""


def names_of(site: SiteModel) -> list[str]:
    """Ids of a site's batteries and generators."""
    return [battery.id for battery in site.batteries] + [unit.id for unit in site.generators]


def read_devices(ctx: Context, state: State, now: datetime) -> tuple[Note, ...]:
    """Read every device; one that is silent is an alert."""
    notes = []
    for name, device in ctx.devices.items():
        known = state.devices.setdefault(name, DeviceState())
        try:
            known.reading = device.read()
        except AdapterError as error:
            known.reading = None
            text = f"{name} does not answer ({error}); planned without it, its set-point ends with its lease"
            notes.append(Note(Reason.DEVICE_LOST, name, text, Severity.ALERT, now))
    return tuple(notes)


def planned_kw(plan: Plan | None, name: str, now: datetime) -> float:
    """Net power in kW that the plan asks of a battery or generator now (positive: it draws)."""
    if plan is None:
        return 0.0
    step = step_index(plan, now)
    if name in plan.batteries:
        return plan.batteries[name].charge_kw[step] - plan.batteries[name].discharge_kw[step]
    return -plan.generators[name].output_kw[step] if name in plan.generators else 0.0


def asked_kw(ctx: Context, state: State, site: str, now: datetime) -> dict[str, float]:
    """Set-point of each device of a site as the plan has it; 0 for a silent one, and for all where none is written."""
    model = ctx.sites[site]
    names = [name for name in names_of(model) if name in ctx.devices]
    heard = {name for name in names if name in state.devices and state.devices[name].reading is not None}
    return {
        name: planned_kw(state.plan, name, now) if name in heard and ctx.dispatcher.writes else 0.0 for name in names
    }


def sun_kw(ctx: Context, state: State, site: str, now: datetime) -> float:
    """Must-take output that the plan counts on now."""
    units = [unit.id for unit in ctx.sites[site].generators if unit.output is not None]
    return -sum(planned_kw(state.plan, unit, now) for unit in units)


def measured_kw(ctx: Context, state: State, site: str, now: datetime) -> float:
    """What devices add to the site's import by their own readings, less the must-take output that is expected."""
    readings = [state.devices[name].reading for name in names_of(ctx.sites[site]) if name in state.devices]
    return sum(reading.kw for reading in readings if reading is not None) - sun_kw(ctx, state, site, now)


def relieve(ctx: Context, state: State, site: str, asked: dict[str, float], excess_kw: float) -> float:
    """Take `excess_kw` off the site's import by charging less and discharging more, before any work is slowed down;
    changes `asked` and returns what was found."""
    found = 0.0
    for battery in ctx.sites[site].batteries:
        known = state.devices.get(battery.id)
        if excess_kw - found <= 0 or known is None or known.reading is None or not ctx.dispatcher.writes:
            continue
        stored = known.reading.stored_kwh or 0.0
        lowest = -battery.discharge_kw if stored > battery.min_kwh + 1e-6 else 0.0
        step = min(excess_kw - found, max(0.0, asked[battery.id] - lowest))
        asked[battery.id] -= step
        found += step
    return found


def relief_kw(ctx: Context, state: State, site: str, lasts_s: float, engines: bool) -> float:
    """What batteries (and `engines`) could take off the site's import from now on for so long: up to their power, from
    what they draw or give now, and as far as the energy in them reaches. Nothing from a silent one, or where nothing
    may be written."""
    if not ctx.dispatcher.writes:
        return 0.0
    found = 0.0
    for battery in ctx.sites[site].batteries:
        reading = _reading(state, battery.id)
        if reading is not None:
            kwh = max(0.0, (reading.stored_kwh or 0.0) - battery.min_kwh) * sqrt(battery.efficiency)
            found += max(0.0, reading.kw + min(battery.discharge_kw, kwh / max(lasts_s / 3600.0, 1e-9)))
    for unit in ctx.sites[site].generators if engines else ():
        reading = _reading(state, unit.id)
        if unit.output is None and reading is not None:
            found += max(0.0, unit.max_kw + reading.kw)
    return found


def set_devices(ctx: Context, state: State, asked: Mapping[str, float], lease_s: float, now: datetime) -> list[Note]:
    """Write what changed or must be renewed, and read back. Where nothing may be written, what was set is released."""
    notes: list[Note] = []
    for name, device in ctx.devices.items():
        known = state.devices.setdefault(name, DeviceState())
        try:
            if not ctx.dispatcher.writes:
                if known.setpoint_kw is not None:
                    ctx.permit()
                    known.reading, known.setpoint_kw = device.release(), None
                continue
            if known.reading is not None:
                notes.extend(_set(ctx, known, name, device, asked.get(name, 0.0), lease_s, now))
        except AdapterError as error:
            known.reading = None
            text = f"{name} did not take its set-point: {error}"
            notes.append(Note(Reason.DEVICE_LOST, name, text, Severity.ALERT, now))
    return notes


def _set(
    ctx: Context, known: DeviceState, name: str, device: SetpointDevice, kw: float, lease_s: float, now: datetime
) -> list[Note]:
    """One device."""
    second = ctx.clock.monotonic()
    moved = known.setpoint_kw is None or abs(kw - known.setpoint_kw) > SET_KW
    assert known.reading is not None
    strayed = known.setpoint_kw is not None and _off(known.reading.setpoint_kw, known.setpoint_kw)
    if not moved and not strayed and second - known.written_at < lease_s / RENEWALS:
        return []
    if moved:
        intent = ctx.store.journal_intent({"device": name, "kw": round(kw, 3)})
    known.sequence += 1
    ctx.permit()
    known.reading = device.apply(kw, Lease(ctx.dispatcher.epoch, known.sequence, lease_s))
    known.setpoint_kw, known.written_at = kw, second
    if moved:
        ctx.store.journal_result(intent, {"kw": round(known.reading.setpoint_kw, 3)})
    off = _off(known.reading.setpoint_kw, kw)
    if not off and not strayed:
        return []
    text = f"{name} was not at the {kw:.1f} kW ordered (it says {known.reading.setpoint_kw:.1f} kW)"
    return [Note(Reason.SETPOINT_DRIFT, name, text, Severity.ALERT if off else Severity.WARNING, now)]


def _off(found_kw: float, ordered_kw: float) -> bool:
    return abs(found_kw - ordered_kw) > max(1.0, 0.01 * abs(ordered_kw))


def release_devices(ctx: Context, state: State, now: datetime) -> tuple[Note, ...]:
    """At the daemon's end: every device that we set goes to 0."""
    notes = []
    for name, device in ctx.devices.items():
        if state.devices.get(name, DeviceState()).setpoint_kw is None:
            continue
        try:
            ctx.permit()
            device.release()
            state.devices[name].setpoint_kw = None
        except AdapterError as error:
            text = f"{name} was not released: {error}; its lease ends it"
            notes.append(Note(Reason.DEVICE_LOST, name, text, Severity.ALERT, now))
    return tuple(notes)


def supply_statuses(ctx: Context, state: State, now: datetime) -> tuple[SupplyStatus, ...]:
    """Every battery and generator as people see it."""
    found = []
    for site in ctx.sites.values():
        for battery in site.batteries:
            reading = _reading(state, battery.id)
            stored = reading.stored_kwh if reading is not None else None
            share = stored / battery.energy_kwh if stored is not None else None
            found.append(_status(state, site.id, battery.id, "battery", now, (stored, share)))
        for unit in site.generators:
            kind = "must-take" if unit.output is not None else "engine"
            found.append(_status(state, site.id, unit.id, kind, now, (None, None)))
        for offer in site.reserves:
            kw = offered_kw(state.plan, offer.id, now)
            found.append(SupplyStatus(offer.id, site.id, "reserve", None, kw, None, None, lost=False))
    return tuple(found)


def offered_kw(plan: Plan | None, name: str, now: datetime) -> float:
    """Reserve in kW that the plan offers now."""
    if plan is None or name not in plan.reserves:
        return 0.0
    return plan.reserves[name].offered_kw[step_index(plan, now)]


def _reading(state: State, name: str) -> DeviceReading | None:
    return state.devices[name].reading if name in state.devices else None


def _status(
    state: State, site: str, name: str, kind: str, now: datetime, stored: tuple[float | None, float | None]
) -> SupplyStatus:
    reading = _reading(state, name)
    silent = reading is None and kind != "must-take"
    kw = reading.kw if reading is not None else None
    return SupplyStatus(name, site, kind, kw, planned_kw(state.plan, name, now), stored[0], stored[1], silent)
