"""A connection to NATS that keeps itself up, with an event loop in a thread of its own.

Why a thread: the loops and the agent are plain blocking code with deadlines; only the bus needs asyncio. The bus
carries and nothing more: who may order what, for how long, in which order, stands in the payload and is judged by the
agent.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from typing import Any, TypeVar

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import JetStreamContext

from adapters.bus_pace import Pace
from adapters.bus_settings import BusSettings
from adapters.ports import AdapterError

T = TypeVar("T")
_log = logging.getLogger("gridpace.bus")

RETRY_S = 0.5
PING_S = 5.0
"""A server that is silent for two of these counts as gone; a cut cable is noticed no other way."""

HANG_UP_S, END_S = 2.0, 5.0
"""So long a connection that is closed may take for what was sent, and for what still runs in its loop."""

AGAIN_S = 0.1
"""What doesn't end when it is cancelled is cancelled again after so long."""

PENDING_BYTES = 64 * 1024 * 1024
"""What may wait in this process while no server is there; more is refused aloud."""


class Bus:
    """Connects in the background and for ever. Every call has a deadline and raises AdapterError."""

    def __init__(
        self,
        settings: BusSettings,
        on_connect: Callable[[Client], Awaitable[None]] | None = None,
        gather_s: float = 0.0,
    ) -> None:
        """`on_connect` runs after every connection, the first and each later one; subscriptions outlive the gap. What
        is heard while no call is under way may wait for `gather_s` (see `adapters.bus_pace`)."""
        if settings.seed_file is not None and not settings.seed_file.is_file():
            raise AdapterError(f"{settings.seed_file}: no such file (the nkey's seed of {settings.name!r})")
        self.settings = settings
        self._on_connect = on_connect
        self._client = Client()
        self._trouble = "not connected yet"
        self._ever = threading.Event()
        self._closing, self._lock = False, threading.Lock()
        self._pace = Pace(gather_s)
        self._loop: asyncio.AbstractEventLoop = asyncio.SelectorEventLoop(self._pace)
        self._thread = threading.Thread(target=self._run, name="bus", daemon=True)
        self._thread.start()
        self._connecting = asyncio.run_coroutine_threadsafe(self._connect(), self._loop)

    @property
    def connected(self) -> bool:
        """Whether a server is there now."""
        return bool(self._client.is_connected)

    @property
    def client(self) -> Client:
        """The client, for coroutines that run in the bus's loop."""
        return self._client

    @property
    def jetstream(self) -> JetStreamContext:
        """Streams and key-values, for coroutines that run in the bus's loop."""
        return self._client.jetstream(timeout=5.0)

    def wait_connected(self, seconds: float) -> None:
        """Wait for the first connection. AdapterError when there is none in that time."""
        if not self._ever.wait(seconds):
            raise self.unreachable()

    def call(self, work: Coroutine[Any, Any, T], deadline_s: float) -> T:
        """Run a coroutine in the bus's loop and wait for its result."""
        future = self.begin(work)
        try:
            return future.result(deadline_s)
        except TimeoutError as error:
            future.cancel()
            raise AdapterError(f"NATS at {self.settings.place}: no answer within {deadline_s:g} s") from error
        except CancelledError as error:
            raise self._closed() from error
        except (NatsError, OSError, ValueError) as error:
            raise AdapterError(f"NATS at {self.settings.place}: {str(error) or type(error).__name__}") from error

    def begin(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine in the bus's loop, for who waits in a loop of its own. AdapterError from when it is closed;
        what was begun before is cancelled, when it is not over by then."""
        with self._lock:  # whatever is begun is so before the loop is told to stop, so that it runs or is cancelled
            if not self._closing:
                return self._begin(work)
        work.close()
        raise self._closed()

    def _begin(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        self._pace.hurry()
        try:
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        except BaseException:
            self._pace.rest()
            raise
        future.add_done_callback(lambda _: self._pace.rest())
        return future

    def _closed(self) -> AdapterError:
        return AdapterError(f"NATS at {self.settings.place}: this connection is being closed")

    def unreachable(self) -> AdapterError:
        """The error that says why nobody is there."""
        return AdapterError(f"NATS at {self.settings.place}: {self._trouble}")

    def close(self) -> None:
        """Hang up; what was sent is flushed for at most a second. Twice does no harm, nor do two threads at once."""
        with self._lock:
            first, self._closing = not self._closing, True
        if first:
            self._connecting.cancel()
            try:
                with suppress(Exception):
                    self._begin(self._hang_up()).result(HANG_UP_S)
            finally:
                self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(END_S)

    def _run(self) -> None:
        """The loop's life."""
        self._loop.run_forever()
        self._loop.run_until_complete(self._end())
        self._loop.close()

    # ------------------------------------------------------------ in the loop
    async def _end(self) -> None:
        """Cancel what still runs, and wait for it: again and again, for a wait that is over in the same moment loses
        the word (`asyncio.wait_for` of Python 3.11), and the client would try to connect for ever. Whoever waits for
        something that ended in the last turn hears of it here, too."""
        mine = asyncio.current_task()
        while left := {task for task in asyncio.all_tasks() if task is not mine}:
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=AGAIN_S)

    async def _connect(self) -> None:
        """Try until the first connection stands; from then on the client reconnects by itself."""
        while not self._closing:
            try:
                await self._client.connect(**self._options())
            except (TimeoutError, NatsError, OSError, ValueError) as error:
                self._trouble = str(error) or type(error).__name__
                with suppress(Exception):
                    await self._client.close()
                self._client = Client()
                await asyncio.sleep(RETRY_S)
                continue
            await self._greet()
            self._pace.steady = True
            self._ever.set()
            return

    def _options(self) -> dict[str, Any]:
        settings = self.settings
        options: dict[str, Any] = {
            "servers": list(settings.servers),
            "name": settings.name,
            "inbox_prefix": f"_INBOX_{settings.name}".encode(),
            "connect_timeout": 3,
            "max_reconnect_attempts": -1,
            "reconnect_time_wait": RETRY_S,
            "ping_interval": PING_S,
            "max_outstanding_pings": 2,
            "pending_size": PENDING_BYTES,
            "error_cb": self._on_error,
            "disconnected_cb": self._on_lost,
            "reconnected_cb": self._on_back,
        }
        if settings.seed_file is not None:
            options["nkeys_seed"] = str(settings.seed_file)
        if settings.ca_file is not None:
            options["tls"] = ssl.create_default_context(cafile=str(settings.ca_file))
        return options

    async def _greet(self) -> None:
        if self._on_connect is not None:
            try:
                await self._on_connect(self._client)
            except (NatsError, OSError, AdapterError) as error:
                _log.warning("NATS at %s: %s", self.settings.place, error)

    async def _on_error(self, error: Exception) -> None:
        self._trouble = str(error) or type(error).__name__

    async def _on_lost(self) -> None:
        self._pace.steady = False
        if not self._closing:
            _log.warning("NATS at %s: the connection is lost (%s)", self.settings.place, self._trouble)

    async def _on_back(self) -> None:
        _log.info("NATS at %s: connected again", self.settings.place)
        await self._greet()
        self._pace.steady = True

    async def _hang_up(self) -> None:
        if self._client.is_connected:
            with suppress(NatsError, asyncio.TimeoutError):
                await self._client.flush(1)
        await self._client.close()
