"""The daemon's life: lock, build, reconcile, run, reload, stop.

Why in this order: nothing is written to a GPU before the lock is held and the limits that a killed predecessor found
are known; READY is said after the first plan; and whatever ends the loops, limits are given back before the lock is.
"""

from __future__ import annotations

import gc
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType
from typing import TYPE_CHECKING

import structlog

from adapters.ports import AdapterError
from adapters.registry import require_extra
from optimizer.reasons import Note, Reason, Severity
from scheduler.config import Config, ConfigError, load_config
from scheduler.lock import DaemonLock
from scheduler.logs import configure_logs
from scheduler.running import App
from scheduler.sdnotify import notify
from scheduler.store.store import Store, StoreError

if TYPE_CHECKING:
    from scheduler.standby.member import Member

log = structlog.get_logger()
GUARD_S = 0.5
STOP = signal.SIGTERM


class Daemon:
    """One running daemon on one config file."""

    def __init__(self, config_path: Path) -> None:
        self.config_path = config_path
        self.config: Config = load_config(config_path, need_secrets=True)
        self.app: App | None = None
        self.member: Member | None = None
        # A signal handler may interrupt its own thread anywhere; of Python's queues and events only this one bears it.
        self.heard: SimpleQueue[int] = SimpleQueue()
        self.stopping = False

    def run(self) -> int:
        """Run until told to stop; returns the exit code."""
        configure_logs(self.config.log_format)
        with DaemonLock(self.config.state_path), self.signals():
            if self.config.standby is not None:
                require_extra("nats")
                from scheduler.standby.life import share

                return share(self)
            self.app = App.start(self.config)
            try:
                self.turn(self.app)
            finally:
                notify("STOPPING=1")
                if self.app is not None:
                    self.app.stop(release=True)
        return 0

    def turn(self, app: App) -> None:
        """Let the loops run until told to stop, or until another daemon leads."""
        settle()
        while (number := self.wait()) != STOP:
            if self.member is not None and self.member.lost:
                return
            app.guard()
            app = self.reload(app) if number == signal.SIGHUP else app
        self.stopping = True

    def wait(self) -> int:
        """The next signal heard, or 0 after a while without one."""
        try:
            return self.heard.get(timeout=GUARD_S)
        except Empty:
            return 0

    def reload(self, app: App) -> App:
        """SIGHUP: take the new config when it is right and its parts can be built, else keep the old one and say
        why."""
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
        kept = app.parts.ctx.store if clock is not None and app.parts.ctx.store.in_memory_only else None
        self.app = None
        app.stop(release=False, keep_store=kept is not None)
        try:
            store = kept or self.books()
        except (AdapterError, StoreError, sqlite3.Error, OSError):  # bus, disk: what leads next has the new config
            self.config = config
            raise
        try:
            fresh = App.start(config, clock, store, reloaded=True, lead=self.member)
            self.config = config
            configure_logs(config.log_format)
            log.info("reloaded", config=str(self.config_path))
        except Exception as error:
            log.exception("the new config can't run; the one before is used again")
            last = app.parts.ctx.clock
            fresh = App.start(self.config, last, kept or self.books(), reloaded=True, lead=self.member)
            say(fresh, f"reload failed: {error}")
        self.app = fresh
        settle()
        notify("READY=1")
        return fresh

    def books(self) -> Store | None:
        """The books of a daemon that leads others, opened anew; one that is alone opens its own."""
        return self.member.open_store() if self.member is not None else None

    @contextmanager
    def signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT stop, SIGHUP reloads; the handlers found are put back."""

        def hear(number: int, _frame: FrameType | None) -> None:
            self.heard.put(signal.SIGHUP if number == signal.SIGHUP else STOP)

        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        found = {number: signal.signal(number, hear) for number in numbers}
        try:
            yield
        finally:
            for number, handler in found.items():
                signal.signal(number, handler)


def settle() -> None:
    """What was imported and built stays: the collector of garbage need not look through it again and again, which is a
    good part of what an idle daemon costs. What a reload left is looked through before."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def refuse_moved(old: Config, new: Config) -> None:
    """The lock and the books stay where they are while the daemon runs."""
    for name, moved in (("state_dir", new.state_path != old.state_path), ("store", new.store_path != old.store_path)):
        if moved:
            raise AdapterError(f"{new.place(name)}: {name}: the books can't move while the daemon runs; restart it")
    if new.standby != old.standby or (old.standby is not None and new.power != old.power):
        text = "which daemons stand by for each other, and over which bus, can't change while this one runs; restart it"
        raise AdapterError(f"{new.place('standby')}: standby: {text}")


def say(app: App, text: str) -> None:
    """Put an alert about the config where everybody sees it."""
    app.parts.state.notes.append(Note(Reason.HELD, "config", text, Severity.ALERT, app.parts.ctx.clock.now()))


def run(config_path: Path) -> int:
    """Run the daemon on a config file; raises ConfigError, AdapterError and scheduler.lock.AlreadyRunning."""
    return Daemon(config_path).run()
