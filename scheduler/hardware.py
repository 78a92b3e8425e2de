"""Power, meters and GPUs from the config: real ones where it names them, the simulated hall where it says so.

Why together: the hall is one object behind three ports, and with real GPUs the pools are filled with what answers.
There is no way from a real adapter to a simulated one; what can't be reached is an error or an alert.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from adapters.context import AdapterContext
from adapters.hall import SimulatedHall
from adapters.hall_state import MAX_MHZ, MIN_MHZ, HallFaults, HallPhysics
from adapters.ports import (
    AdapterError,
    CardMeter,
    Clock,
    GpuId,
    GpuInfo,
    Meter,
    ParkingHook,
    PowerActuator,
    Reading,
    SetpointDevice,
)
from optimizer.domain import GpuPool, Series, Work
from optimizer.reasons import Note, Reason, Severity
from scheduler.cards import bounded, card_notes, clock_ranges
from scheduler.collect import Source
from scheduler.config import Config, PoolConfig, curves_of
from scheduler.config.builtin import (
    AgentPowerConfig,
    FleetPowerConfig,
    NvmlPowerConfig,
    SimulatedPowerConfig,
)
from scheduler.devices import real_devices, real_parking, simulated_devices, simulated_parking
from scheduler.engine import SiteModel
from scheduler.inventory import absent, keep, remembered
from scheduler.pools import PoolModel

if TYPE_CHECKING:
    from adapters.power.fleet import FleetPower

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Hardware:
    """What reaches GPUs: actuator, meter, GPUs by pool, the pools as found, the hall where it is simulated."""

    power: PowerActuator
    meter: Meter
    gpus: Mapping[str, tuple[GpuId, ...]]
    pools: Mapping[str, PoolModel]
    hall: SimulatedHall | None = None
    notes: tuple[Note, ...] = ()
    clocks: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Range in MHz of the SM clocks of pools that may be moved by them."""
    close: Callable[[], None] = field(default=lambda: None)
    devices: Mapping[str, SetpointDevice] = field(default_factory=dict)
    parking: Mapping[str, ParkingHook] = field(default_factory=dict)


def build_hardware(
    config: Config,
    context: AdapterContext,
    pools: Mapping[str, PoolModel],
    sites: Mapping[str, SiteModel],
    sources: Mapping[str, Source],
) -> Hardware:
    """Hardware as the config names it. Raises AdapterError when none of it answers."""
    kind = getattr(config.power, "type", "")
    if kind == "simulated":
        return _simulated(config, context.clock, pools, sites, sources)
    with ExitStack() as opened:
        power = _actuator(config, context)
        opened.callback(getattr(power, "close", lambda: None))
        found, known = power.discover(), remembered(context.records)
        gpus, filled, notes = fill_pools(config.pools, pools, found, context.clock.now(), known)
        found = {**{gpu: card for cards in known.values() for gpu, card in cards.items()}, **found}
        keep(context.records, gpus, found)
        meter, close = _meter(config, context, gpus, power)
        opened.callback(close)
        devices, parking = real_devices(config, context, opened), real_parking(config, context, opened)
        clocks, more = clock_ranges(config.pools, gpus, found, power, context.clock.now())
        closing = opened.pop_all().close
        return Hardware(power, meter, gpus, filled, None, notes + more, clocks, closing, devices, parking)


def _actuator(config: Config, context: AdapterContext) -> PowerActuator:
    entry = config.power
    if isinstance(entry, NvmlPowerConfig):
        from adapters.power.nvml import NvmlPower  # only a site that names it needs the library

        return NvmlPower(entry.call_timeout.total_seconds())
    if isinstance(entry, AgentPowerConfig):
        from adapters.power.agent import AgentPower

        return AgentPower(context.path(entry.socket))
    if isinstance(entry, FleetPowerConfig):
        return fleet_power(entry, context)
    from adapters.registry import create

    made: PowerActuator = create("power", entry, context)
    return made


def fleet_power(entry: FleetPowerConfig, context: AdapterContext) -> FleetPower:
    """The nodes of a fleet, as the config names its bus."""
    from adapters.bus_settings import BusSettings
    from adapters.power.fleet import FleetPower

    seed, ca = (context.path(name) if name is not None else None for name in (entry.seed, entry.ca))
    settings = BusSettings(entry.servers, "daemon", seed, ca)
    return FleetPower(settings, entry.deadline.total_seconds(), entry.nodes, entry.replicas)


def _meter(
    config: Config, context: AdapterContext, gpus: Mapping[str, tuple[GpuId, ...]], power: PowerActuator
) -> tuple[Meter, Callable[[], None]]:
    """The configured meters as one."""
    pool_of = {gpu: pool for pool, ids in gpus.items() for gpu in ids}
    context = replace(context, extras={**context.extras, "pool_of": pool_of})
    made: list[Meter] = []
    closers: list[Callable[[], None]] = []
    for entry in config.meters:
        if getattr(entry, "type", "") in {"nvml", "gpus"}:
            made.append(_gpu_meter(config, context, pool_of, power))
        else:
            from adapters.registry import create

            made.append(create("meters", entry, context))
        closers.append(getattr(made[-1], "close", lambda: None))
    return (made[0] if len(made) == 1 else Meters(tuple(made))), lambda: close_all(closers)


def close_all(closers: list[Callable[[], None]]) -> None:
    """Close what was opened, in the reverse order."""
    for close in reversed(closers):
        close()


def _gpu_meter(config: Config, context: AdapterContext, pool_of: Mapping[GpuId, str], power: PowerActuator) -> Meter:
    """The GPUs' own sensors: NVML's where it sets the limits here, else what `power` tells of its cards."""
    if isinstance(config.power, FleetPowerConfig):
        from adapters.meters.fleet import FleetMeter
        from adapters.power.fleet import FleetPower

        assert isinstance(power, FleetPower)
        return FleetMeter(power.states, context.clock, pool_of, power.silent)
    if isinstance(config.power, NvmlPowerConfig):
        from adapters.meters.nvml import NvmlMeter

        return NvmlMeter(context.clock, pool_of)
    from adapters.meters.agent import AgentMeter

    return AgentMeter(power, context.clock, pool_of)


@dataclass(frozen=True)
class Meters:
    """Several meters read as one: a later one's value wins for the same pool or site."""

    parts: tuple[Meter, ...]

    def read(self) -> Reading:
        """Merge what answers. Raises AdapterError only when no meter could be read."""
        readings, errors = [], []
        for part in self.parts:
            try:
                readings.append(part.read())
            except AdapterError as error:
                errors.append(str(error))
        if not readings:
            raise AdapterError("; ".join(errors))
        merged = readings[0]
        for reading in readings[1:]:
            merged = Reading(
                at=max(merged.at, reading.at),
                pool_kw={**merged.pool_kw, **reading.pool_kw},
                import_kw={**merged.import_kw, **reading.import_kw},
                energy_kwh={**merged.energy_kwh, **reading.energy_kwh},
                lost=merged.lost + reading.lost,
                busy_gpus={**merged.busy_gpus, **reading.busy_gpus},
                work_gpus={**merged.work_gpus, **reading.work_gpus},
                taken=_kept(merged.taken, reading.pool_kw) | dict(reading.taken),
                import_taken=_kept(merged.import_taken, reading.import_kw) | dict(reading.import_taken),
            )
        return replace(merged, lost=merged.lost + tuple(errors))

    def cards(self) -> Mapping[GpuId, float]:
        """What each card draws, as far as one of them knows."""
        return {gpu: w for part in self.parts if isinstance(part, CardMeter) for gpu, w in part.cards().items()}


def _kept(
    spans: Mapping[str, tuple[datetime, datetime]], replaced: Mapping[str, float]
) -> dict[str, tuple[datetime, datetime]]:
    """When the values were taken that a later reading has nothing in place of."""
    return {name: span for name, span in spans.items() if name not in replaced}


def parts_of(meter: Meter) -> tuple[Meter, ...]:
    """The configured meters behind one, in their order."""
    return meter.parts if isinstance(meter, Meters) else (meter,)


def fill_pools(
    configs: tuple[PoolConfig, ...],
    pools: Mapping[str, PoolModel],
    found: Mapping[GpuId, GpuInfo],
    now: datetime,
    known: Mapping[str, Mapping[GpuId, GpuInfo]] | None = None,
) -> tuple[dict[str, tuple[GpuId, ...]], dict[str, PoolModel], tuple[Note, ...]]:
    """Real GPUs by pool, pools with the count and the cap range that were found, and notes where that differs. Cards
    that are `known` from before and don't answer now keep their place, as far as the config counts on them.

    Raises AdapterError for a pool without any GPU, or a GPU that two pools claim.
    """
    gpus: dict[str, tuple[GpuId, ...]] = {}
    filled: dict[str, PoolModel] = {}
    notes: list[Note] = []
    for index, config in enumerate(configs):
        here = {gpu: info for gpu, info in found.items() if _selected(config, gpu, info)}
        away = absent(config, len(here), (known or {}).get(config.id, {}), found)
        mine = {**here, **{gpu: info for gpu, info in away.items() if _selected(config, gpu, info)}}
        if not mine:
            raise AdapterError(f"pools[{index}] ({config.id}): none of the {len(found)} GPUs found belongs to it")
        claimed = {gpu: pool for pool, ids in gpus.items() for gpu in ids}
        if both := [gpu for gpu in mine if gpu in claimed]:
            raise AdapterError(f"pools[{index}] ({config.id}): {both[0]} belongs to pool {claimed[both[0]]} already")
        if len(here) != config.count:
            text = f"{config.id}: {len(here)} GPUs answer, the config says {config.count}; planned with {len(mine)}"
            text += f", {len(mine) - len(here)} of them away" if len(mine) > len(here) else ""
            notes.append(Note(Reason.GPU_LOST, config.id, text, Severity.ALERT, now))
        gpus[config.id] = tuple(mine)
        filled[config.id] = replace(pools[config.id], pool=bounded(pools[config.id].pool, list(mine.values())))
        notes += card_notes(config.id, list(here.values()), now) if here else []
    return gpus, filled, tuple(notes)


def _selected(config: PoolConfig, gpu: GpuId, info: GpuInfo) -> bool:
    chosen = config.gpus
    if chosen is None or chosen.all:
        return True
    if chosen.uuids:
        return any(gpu.startswith(uuid) for uuid in chosen.uuids)
    return fnmatchcase(info.model, chosen.model or "")


# ---------------------------------------------------------------- the simulated hall
def _simulated(
    config: Config,
    clock: Clock,
    pools: Mapping[str, PoolModel],
    sites: Mapping[str, SiteModel],
    sources: Mapping[str, Source],
) -> Hardware:
    from adapters.meters.simulated import SimulatedMeter
    from adapters.power.simulated import SimulatedPower

    hall = SimulatedHall(
        [_true_pool(config, model.pool) for model in pools.values()],
        clock,
        load={m.pool.id: _load(config, m, sources) for m in pools.values()},
        pue={site.id: _pue(site, sources) for site in sites.values()},
        other_it_kw={site.id: _always(site.other_it_kw) for site in sites.values()},
        physics=_physics(config),
        faults=_faults(config),
    )
    devices = simulated_devices(config, clock, sites, lambda name: Recorded(sources[name], 0.0).at, hall)
    note = hall.describe()
    clocks = {pool.id: (MIN_MHZ, MAX_MHZ) for pool in config.pools if pool.lock_clocks}
    power, meter, parking = SimulatedPower(hall), SimulatedMeter(hall), simulated_parking(config, hall)
    gpus = hall.gpus_of
    return Hardware(power, meter, gpus, pools, hall, (note,), clocks, devices=devices, parking=parking)


def _true_pool(config: Config, pool: GpuPool) -> GpuPool:
    """The pool as its simulated GPUs really are."""
    name = getattr(config.power, "true_curves", {}).get(pool.id)
    if name is None:
        return pool
    return replace(pool, curve=replace(curves_of(config)[name], idle_w=pool.curve.idle_w))


def _faults(config: Config) -> HallFaults:
    """What goes wrong in the simulated hall, meters included."""
    if not isinstance(config.power, SimulatedPowerConfig):
        return HallFaults()
    entry = config.power
    return HallFaults(
        seed=entry.seed,
        telemetry_loss=entry.telemetry_loss,
        gpu_loss_per_h=entry.gpu_losses_per_h,
        cap_reset_per_h=entry.cap_resets_per_h,
        cap_refusal=entry.cap_refusals,
        pool_noise=entry.noise,
        outliers=entry.outliers,
    )


def _always(value: float) -> Callable[[datetime], float]:
    return lambda _moment: value


def _physics(config: Config) -> HallPhysics:
    """How fast simulated power follows its orders, and how closely loads are looked at."""
    if not isinstance(config.power, SimulatedPowerConfig):
        return HallPhysics()
    entry = config.power
    down_s, up_s = entry.settle_down.total_seconds(), entry.settle_up.total_seconds()
    sensor_s = entry.sensor_mean.total_seconds()
    restless = entry.load_noise > 0 or entry.load_bursts > 0
    sample_s = 1.0 if restless else HallPhysics().sample_s
    return HallPhysics(down_s, up_s, sample_s, entry.cooling_settle.total_seconds(), sensor_s)


def _load(config: Config, model: PoolModel, sources: Mapping[str, Source]) -> Callable[[datetime], float]:
    """A pool's load as it really is: as declared, with its bursts and its flicker."""
    load = _always(model.load) if isinstance(model.load, float) else Recorded(sources[model.load], 1.0).at
    entry = config.power
    if not isinstance(entry, SimulatedPowerConfig):
        return load
    from adapters.hall_noise import Bursts, Flicker

    if entry.load_bursts and model.pool.work is Work.INTERACTIVE:
        load = Bursts(load, entry.load_bursts, entry.seed, model.pool.id)
    return Flicker(load, entry.load_noise, entry.seed, model.pool.id) if entry.load_noise else load


def _pue(site: SiteModel, sources: Mapping[str, Source]) -> Callable[[datetime], float]:
    if site.weather is None:
        return _always(site.pue.at(None))
    weather = Recorded(sources[site.weather], None)
    return lambda moment: site.pue.at(weather.at(moment))


class Recorded:
    """What a signal really was, as the simulated world needs it: published or not, read a day at a time."""

    def __init__(self, source: Source, missing: float | None) -> None:
        self._source, self._missing = source, missing
        self._day: datetime | None = None
        self._series: Series | None = None

    def at(self, moment: datetime) -> float:
        """The signal's value at `moment`; in a gap the value that stands for missing."""
        day = moment.replace(hour=0, minute=0, second=0, microsecond=0)
        if day != self._day:
            self._series = self._source.reader.read(day - DAY, day + 2 * DAY, day + 30 * DAY)
            self._day = day
        value = self._series.at(moment) if self._series is not None else None
        return value if value is not None else self._missing  # type: ignore[return-value]
