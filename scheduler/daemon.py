"""The daemon's life: lock, open, reconcile, run, reload, stop.

Why in this order: nothing is written to a GPU before the lock is held and the limits that a killed predecessor found are
known; READY is said after the first plan; and whatever ends the loop, limits are given back before the lock is.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import structlog

from optimizer.reasons import Note, Reason, Severity
from scheduler.config import Config, ConfigError, load_config
from scheduler.control import run_tick
from scheduler.cycle import expire_notes, run_cycle
from scheduler.logs import configure_logs
from scheduler.lock import daemon_lock
from scheduler.overrides import restore_orders
from scheduler.sdnotify import notify, watchdog_usec
from scheduler.timing import Timer
from scheduler.wiring import App, build

log = structlog.get_logger()
GUARD_S = 0.5


class Daemon:
    """One running daemon on one config file."""

    def __init__(self, config_path: Path) -> None:
        self.config_path = config_path
        self.config: Config = load_config(config_path)
        self.stopping, self.reloading = threading.Event(), threading.Event()

    def run(self) -> int:
        """Run until told to stop; returns the exit code."""
        configure_logs(self.config.log_format)
        with daemon_lock(Path(self.config.state_dir)), self.signals():
            app = self.start()
            try:
                while not self.stopping.wait(GUARD_S):
                    self.look_after(app)
                    if self.reloading.is_set():
                        app = self.reload(app)
            finally:
                self.stop(app)
        return 0

    def start(self) -> App:
        """Build everything, reconcile with what a predecessor left, and let both loops run."""
        app = build(self.config)
        now = app.ctx.clock.now()
        left = app.ctx.dispatcher.adopt()
        if left:
            text = f"{left} GPUs were left with our limits by a daemon that did not stop in order; their first limits are kept"
            app.state.notes.append(Note(Reason.CAP_DRIFT, "power", text, Severity.WARNING, now))
        restore_orders(app.ctx, app.state, now)
        if left and not app.ctx.dispatcher.writes:
            app.state.notes.extend(app.ctx.dispatcher.release(now))
        log.info("reconciled", outstanding_gpus=left, mode=app.ctx.mode)
        app.timer = Timer(app.ctx.clock, app.ctx.timing.interval, app.ctx.timing.control_period,
                          lambda: self.cycle(app), lambda: self.tick(app))
        app.serve()
        app.timer.start()
        log.info("started", config=str(self.config_path), mode=app.ctx.mode, page=app.url)
        return app

    def cycle(self, app: App) -> None:
        """One turn of the slow loop, logged in one line."""
        try:
            app.poll_utility()
            report = run_cycle(app.ctx, app.state)
        except Exception:
            log.exception("cycle failed; the plan before stays in force")
            return
        expire_notes(app.state, report)
        app.metrics.observe_cycle(report)
        log.info(report.sentence(), cycle=report.cycle, rung=report.rung, warnings=report.warnings)
        notify(("READY=1\n" if report.cycle == 1 else "") + f"STATUS={report.sentence()}")

    def tick(self, app: App) -> None:
        """One turn of the fast loop; only a finished one feeds the watchdog."""
        try:
            with app.state.lock:
                tick = run_tick(app.ctx, app.state)
        except Exception:
            log.exception("tick failed; the orders before stay in force")
            return
        app.metrics.observe_tick(tick)
        for event in app.ctx.ledger.advance(tick.at):
            log.info("event", id=event.id, state=event.state)
            app.wake()
        if watchdog_usec():
            notify("WATCHDOG=1")

    def look_after(self, app: App) -> None:
        """What the main thread does twice a second: the clock guard."""
        step = app.timer.guard() if app.timer is not None else 0.0
        if step:
            text = f"the wall clock stepped by {step:+.0f} s; both loops were re-armed"
            app.state.notes.append(Note(Reason.CLOCK_STEP, "clock", text, Severity.WARNING, app.ctx.clock.now()))
            log.warning(text)

    def reload(self, app: App) -> App:
        """SIGHUP: take the new config when it is right, else keep the old one and say why."""
        self.reloading.clear()
        notify("RELOADING=1")
        try:
            config = load_config(self.config_path)
        except ConfigError as error:
            log.error("reload refused, the config before stays in force", problems=str(error))
            text = f"reload refused: {str(error).splitlines()[0]}"
            app.state.notes.append(Note(Reason.HELD, "config", text, Severity.ALERT, app.ctx.clock.now()))
            notify("READY=1\nSTATUS=reload refused, the config before stays in force")
            return app
        previous, self.config = self.config, config
        app.close()
        try:
            fresh = self.start()
        except Exception:
            log.exception("reload failed, the config before is used again")
            self.config = previous
            fresh = self.start()
        notify("READY=1")
        return fresh

    def stop(self, app: App) -> None:
        """Finish the running turns, give every limit back, close."""
        notify("STOPPING=1")
        app.close()
        app.state.notes.extend(notes := app.release())
        for note in notes:
            log.error(note.text)
        app.shut()
        log.info("stopped", restored=not notes)

    @contextmanager
    def signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT stop, SIGHUP reloads; the handlers found are put back."""

        def stop(_number: int, _frame: FrameType | None) -> None:
            self.stopping.set()

        def reload(_number: int, _frame: FrameType | None) -> None:
            self.reloading.set()

        handlers = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGHUP: reload}
        found = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in found.items():
                signal.signal(number, handler)


def run(config_path: Path) -> int:
    """Run the daemon on a config file; raises ConfigError and scheduler.lock.AlreadyRunning."""
    return Daemon(config_path).run()
