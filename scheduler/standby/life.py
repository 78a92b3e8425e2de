"""The life of a daemon among others: stand by, lead, stand by again.

Why in one process: whoever lost the lead has nothing left to do but to follow, and the lock over its books stays held.
What it commanded stays in force by the nodes' own leases and trajectories; the next leader takes it over from there.
"""

from __future__ import annotations

import platform
import signal
import sqlite3
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import structlog

from adapters.bus_settings import BusSettings
from adapters.context import AdapterContext
from adapters.ports import AdapterError
from scheduler.api.server import ApiServer
from scheduler.clock import WallClock
from scheduler.config import Config, ConfigError, load_config
from scheduler.config.builtin import FleetPowerConfig
from scheduler.metrics import Metrics
from scheduler.running import App, api_settings
from scheduler.sdnotify import notify
from scheduler.standby.api import standby_app
from scheduler.standby.member import Member, Membership
from scheduler.store.store import StoreDegraded, StoreError

if TYPE_CHECKING:
    from scheduler.daemon import Daemon

log = structlog.get_logger("gridpace.standby")
WAKE = 0
"""What is heard when the lead was won or lost: nothing but a reason to look."""

BOOKS = (StoreError, StoreDegraded, sqlite3.Error)
TROUBLE = (*BOOKS, AdapterError, OSError)
"""What bus, books or disk do to a leader: it stands by again, and says why."""


def membership(config: Config) -> Membership:
    """Who this daemon is among the others. AdapterError for a config that has none."""
    power, standby = config.power, config.standby
    if standby is None or not isinstance(power, FleetPowerConfig):
        raise AdapterError(f"{config.place('standby')}: standby: `power` must be of type fleet")
    host = platform.node() or "localhost"
    context = AdapterContext(WallClock(), config.base_dir)
    seed, ca = (context.path(name) if name is not None else None for name in (power.seed, power.ca))
    bus = BusSettings(power.servers, "daemon", seed, ca)
    name = standby.name or host.partition(".")[0]
    url = standby.url or f"http://{host}:{config.api.port}"
    return Membership(name, url, standby.lease.total_seconds(), bus, power.replicas, config.store_path)


def share(daemon: Daemon) -> int:
    """Run as one of several until told to stop; returns the exit code."""
    member = daemon.member = Member(membership(daemon.config), lambda: daemon.heard.put(WAKE))
    member.start()
    try:
        while not daemon.stopping:
            stand_by(daemon, member)
            if not daemon.stopping:
                lead(daemon, member)
    finally:
        notify("STOPPING=1")
        member.close()
    return 0


def stand_by(daemon: Daemon, member: Member) -> None:
    """Follow, and answer clients, until the lead is won or the daemon is told to stop."""
    metrics, settings = Metrics(version("gridpace")), api_settings(daemon.config)

    def exposition() -> bytes:
        metrics.observe_standby(member.status())
        return metrics.render()

    app = standby_app(member.status, member.bus, settings, exposition)
    server = ApiServer(app, settings.host, settings.port)
    server.start()
    log.info("standby.following", name=member.status()["name"], page=server.url)
    try:
        notify("READY=1")
        while not member.elected and not daemon.stopping:
            number = daemon.wait()
            daemon.stopping = number == signal.SIGTERM
            if number == signal.SIGHUP:
                reread(daemon)
            notify(f"WATCHDOG=1\nSTATUS={sentence(member.status())}")
    finally:
        if daemon.stopping:
            member.leave()
        server.stop(at_once=True)


def lead(daemon: Daemon, member: Member) -> None:
    """Command until told to stop, or until another one may. On the way out limits are given back only where nobody is
    there to go on; whoever lost the lead gives nothing back. A bus that hiccups while the lead is taken up, or over a
    reload, and books that can't be opened end the lead and not the process."""
    try:
        store = member.open_store()
    except TROUBLE as error:  # whoever can take the lead up does, perhaps this daemon after a while
        not_taken_up(member, error)
        return
    try:
        daemon.app = App.start(daemon.config, store=store, lead=member)
    except BOOKS as error:
        not_taken_up(member, error)
        return
    except Exception as error:
        if member.lease.holds() and member.bus.connected:
            raise
        log.warning("standby.lead_lost_at_once", why=str(error))
        member.follow()
        return
    try:
        daemon.turn(daemon.app)
    except TROUBLE as error:
        over_a_reload(daemon, error)
    finally:
        leave(daemon, member)


def not_taken_up(member: Member, error: Exception) -> None:
    """Let others lead: these books, or this disk, do not bear it now."""
    why = str(error) or type(error).__name__
    bus = isinstance(error, AdapterError) or getattr(error, "overruled", False)
    member.follow(failed=why, books=not bus)
    log.error("standby.lead_not_taken_up", why=why, again_in_s=round(member.pause.left_s, 1))


def leave(daemon: Daemon, member: Member) -> None:
    """Stop what runs, and stand by again whatever the disk says to that."""
    try:
        if daemon.app is not None:
            daemon.app.stop(release=lambda: member.lease.holds() and not member.followed())
    except BOOKS as error:
        log.error("standby.books_not_closed", why=str(error) or type(error).__name__)
    finally:
        daemon.app = None
        log.info("standby.lead_left", stopping=daemon.stopping)
        member.follow()


def over_a_reload(daemon: Daemon, error: Exception) -> None:
    """Say why nothing runs after a reload: that ends the lead alone. Raises an error of parts that do run."""
    if daemon.app is not None:
        raise error
    log.error("standby.lead_lost_at_reload", why=str(error) or type(error).__name__)


def reread(daemon: Daemon) -> None:
    """SIGHUP while standing by: the new config counts when this daemon leads."""
    from scheduler.daemon import refuse_moved

    try:
        config = load_config(daemon.config_path, need_secrets=True)
        refuse_moved(daemon.config, config)
        daemon.config = config
        log.info("reloaded", config=str(daemon.config_path))
    except (ConfigError, AdapterError) as error:
        log.error("reload refused, the config before stays in force", problems=str(error))
    notify("READY=1")


def sentence(said: dict[str, Any]) -> str:
    """The status in a line."""
    behind = "waits for the books" if said["behind"] is None else f"{said['behind']} changes behind"
    return f"stands by, {behind}; {said['leader'] or 'nobody'} leads" + (
        f"; {said['trouble']}" if said["trouble"] else ""
    )
