"""The parts at work: both loops under the timer, the API beside them, and the order in which they start and stop.

Why apart from the daemon: a reload stops one of these and starts the next, keeping lock, signals and process. What a
predecessor left is taken over before the web framework is imported, so that a daemon that was killed is in charge again
within seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING

import structlog

from adapters.ports import Clock, WayMaker
from adapters.work_ports import WorkKeeper
from optimizer.reasons import Note, Reason, Severity
from scheduler.clock import ScaledClock
from scheduler.config import Config, Scope, is_simulated
from scheduler.control import run_tick
from scheduler.cycle import expire_notes, run_cycle
from scheduler.metrics import Metrics
from scheduler.sdnotify import notify
from scheduler.stopping import end_in_order
from scheduler.store.store import Store, StoreDegraded
from scheduler.takeover import reconcile
from scheduler.timing import Timer
from scheduler.wiring import Parts, build

if TYPE_CHECKING:
    from adapters.bus_copies import Copies
    from scheduler.api.server import ApiServer
    from scheduler.api.settings import ApiSettings
    from scheduler.standby.member import Member
    from scheduler.standby.proxy import LeadDesk

log = structlog.get_logger()


class App:
    """Parts, timer, metrics and API server of one config."""

    def __init__(self, parts: Parts, lead: Member | None = None) -> None:
        """`lead`: our place among daemons that stand by for each other; nothing turns while it may not command."""
        timing = parts.ctx.timing
        self.parts, self.lead = parts, lead
        self.metrics = Metrics(version("gridpace"))
        self.timer = Timer(parts.ctx.clock, timing.interval, timing.control_period, self.cycle, self.tick)
        self.server = api_server(parts, self.metrics)
        self.desk = lead_desk(lead, self.server) if lead is not None else None
        self._ready = False
        parts.wake.listeners.append(self.timer.wake)
        parts.facade.hurry = self.hurry
        for guard in parts.ctx.latency.values():
            guard.alarm = self.hurry

    @classmethod
    def start(
        cls,
        config: Config,
        clock: Clock | None = None,
        store: Store | None = None,
        reloaded: bool = False,
        lead: Member | None = None,
    ) -> App:
        """Build, reconcile, serve, and let both loops run. What fails leaves nothing open behind. A reload hands over
        the clock of a recorded day, and the books that are kept in memory."""
        parts = build(config, clock, store)
        try:
            if lead is not None:
                begin_lead(parts, lead)
            reconcile(parts, reloaded)
            app = cls(parts, lead)
            app.server.start()
        except BaseException:
            parts.close()
            raise
        ctx = parts.ctx
        if isinstance(ctx.clock, ScaledClock):  # a recorded day begins with its first plan in force
            app.tick()
            app.cycle()
            ctx.clock.begin()
        app.timer.start()
        parts.sessions.start()
        parts.feeds.start()
        log.info("started", mode=ctx.mode, page=app.server.url, sites=len(ctx.sites), pools=len(ctx.pools))
        return app

    def hurry(self) -> None:
        """A turn of the fast loop at once; what nobody waits for makes way."""
        if isinstance(self.parts.hardware.power, WayMaker):
            self.parts.hardware.power.make_way()
        self.timer.hurry()

    def cycle(self) -> None:
        """One turn of the slow loop, logged in one line. A failure keeps the plan before in force."""
        if not self.commands():
            return
        ctx, state = self.parts.ctx, self.parts.state
        try:
            self.parts.utility.poll(ctx.clock.now())
            report = run_cycle(ctx, state)
        except Exception:
            log.exception("cycle failed; the plan before stays in force")
            return
        self._keep_books()
        expire_notes(state, report)
        self.metrics.observe_cycle(report)
        if (copies := getattr(self.parts.hardware.power, "copies", None)) is not None:
            note_copies(self.parts, copies)
        if self.lead is not None:
            self.metrics.observe_standby(self.lead.status())
            note_standby(self.parts, self.lead)
        log.info(report.sentence(), cycle=report.cycle, rung=report.rung, warnings=report.warnings)
        notify(("" if self._ready else "READY=1\n") + f"STATUS={report.sentence()}")
        self._ready = True

    def _keep_books(self) -> None:
        try:
            self.parts.ctx.sales.flush()
        except StoreDegraded as error:
            log.error("the books of sales wait in memory", reason=str(error))

    def tick(self) -> None:
        """One turn of the fast loop; only a finished one feeds the watchdog."""
        if not self.commands():
            return
        ctx, state = self.parts.ctx, self.parts.state
        before = self._able()
        try:
            with state.lock:
                tick = run_tick(ctx, state)
            if isinstance(ctx.jobs, WorkKeeper) and before != self._able():
                self.parts.wake()  # nobody else tells of jobs that come and go there, or of GPUs that become free
            self.metrics.observe_tick(tick)
            for change in ctx.ledger.advance(tick.at):
                log.info("event changed", event_id=change.id, before=change.before.value, after=change.after.value)
                self.parts.wake()
            if state.wake.is_set():
                state.wake.clear()
                self.parts.wake()
        except StoreDegraded as error:
            log.error("the books are degraded; control goes on from memory", reason=str(error))
        except Exception:
            log.exception("tick failed; the orders before stay in force")
            return
        notify("WATCHDOG=1")

    def _able(self) -> dict[str, bool]:
        """The jobs, and whether each may have GPUs now."""
        now = self.parts.ctx.clock.now()
        return {job.id: job.release <= now for job in self.parts.state.jobs}

    def commands(self) -> bool:
        """Whether this daemon may command now: it is alone, or leads."""
        return self.lead is None or self.lead.lease.holds()

    def guard(self) -> None:
        """What the main thread does twice a second: notice steps of the wall clock."""
        step = self.timer.guard()
        if step:
            text = f"the wall clock stepped by {step:+.0f} s; both loops were re-armed"
            now = self.parts.ctx.clock.now()
            self.parts.state.notes.append(Note(Reason.CLOCK_STEP, "clock", text, Severity.WARNING, now))
            log.warning(text)

    def stop(self, release: bool | Callable[[], bool], keep_store: bool = False) -> None:
        """Finish the running turns; then (`release`, asked when they are over) give every limit back, or in the middle
        of an event leave it to agents that follow alone; or leave all for who commands next; close."""
        try:
            self.parts.sessions.close()
            self.parts.feeds.stop()
            self.parts.ctx.planner.close()  # a long solve ends now, so that its turn does
        finally:
            self.timer.stop()  # whatever else fails, these parts command nothing any more, beside the next ones
        if self.desk is not None:
            self.desk.close()
        released = False
        try:
            if release() if callable(release) else release:
                released = self.release()
        finally:
            self.server.stop()
            self._keep_books()
            self.parts.close(keep_store)
        log.info("stopped", released=released)

    def release(self) -> bool:
        """Give back everything that we hold, and return True; or leave the rest of an event to its agents, and say
        so."""
        ending = end_in_order(self.parts)
        for note in ending.notes:
            log.error(note.text)
        if ending.left:
            notify(f"STATUS={ending.left}")
        return not ending.left


def api_server(parts: Parts, metrics: Metrics) -> ApiServer:
    """The API over these parts; it listens when it is started."""
    from scheduler.api.app import create_app  # seconds of imports, after the GPUs are in hand
    from scheduler.api.server import ApiServer

    settings = api_settings(parts.config)
    return ApiServer(create_app(parts.facade, settings, metrics.render), settings.host, settings.port)


def lead_desk(lead: Member, server: ApiServer) -> LeadDesk:
    """Answers what clients said to daemons that stand by."""
    from scheduler.standby.proxy import LeadDesk

    return LeadDesk(lead.bus, server.app)


def begin_lead(parts: Parts, lead: Member) -> None:
    """Let nothing leave while this daemon does not lead, and say that it does."""
    now, power = parts.ctx.clock.now(), parts.hardware.power
    parts.ctx.permit.follow(lead.may)
    if hasattr(power, "permit"):
        power.permit = parts.ctx.permit
    parts.facade.standby = lead.status
    said = lead.status()
    text = f"{said['name']} leads since now, in epoch {said['epoch']}"
    parts.state.notes.append(Note(Reason.LEAD_TAKEN, "standby", text, Severity.INFO, now))
    if said["aside"]:
        text = f"books that the others did not have were moved aside: {said['aside']}"
        parts.state.notes.append(Note(Reason.STORE_DEGRADED, "standby", text, Severity.ALERT, now))


def note_copies(parts: Parts, copies: Copies) -> None:
    """Tell which streams stay with another number of copies than is wanted, and of the others that no more."""
    now, told = parts.ctx.clock.now(), copies.notes
    for stream in set(copies.streams) - {note.subject for note in told}:
        parts.state.notes.withdraw(Reason.REPLICAS_REFUSED, stream)
    parts.state.notes.extend(replace(note, at=now) for note in told)


def note_standby(parts: Parts, lead: Member) -> None:
    """Tell where nobody would take over, and which streams stay with another number of copies than is wanted."""
    note_copies(parts, lead.copies)
    if not lead.followed():
        now = parts.ctx.clock.now()
        text = "no other daemon stands by with the same books; should this one fail, nobody takes over"
        note = Note(Reason.STANDBY_LOST, "standby", text, Severity.WARNING, now)
        parts.state.notes.append(note)


def api_settings(config: Config) -> ApiSettings:
    """Where to listen, with the tokens' secrets read now."""
    from scheduler.api.settings import ApiSettings, Token

    tokens: dict[Scope, list[Token]] = {scope: [] for scope in Scope}
    for token in config.api.tokens:
        tokens[token.scope].append(Token(token.name, token.secret.reveal(config.base_dir)))
    return ApiSettings(
        host=config.api.host,
        port=config.api.port,
        read_tokens=tuple(tokens[Scope.READ]),
        write_tokens=tuple(tokens[Scope.WRITE]),
        open_on_loopback=config.api.open_on_loopback,
        allowed_hosts=config.api.allowed_hosts,
        page=config.api.page,
        demo=is_simulated(config),
    )
