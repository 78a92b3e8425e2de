"""Batteries, engines and panels from the config: twins at a simulated hall's meters, real ones by their adapters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import datetime

from adapters.context import AdapterContext
from adapters.hall import SimulatedHall
from adapters.ports import Clock, ParkingHook, SetpointDevice
from scheduler.config import Config
from scheduler.engine import SiteModel

Output = Callable[[str], Callable[[datetime], float]]
"""Signal -> what it really was at any moment."""


def simulated_devices(
    config: Config, clock: Clock, sites: Mapping[str, SiteModel], output: Output, hall: SimulatedHall
) -> dict[str, SetpointDevice]:
    """Twins of the batteries and engines that the config calls simulated, and the panels, at the hall's meters: engines
    first, then batteries, and the sun takes what is left."""
    from adapters.devices.simulated import DeviceSpec, SimulatedDevice, SimulatedPanels

    made: dict[str, SetpointDevice] = {}
    panels = []
    for entry in config.sites:
        model = sites[entry.id]
        for unit, shape in zip(entry.generators, model.generators, strict=True):
            if unit.output is not None:
                panels.append(SimulatedPanels(entry.id, output(unit.output), unit.may_export))
            else:
                spec = DeviceSpec(entry.id, give_kw=shape.max_kw, may_export=unit.may_export)
                made[unit.id] = SimulatedDevice(spec, clock)
        for battery, store in zip(entry.batteries, model.batteries, strict=True):
            one_way, share = battery.efficiency**0.5, float(getattr(battery.device, "stored_share", 0.5))
            spec = DeviceSpec(
                entry.id, store.charge_kw, store.discharge_kw, store.min_kwh, store.max_kwh, one_way, one_way,
                store.may_export,
            )  # fmt: skip
            made[battery.id] = SimulatedDevice(spec, clock, share * battery.energy_kwh)
    for device in made.values():
        assert isinstance(device, SimulatedDevice)
        device.refresh = hall.advance
        hall.beside.append(device)
    hall.beside.extend(panels)
    return made


def real_devices(config: Config, context: AdapterContext, opened: ExitStack) -> dict[str, SetpointDevice]:
    """Batteries and engines as the config names them (the check of the config refuses twins of them here)."""
    from adapters.registry import create

    made: dict[str, SetpointDevice] = {}
    for site in config.sites:
        entries = {item.id: item.device for item in site.batteries}
        entries |= {unit.id: unit.device for unit in site.generators if unit.device is not None}
        for name, entry in entries.items():
            made[name] = create("devices", entry, context)
            opened.callback(getattr(made[name], "close", lambda: None))
    return made


def simulated_parking(config: Config, hall: SimulatedHall) -> dict[str, ParkingHook]:
    """Twins of the hooks that park GPUs, by pool."""
    from adapters.parking.simulated import SimulatedParking

    return {pool.id: SimulatedParking(hall, pool.id) for pool in config.pools if pool.parking is not None}


def real_parking(config: Config, context: AdapterContext, opened: ExitStack) -> dict[str, ParkingHook]:
    """The hooks that park GPUs, by pool, as the config names them."""
    from adapters.registry import create

    made: dict[str, ParkingHook] = {}
    for pool in config.pools:
        if pool.parking is not None:
            made[pool.id] = create("parking", pool.parking.hook, context)
            opened.callback(made[pool.id].close)
    return made
