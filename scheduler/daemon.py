"""The daemon's life: lock, build, reconcile, run, reload, stop.

Why in this order: nothing is written to a GPU before the lock is held and the limits that a killed predecessor
found are
known; READY is said after the first plan; and whatever ends the loops, limits are given back before the lock is.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import structlog

from adapters.ports import AdapterError
from optimizer.reasons import Note, Reason, Severity
from scheduler.config import Config, ConfigError, load_config
from scheduler.lock import DaemonLock
from scheduler.logs import configure_logs
from scheduler.running import App
from scheduler.sdnotify import notify

log = structlog.get_logger()
GUARD_S = 0.5


class Daemon:
    """One running daemon on one config file."""

    def __init__(self, config_path: Path) -> None:
        self.config_path = config_path
        self.config: Config = load_config(config_path, need_secrets=True)
        self.stopping, self.reloading = threading.Event(), threading.Event()

    def run(self) -> int:
        """Run until told to stop; returns the exit code."""
        configure_logs(self.config.log_format)
        with DaemonLock(self.config.state_path), self.signals():
            app = App.start(self.config)
            try:
                while not self.stopping.wait(GUARD_S):
                    app.guard()
                    if self.reloading.is_set():
                        app = self.reload(app)
            finally:
                notify("STOPPING=1")
                app.stop(release=True)
        return 0

    def reload(self, app: App) -> App:
        """SIGHUP: take the new config when it is right and its parts can be built, else keep the old one and say
        why."""
        self.reloading.clear()
        notify("RELOADING=1")
        try:
            config = load_config(self.config_path, need_secrets=True)
            refuse_moved(self.config, config)
        except (ConfigError, AdapterError) as error:
            log.error("reload refused, the config before stays in force", problems=str(error))
            say(app, f"reload refused: {str(error).splitlines()[0]}")
            notify("READY=1\nSTATUS=reload refused, the config before stays in force")
            return app
        clock = app.parts.ctx.clock if config.clock == self.config.clock else None
        app.stop(release=False)
        try:
            fresh = App.start(config, clock)
            self.config = config
            log.info("reloaded", config=str(self.config_path))
        except Exception as error:
            log.exception("the new config can't run; the one before is used again")
            fresh = App.start(self.config, clock)
            say(fresh, f"reload failed: {error}")
        notify("READY=1")
        return fresh

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


def refuse_moved(old: Config, new: Config) -> None:
    """The lock and the books stay where they are while the daemon runs."""
    if new.store_path != old.store_path:
        raise AdapterError(f"{new.place('store')}: the books can't move while the daemon runs; restart it")


def say(app: App, text: str) -> None:
    """Put an alert about the config where everybody sees it."""
    app.parts.state.notes.append(Note(Reason.HELD, "config", text, Severity.ALERT, app.parts.ctx.clock.now()))


def run(config_path: Path) -> int:
    """Run the daemon on a config file; raises ConfigError, AdapterError and scheduler.lock.AlreadyRunning."""
    return Daemon(config_path).run()
