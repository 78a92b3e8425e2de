"""The composition root: the only place where config becomes objects.

Why one place: `check`, the daemon, the backtest and the tests build the very same things, and nothing else in the
scheduler ever names a concrete adapter. Order matters once: signals before hardware (the simulated hall lives on
them), store before everything that must not be lost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from adapters import registry
from adapters.context import AdapterContext
from adapters.dr.desk import EventSession
from adapters.dr.polled import EventFeed
from adapters.dr.webhook import Webhook
from adapters.hall import SimulatedHall
from adapters.jobs.queue import JobQueue, JobRefused
from adapters.ports import AdapterError, Clock, ClockLocker, EventChannel, JobSystem, RecordStore, Spokesman
from adapters.signals.base import gate_rules
from adapters.work_ports import WorkKeeper
from optimizer.domain import Work
from optimizer.reasons import Note, Reason, Severity
from scheduler.building import caution, due_jobs, pool_models, prices, program_rules, site_models, timing
from scheduler.capwatch import CapWatch, DriftRules
from scheduler.clock import ScaledClock, WallClock
from scheduler.clock_hand import KIND, ClockHand
from scheduler.clockwatch import ClockWatch
from scheduler.collect import Memory, Source
from scheduler.config import Config
from scheduler.config.builtin import QueueConfig, WebhookConfig
from scheduler.coordination.shares import Shares
from scheduler.curve_book import CurveBook, borrowed
from scheduler.desk import Sessions, desks
from scheduler.dispatch import Dispatcher
from scheduler.engine import ChargeBuilder, Context, Planner, SiteModel, State
from scheduler.errand import Errand
from scheduler.facade import Facade
from scheduler.feeds import Feeds
from scheduler.flex_book import FlexBook
from scheduler.hardware import Hardware, build_hardware
from scheduler.latency_wiring import build_guards
from scheduler.ledger.ledger import Ledger
from scheduler.levers import Levers
from scheduler.planner import ChildPlanner
from scheduler.pools import PoolModel, Pools
from scheduler.rules import OPTIMUM, RulePlanner
from scheduler.sales import SalesBook
from scheduler.store.store import Store, StoreDegraded
from scheduler.utility import Utility

BROUGHT = "brought"
Channel = EventChannel | EventFeed | EventSession
MakeHardware = Callable[
    [Config, AdapterContext, Mapping[str, PoolModel], Mapping[str, SiteModel], Mapping[str, Source]], Hardware
]


@dataclass
class Wake:
    """Asks everybody who plans to do it at once."""

    listeners: list[Callable[[], None]] = field(default_factory=list)

    def __call__(self) -> None:
        """Tell every listener."""
        for listener in self.listeners:
            listener()


@dataclass
class Parts:
    """Everything that was built, before it runs; `close` ends what holds threads, sockets or files."""

    config: Config
    ctx: Context
    state: State
    hardware: Hardware
    facade: Facade
    utility: Utility
    wake: Wake
    sessions: Sessions
    feeds: Feeds

    def close(self, keep_store: bool = False) -> None:
        """End the channels, the planner's child, the hardware's threads and, unless the next parts take it over, the
        store."""
        self.sessions.close()
        self.feeds.stop()
        self.ctx.planner.close()
        for guard in self.ctx.latency.values():
            guard.source.close()
        if isinstance(self.ctx.jobs, WorkKeeper):
            self.ctx.jobs.close()
        self.hardware.close()
        self.ctx.permit.end()
        self.ctx.ledger.close()
        if not keep_store:
            self.ctx.store.close()


def build_clock(config: Config) -> Clock:
    """The machine's clock, or the demo's."""
    return ScaledClock(config.clock.start, config.clock.speed) if config.clock is not None else WallClock()


def build_store(config: Config) -> Store:
    """The books on disk; a simulated clock without `keep_books` begins with empty ones in memory."""
    if config.clock is not None and not config.clock.keep_books:
        return Store.in_memory()
    config.state_path.mkdir(parents=True, exist_ok=True)
    return Store.open(config.store_path)


def build(
    config: Config,
    clock: Clock | None = None,
    store: Store | None = None,
    planner: Planner | None = None,
    channels: Mapping[str, Channel] | None = None,
    make_hardware: MakeHardware = build_hardware,
) -> Parts:
    """Build everything. Raises AdapterError, SecretError or StoreError with the place; on the way out nothing is
    left open. `channels` instead of those of the config: none in a backtest, which then needs no secrets.
    `make_hardware`: what brings the GPUs, where it is not the config that says so."""
    with ExitStack() as opened:
        clock, store = clock or build_clock(config), store or build_store(config)
        opened.callback(store.close)
        parts = _built(config, clock, store, planner, channels, opened, make_hardware)
        opened.pop_all()
    return parts


def _built(
    config: Config,
    clock: Clock,
    store: Store,
    planner: Planner | None,
    channels: Mapping[str, Channel] | None,
    opened: ExitStack,
    make_hardware: MakeHardware,
) -> Parts:
    """What `build` says; everything that must be closed should the rest fail is pushed on `opened`."""
    context = AdapterContext(clock, config.base_dir, records(store), config.currency)
    sources, tariffs = build_sources(config, context)
    sites, member = site_models(config, tariffs), config.coordination
    hardware = make_hardware(config, context, pool_models(config), sites, sources)
    opened.callback(hardware.close)
    pools, jobs = Pools(hardware.pools), build_jobs(config, context, hardware, store)
    channels = build_channels(config, store, clock) if channels is None else channels
    planner, dispatcher = planner or build_planner(config), build_dispatcher(config, hardware, store, clock)
    opened.callback(planner.close)
    ctx = Context(
        mode=config.mode.value,
        clock=clock,
        timing=timing(config),
        sites=sites,
        pools=pools,
        sources=sources,
        memory=Memory(),
        planner=planner,
        ledger=Ledger(store),
        jobs=jobs,
        meter=hardware.meter,
        devices=hardware.devices,
        parking=hardware.parking,
        dispatcher=dispatcher,
        clocks=build_clocks(hardware, store, dispatcher, clock),
        permit=context.permit,
        store=store,
        curves=CurveBook(pools, store),
        flex=FlexBook(store),
        sales=SalesBook(store),
        latency=build_guards(config, context, hardware.hall, store, opened),
        prices=prices(config),
        currency=config.currency,
        margin=config.margin,
        caution=caution(config),
        emergency_programs=frozenset(p.id for p in config.programs if p.emergency_below_floor),
        shares=Shares(member.name, store) if member is not None else None,
        bring_jobs=JobBringer(config, jobs, store).bring if isinstance(jobs, JobQueue) else None,
    )
    return assemble(config, ctx, hardware, channels)


def assemble(config: Config, ctx: Context, hardware: Hardware, channels: Mapping[str, Channel]) -> Parts:
    """State, the clients' face, the recorded utility and the desks of connected channels around a context."""
    state = State()
    state.notes.extend((*hardware.notes, *ctx.store.notes(), *borrowed(ctx.pools)))
    for problem in config.warnings:
        state.notes.append(Note(Reason.HELD, "config", str(problem), Severity.WARNING, ctx.clock.now()))
    wake = Wake()
    connected = {name: channel for name, channel in channels.items() if isinstance(channel, EventSession)}
    feeds, facade = build_feeds(config, ctx, state, {n: c for n, c in channels.items() if n not in connected}, wake)
    sessions = Sessions(connected, desks(config, facade, dict(hardware.gpus)))
    if hardware.hall is not None:
        let_hall_work(hardware.hall, ctx.jobs, state)
    return Parts(config, ctx, state, hardware, facade, Utility(config, facade, ctx), wake, sessions, feeds)


def build_feeds(
    config: Config, ctx: Context, state: State, channels: Mapping[str, Channel], wake: Wake
) -> tuple[Feeds, Facade]:
    """The clients' face, with the channels that are told, and the reader of those that are asked."""
    asked: dict[str, Any] = {name: channel for name, channel in channels.items() if hasattr(channel, "poll")}
    told: dict[str, Any] = {name: channel for name, channel in channels.items() if name not in asked}
    facade = Facade(ctx, state, told, program_rules(config), wake, feeds=asked)
    every_s = {p.id: every.total_seconds() for p in config.programs if (every := getattr(p.channel, "poll", None))}
    feeds = Feeds(asked, every_s, facade, state, {program.id: program.site for program in config.programs})
    facade.cued = feeds.cue
    return feeds, facade


def records(store: Store) -> RecordStore:
    """The store as adapters see it."""
    return store


def build_sources(config: Config, context: AdapterContext) -> tuple[dict[str, Source], dict[str, ChargeBuilder]]:
    """Every signal with its gate, and the demand charges of those that declare some."""
    sources: dict[str, Source] = {}
    tariffs: dict[str, ChargeBuilder] = {}
    for entry in config.signals:
        signal: Any = entry
        reader = registry.create("signals", entry, context)
        rules = gate_rules(signal, config.currency, zone_of(config, signal.id))
        sources[signal.id] = Source(reader, rules, str(signal.kind))
        if hasattr(reader, "demand_charges"):
            tariffs[signal.id] = reader.demand_charges
    return sources, tariffs


def zone_of(config: Config, signal: str) -> ZoneInfo | None:
    """Time zone of the site that pays this price, or whose grid has this load."""
    for site in config.sites:
        if signal in {site.price, *(peak.system_load for peak in site.coincident_peaks)}:
            return ZoneInfo(site.timezone)
    return None


def build_dispatcher(config: Config, hardware: Hardware, store: Store, clock: Clock) -> Dispatcher:
    """What writes to these GPUs."""
    if isinstance(hardware.power, Spokesman):
        hardware.power.speak_for(store.epoch())
    return Dispatcher(
        books=store,
        actuator=hardware.power,
        gpus=hardware.gpus,
        writes=config.mode == "control",
        epoch=store.epoch(),
        lease_s=lease.total_seconds() if (lease := getattr(config.power, "lease", None)) is not None else None,
        monotonic=clock.monotonic,
        watch=CapWatch(DriftRules(config.drift.reassert, config.drift.quiet.total_seconds())),
        raisable=frozenset(gpu for p in config.pools if p.max_cap_w is not None for gpu in hardware.gpus[p.id]),
        handing=Errand(threads=isinstance(clock, WallClock)),
    )


def build_clocks(hardware: Hardware, store: Store, dispatcher: Dispatcher, clock: Clock) -> ClockHand | None:
    """What locks clocks: where a pool may be moved by them, or a predecessor left some locked."""
    if not isinstance(hardware.power, ClockLocker) or not (hardware.clocks or store.all(KIND)):
        return None
    hand = ClockHand(
        store, hardware.power, hardware.gpus, Levers(hardware.clocks), dispatcher.next_lease, clock.monotonic
    )
    hand.watch = ClockWatch(dispatcher.watch.rules)
    return hand


def build_planner(config: Config) -> Planner:
    """The optimum's planner in its own process, or a rule in its place."""
    solver = config.solver
    if solver.planner != OPTIMUM:
        return RulePlanner(solver.planner)
    return ChildPlanner(
        time_limit_s=solver.time_limit.total_seconds(),
        hard_deadline_s=solver.hard_deadline.total_seconds(),
        memory_mb=solver.memory_mb,
    )


def build_jobs(config: Config, context: AdapterContext, hardware: Hardware, store: Store) -> JobSystem:
    """The job system as configured."""
    if not isinstance(config.jobs.system, QueueConfig):
        outside = replace(context, extras={**context.extras, "writes": config.mode == "control"})
        made: JobSystem = registry.create("jobs", config.jobs.system, outside)
        return made
    batch = (model.pool for model in hardware.pools.values() if model.pool.work is Work.BATCH)
    return JobQueue(records(store), {pool.id: pool.count for pool in batch}, context.clock)


def build_channels(config: Config, store: Store, clock: Clock) -> dict[str, Channel]:
    """The channel of each program, by the program's id, which stands in its address."""
    channels: dict[str, Channel] = {}
    for index, program in enumerate(config.programs):
        entry = program.channel
        if not isinstance(entry, WebhookConfig):
            extras = {"program": program.id, "site": program.site}
            context = AdapterContext(clock, config.base_dir, records(store), config.currency, extras)
            channels[program.id] = registry.create("dr", entry, context)
            continue
        secret = entry.secret.reveal(config.base_dir).encode()
        window_s = {program.id: entry.replay_window.total_seconds()}
        try:
            channels[program.id] = Webhook({program.id: secret}, store, lambda: datetime.now(UTC), window_s)
        except ValueError as error:
            raise AdapterError(f"{config.place('programs', index, 'channel')}: {error}") from error
    return channels


def let_hall_work(hall: SimulatedHall, jobs: JobSystem, state: State) -> None:
    """Let the simulated GPUs do what is granted, and report their progress to the queue like any worker. A batch system
    outside knows by itself how far its jobs are."""
    if not isinstance(jobs, JobQueue):
        hall.attach_work(
            lambda: {job.id: (job.pools[0], job.gpus, job.left_gpu_h) for job in state.jobs if job.gpus},
            lambda _job, _gpu_h: None,
        )
        return
    queue = jobs

    def grants() -> Mapping[str, tuple[str, int, float]]:
        held = state.grants
        return {
            job.id: (held[job.id][0] if job.id in held else job.pools[0], job.gpus, job.left_gpu_h)
            for job in queue.snapshot()
            if job.gpus
        }

    owed: dict[str, float] = {}

    def progress(job_id: str, gpu_h: float) -> None:
        job = next(job for job in queue.everything() if job.id == job_id)
        owed[job_id] = owed.get(job_id, 0.0) + gpu_h
        done = min(job.work_gpu_h, job.done_gpu_h + owed[job_id])
        try:
            queue.report(job_id, done, done >= job.work_gpu_h - 1e-6)
        except StoreDegraded:
            return  # a worker reports again when the books can be written
        del owed[job_id]

    hall.attach_work(grants, progress, report_s=60.0)


@dataclass
class JobBringer:
    """Puts the config's own jobs into the queue: initial ones once, recurring ones a day ahead."""

    config: Config
    queue: JobQueue
    store: Store
    _until: datetime | None = None

    def bring(self, now: datetime) -> tuple[Note, ...]:
        """Queue what is due, and say which job the queue refused; an id that it has or had is left as it is."""
        ahead = now + timedelta(days=1)
        first = self.store.get(BROUGHT, "initial") is None
        known = {job.id for job in self.queue.everything()}
        notes = []
        for request in due_jobs(self.config, self._until or now - timedelta(hours=12), ahead, first):
            if request.id in known:
                continue
            try:
                self.queue.submit(request, now)
            except JobRefused as error:
                text = f"{self.config.place('jobs')}: job {request.id} is not queued: {error}"
                notes.append(Note(Reason.DEADLINE_UNREACHABLE, str(request.id), text, Severity.ALERT, now))
        if first:
            self.store.put(BROUGHT, "initial", {"at": now.isoformat()})
        self._until = ahead
        return tuple(notes)


def names(parts: Parts) -> Mapping[str, str]:
    """What was built, for `gridpace check`: part -> class."""
    return {
        "power": type(parts.hardware.power).__name__,
        "meter": type(parts.hardware.meter).__name__,
        "jobs": type(parts.ctx.jobs).__name__,
        "planner": type(parts.ctx.planner).__name__,
    } | {f"signal {name}": type(source.reader).__name__ for name, source in parts.ctx.sources.items()}
