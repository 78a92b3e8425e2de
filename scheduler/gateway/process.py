"""`gridpace gateway`: one event loop with the routes, the requests to the servers, and the turns of the gateway.

Stops in order: no new request is sent, what is under way is waited for; what a stop breaks off is sent again at the
next start.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog
import uvicorn

from scheduler.clock import WallClock
from scheduler.gateway.app import create_app
from scheduler.gateway.config import GatewayConfig, load_gateway
from scheduler.gateway.daemon import Daemon
from scheduler.gateway.gateway import Gateway
from scheduler.gateway.shelf import Shelf
from scheduler.listening import bind
from scheduler.lock import DaemonLock
from scheduler.logs import configure_logs
from scheduler.sdnotify import notify
from scheduler.store.store import Store

log = structlog.get_logger("gridpace.gateway")

BOOKS = "gateway.db"
DRAIN_S = 30.0
BEAT_S = 5.0
KEEP_ALIVE_S = 75
"""Longer than clients keep a connection that is idle (5 s in OpenAI's, 15 s in aiohttp's): where a server hangs up in
the moment in which a client sends, the client can't know whether its request was taken."""


class _Server(uvicorn.Server):
    """uvicorn that leaves signals to us: requests to the servers are waited for after the last client has gone."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def run(file: Path) -> int:
    """Serve until SIGTERM; the exit status. Raises ConfigError, AdapterError and AlreadyRunning."""
    config = load_gateway(file)
    configure_logs(config.log_format)
    with DaemonLock(config.state_dir):
        store = Store.open(config.state_dir / BOOKS)
        try:
            return asyncio.run(_serve(config, store))
        finally:
            store.close()


async def _serve(config: GatewayConfig, store: Store) -> int:
    clock = WallClock()
    daemon = Daemon(config.daemon, config.token.reveal(config.base_dir))
    shelf = Shelf(config.state_dir, store, clock.now)
    for path in shelf.strays():
        log.warning("gateway.stray", path=str(path), why="no record names it; delete it, or restore the records")
    gateway = Gateway(config, shelf, clock, daemon)
    server = _Server(
        uvicorn.Config(create_app(gateway), log_config=None, access_log=False, server_header=False,
                       timeout_keep_alive=KEEP_ALIVE_S, timeout_graceful_shutdown=5)
    )  # fmt: skip
    listening = bind(config.host, config.port, "gateway")
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    working = asyncio.create_task(gateway.run())
    beating = asyncio.create_task(_beat(gateway))
    stopping = asyncio.create_task(stop.wait())
    notify("READY=1")
    log.info("gateway.listening", host=config.host, port=config.port)
    await asyncio.wait({serving, working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    notify("STOPPING=1")
    server.should_exit = True
    for task in (working, beating, stopping):
        task.cancel()
    try:
        await serving
        with suppress(asyncio.CancelledError):
            await working  # what ended it, when it was not us
    finally:
        await gateway.close(DRAIN_S)
    return 0


async def _beat(gateway: Gateway) -> None:
    """Tell systemd that the loop turns, and what it does."""
    while True:
        notify(f"WATCHDOG=1\nSTATUS={gateway.sentence()}")
        await asyncio.sleep(BEAT_S)
