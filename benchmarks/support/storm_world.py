"""The world of a storm: the daemon as its wiring builds it, over a fleet of real agents on one simulated hall.

A killed daemon is dropped with all its memory and built again from the same books; whoever decides anything is the
product's own code. The clock moves a second at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np

from adapters.context import AdapterContext
from adapters.hall import SimulatedHall
from adapters.hall_noise import Flicker
from adapters.hall_state import HallPhysics, Signal
from adapters.jobs.queue import JobQueue
from adapters.meters.fleet import FleetMeter
from adapters.ports import AdapterError, EventMessage, GpuId, Reading
from adapters.power.fleet import FleetPower
from benchmarks.support.storm_bus import LocalBus, Wires
from benchmarks.support.storm_nodes import HallView, Node
from benchmarks.support.storm_script import START, Script
from optimizer.domain import GridEvent
from scheduler.building import pool_models
from scheduler.clock import VirtualClock
from scheduler.collect import Source
from scheduler.config import Config, load_config
from scheduler.control import run_tick
from scheduler.cycle import expire_notes, run_cycle
from scheduler.engine import SiteModel
from scheduler.hardware import Hardware, Meters, fill_pools
from scheduler.inventory import keep, remembered
from scheduler.planner import InlinePlanner
from scheduler.pools import PoolModel
from scheduler.service import OperatorOrder, Refused
from scheduler.status import Tick
from scheduler.store.store import Store
from scheduler.takeover import reconcile
from scheduler.timing import next_boundary
from scheduler.wiring import Parts, build, let_hall_work

GPUS_A_NODE = 8
PATIENCE_S = 0.001
"""Real seconds that a silent node is waited for: nothing on this bus takes any."""

CONFIG = """
mode: control
currency: USD
interval: 5m
horizon: 1h
state_dir: state
sites:
  - {id: lab, timezone: Etc/UTC, price: energy, limit_kw: 25, pue: {base: 1.2}, other_it_kw: 1,
     ramp_kw_per_min: {up: 8, down: 40}}
pools:
  - {id: chat, site: lab, gpu_model: chat, count: 24, work: interactive, curve: A100-400W/infer_llama_8b,
     value_per_gpu_h: 5, floor: 0.9, load: 0.95, tokens_per_gpu_h: 3.0e+6, gpus: {model: "chat*"}}
  - {id: train, site: lab, gpu_model: train, count: 16, work: training, curve: A100-400W/pt_mpt_7b_fast,
     value_per_gpu_h: 0.8, floor: 0.6, gpus: {model: "train*"}}
  - {id: tune, site: lab, gpu_model: tune, count: 16, work: batch, curve: A100-400W/ft_llama_8b_dolly,
     gpus: {model: "tune*"}}
signals:
  - {id: energy, type: constant, unit: USD/MWh, value: 60}
programs:
  - {id: grid, site: lab, channel: {type: webhook, secret: "file:secret"}}
  - {id: emergency, site: lab, channel: {type: webhook, secret: "file:secret"}, emergency_below_floor: true}
power: {type: fleet, servers: ["nats://storm:4222"], lease: 30s}
meters: [{type: nvml}]
jobs:
  initial:
    - {id: soft, pool: tune, work_gpu_h: 4, max_gpus: 8, deadline: "2025-05-03T22:30:00Z", value_per_gpu_h: 1}
    - {id: fixed, pool: tune, work_gpu_h: 6, max_gpus: 6, deadline: "2025-05-03T23:00:00Z", value_per_gpu_h: 2,
       preemptible: false}
"""
LOADS = {"chat": 0.95, "train": 1.0}
MINUTE = timedelta(minutes=1)


class NearFleet(FleetPower):
    """A fleet on a bus that takes no time."""

    hello_s = PATIENCE_S


class SiteMeter:
    """The meter at the site's connection."""

    def __init__(self, hall: SimulatedHall) -> None:
        self._hall = hall

    def read(self) -> Reading:
        """Import of the site now."""
        reading = self._hall.reading()
        return Reading(reading.at, {}, reading.import_kw, {})


class LostPart:
    """A meter that a fault can silence."""

    def __init__(self, meter: FleetMeter | SiteMeter, name: str, lost: set[str]) -> None:
        self._meter, self._name, self._lost = meter, name, lost

    def read(self) -> Reading:
        """What the meter says. AdapterError while it is silent."""
        if self._name in self._lost:
            raise AdapterError(f"{self._name}: no answer")
        reading = self._meter.read()
        kept = {pool: kw for pool, kw in reading.pool_kw.items() if pool not in self._lost}
        return replace(reading, pool_kw=kept, lost=(*reading.lost, *(reading.pool_kw.keys() - kept.keys())))


class World:
    """Everything of one case; `parts` is the running daemon, None while it is down."""

    def __init__(self, folder: Path, script: Script) -> None:
        (folder / "secret").write_text("a secret of a storm", encoding="utf-8")
        (folder / "gridpace.yaml").write_text(CONFIG, encoding="utf-8")
        self.config = load_config(folder / "gridpace.yaml")
        self._books = folder / "books.sqlite"
        self.script, self.models = script, pool_models(self.config)
        self.operator_kw: float | None = None
        self._events: tuple[GridEvent, ...] = ()
        self._kept: dict[str, int] = {}
        self.clock = VirtualClock(START)
        self.wires = Wires()
        self.hall = self._hall(script)
        self.view = HallView(self.hall)
        self.nodes = self._nodes(script)
        self.lost: set[str] = set()
        self.parts: Parts | None = None
        self.tick: Tick | None = None
        self._queue: JobQueue | None = None
        self._woken: list[bool] = []
        self._due = START
        self.begin()

    def _hall(self, script: Script) -> SimulatedHall:
        pools = [model.pool for model in self.models.values()]
        load: dict[str, Signal] = {name: _always(share) for name, share in LOADS.items()}
        if script.load_noise:
            load = {name: Flicker(share, script.load_noise, script.seed, name) for name, share in load.items()}
        site = self.config.sites[0]
        physics = HallPhysics(sample_s=1.0 if script.load_noise else 60.0, cooling_s=float(script.cooling_s))
        pue, other = {site.id: _always(site.pue.base)}, {site.id: _always(site.other_it_kw)}
        return SimulatedHall(pools, self.clock, load, pue, other, physics)

    def _nodes(self, script: Script) -> list[Node]:
        gpus = [gpu for ids in self.hall.gpus_of.values() for gpu in ids]
        if script.odd_limits:  # somebody had lowered some before
            rng = np.random.default_rng([script.seed, script.case, 1])
            self.hall.set_limits({gpu: float(rng.integers(330, 400)) for gpu in gpus if rng.random() < 0.2})
        parts = [gpus[begin : begin + GPUS_A_NODE] for begin in range(0, len(gpus), GPUS_A_NODE)]
        return [Node(f"n{number}", self.view, part, self.wires, self.clock) for number, part in enumerate(parts)]

    # ------------------------------------------------------------ the daemon
    def begin(self) -> None:
        """A daemon's process begins, over the books of the one before."""
        store = Store.open(self._books, self.clock.now)
        self.parts = build(self.config, self.clock, store, InlinePlanner(), {}, self._hardware)
        parts = self.parts
        assert isinstance(parts.ctx.jobs, JobQueue)
        let_hall_work(self.hall, parts.ctx.jobs, parts.state)
        parts.wake.listeners.append(lambda: self._woken.append(True))
        reconcile(parts)
        self._due = self.clock.now()

    def _hardware(
        self,
        config: Config,
        context: AdapterContext,
        pools: Mapping[str, PoolModel],
        _sites: Mapping[str, SiteModel],
        _sources: Mapping[str, Source],
    ) -> Hardware:
        """The fleet as `build_hardware` finds it, with a meter at the site beside the cards' own."""
        bus = LocalBus(self.wires, "daemon")
        names = tuple(node.name for node in self.nodes)
        wall = self.clock.now
        power = NearFleet(
            bus.settings, PATIENCE_S, names, 1, self.clock.monotonic, lambda: wall().timestamp(), bus  # type: ignore[arg-type]
        )  # fmt: skip
        self.wires.run(power.listen(bus.client))  # type: ignore[arg-type]
        found, known = power.discover(), remembered(context.records)
        gpus, filled, notes = fill_pools(config.pools, pools, found, context.clock.now(), known)
        keep(context.records, gpus, {**{gpu: card for cards in known.values() for gpu, card in cards.items()}, **found})
        pool_of = {gpu: pool for pool, ids in gpus.items() for gpu in ids}
        cards = FleetMeter(power.states, context.clock, pool_of, power.silent)
        meter = Meters((LostPart(cards, "cards", self.lost), LostPart(SiteMeter(self.hall), "site", self.lost)))
        return Hardware(power, meter, gpus, filled, None, notes, {}, power.close)

    def kill(self) -> None:
        """The daemon's process ends; nothing of its memory is left."""
        if self.parts is not None:
            self.parts.close()
            self.parts = None

    def stop(self) -> None:
        """The daemon ends in order: every limit is given back."""
        if self.parts is not None:
            self.parts.ctx.dispatcher.writes = False
            self.parts.ctx.dispatcher.release(self.clock.now())
            self.kill()

    # ------------------------------------------------------------ what reaches the daemon
    def tell(self, message: EventMessage) -> str | None:
        """A message of the utility; how it was answered, None when nobody did: then it will be sent again."""
        if self.parts is None:
            return None
        try:
            return self.parts.facade.accept(message).opt
        except Refused as error:
            return None if error.status == 503 else "refused"

    def operator_limit(self, kw: float | None) -> bool:
        """The operator's own limit; False when nobody heard it."""
        if self.parts is None:
            return False
        self.parts.facade.order(OperatorOrder("limit", site="lab", limit_kw=kw, by="storm"))
        self.operator_kw = kw
        return True

    # ------------------------------------------------------------ what the judge asks
    @property
    def at_s(self) -> int:
        """Seconds since the start."""
        return round((self.clock.now() - START).total_seconds())

    def events(self) -> tuple[GridEvent, ...]:
        """What is in the books; while the daemon is down, what was there before."""
        if self.parts is not None:
            self._events = self.parts.ctx.ledger.active(self.clock.now() - MINUTE)
        return self._events

    def kept_gpus(self, pool: str) -> int:
        """GPUs of a batch pool with work that must not be interrupted."""
        if self.parts is not None:
            jobs = self.parts.ctx.jobs.snapshot()
            self._kept[pool] = sum(job.gpus for job in jobs if pool in job.pools and not job.preemptible)
        return self._kept.get(pool, 0)

    def yielded(self) -> set[GpuId]:
        """Cards that their agents leave to another writer."""
        cores = [node.core for node in self.nodes if node.core is not None]
        return {gpu for core in cores for gpu in core.status()["yielded_w"]}

    # ------------------------------------------------------------ time
    def second(self) -> None:
        """Both loops where they run, every agent, and then a second of physics."""
        if self.parts is not None:
            ctx, state, now = self.parts.ctx, self.parts.state, self.clock.now()
            if now >= self._due or self._woken:
                self._woken.clear()
                expire_notes(state, run_cycle(ctx, state))
                self._due = next_boundary(now, ctx.timing.interval)
            self.tick = tick = run_tick(ctx, state)
            self.view.touched()
            if ctx.ledger.advance(tick.at) or state.wake.is_set():
                state.wake.clear()
                self._woken.append(True)
        self.clock.sleep(1.0)
        for node in self.nodes:
            node.tick()

    def node_of(self, gpu: GpuId) -> Node:
        """The node with this card."""
        return next(node for node in self.nodes if gpu in node.cards.gpus)

    def release(self) -> None:
        """An operator's word to agents that hold something though no daemon runs, as `gridpace release` brings it."""
        for node in self.nodes:
            if node.core is not None and node.core.status()["phase"] == "holding":
                node.core.release(dict(node.core.status()["found_w"]), node.core.status()["epoch"])

    def close(self) -> None:
        """End everything."""
        self.kill()
        self.wires.loop.close()


def _always(value: float) -> Callable[[object], float]:
    return lambda _moment: value
