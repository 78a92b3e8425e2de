"""uvicorn in a thread of the daemon: starts before it returns, says plainly when the port is taken, stops in time.

Why a thread: the loops are plain synchronous code that must not share an event loop with clients. The socket is bound
here and not by uvicorn, which answers a taken port with `sys.exit` from inside the thread.
"""

from __future__ import annotations

import logging
import socket
import threading
from types import TracebackType

import structlog
import uvicorn
from starlette.types import ASGIApp

from scheduler.listening import ServerError, bind

log = structlog.get_logger("gridpace.api")

START_S, STOP_S = 20.0, 5.0
# Connections at once; above it uvicorn answers 503. Pages are bounded on their own (ApiSettings.max_pages).
MOST_CONNECTIONS = 1000


class ApiServer:
    """Serves `app` at `host`:`port` (0: any free port; `port` then says which) until `stop()`."""

    def __init__(self, app: ASGIApp, host: str, port: int) -> None:
        self.app = app
        self.host = host
        self.port = port
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=15,
            timeout_graceful_shutdown=2,
            limit_concurrency=MOST_CONNECTIONS,
            h11_max_incomplete_event_size=64 * 1024,
            lifespan="on",
        )
        config.load()  # the page of another server asks every server of this process for its application
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="gridpace-api", daemon=True)
        self._ended = threading.Event()
        self._error: BaseException | None = None
        self._socket: socket.socket | None = None

    @property
    def url(self) -> str:
        """Address that a browser on this machine can open."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - only compared
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def start(self) -> None:
        """Return once it listens. Raises ServerError when the address can't be had or the application fails."""
        self._socket = bind(self.host, self.port)
        self.port = self._socket.getsockname()[1]
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        self._thread.start()
        for _ in range(int(START_S * 50)):
            if self._server.started or self._ended.wait(0.02):
                break
        if not self._server.started or self._ended.is_set():
            self.stop()
            raise ServerError(
                f"api: the server at {self.host}:{self.port} did not start: {self._error or 'see the log'}"
            )
        log.info("api.listening", url=self.url)

    def stop(self, at_once: bool = False) -> bool:
        """Stop accepting, close the connections (`at_once`: also those with a request under way), and return within a
        few seconds: False when the thread hangs on."""
        self._server.should_exit = True
        self._server.force_exit = at_once
        if self._thread.is_alive():
            self._thread.join(STOP_S)
        if self._thread.is_alive():
            self._server.force_exit = True
            self._thread.join(STOP_S)
        if self._socket is not None:
            self._socket.close()
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._server.run(sockets=[self._socket] if self._socket else None)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - start() tells it, or the log does
            self._error = error
            log.error("api.ended", error=repr(error))
        finally:
            self._ended.set()

    def __enter__(self) -> ApiServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
