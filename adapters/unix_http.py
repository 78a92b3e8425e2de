"""HTTP over a Unix socket for `requests`: the way in to privileged daemons of the same machine.

Why not a package: what is needed is one connection class under urllib3, which requests brings; the packages at hand
open a pool for every address asked, and here limits are a part of it.
"""

from __future__ import annotations

import socket
from time import monotonic, sleep
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

AGAIN_S, BUSY_S = 0.005, 3.0
"""How soon a full queue is tried again, and for how long where a request has no time-out of its own."""


class UnixAdapter(HTTPAdapter):
    """Sends every request to one socket, whatever host its address names."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._pool = _Pool(path)

    def get_connection_with_tls_context(self, *_arguments: Any, **_named: Any) -> HTTPConnectionPool:
        """The socket's pool (called by requests)."""
        return self._pool

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()
        super().close()


class _Connection(HTTPConnection):
    def __init__(self, path: str, **settings: Any) -> None:
        super().__init__("localhost", **settings)
        self._path = path

    def connect(self) -> None:
        """Connect within the time that a connection may take. A socket whose queue is full refuses at once (EAGAIN)
        where a blocking one would wait: eight cards that are asked at the same time fill a queue of five."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        seconds = float(self.timeout) if isinstance(self.timeout, int | float) else BUSY_S
        ends = monotonic() + seconds
        try:
            sock.settimeout(self.timeout)
            while True:
                try:
                    sock.connect(self._path)
                    break
                except BlockingIOError:
                    if monotonic() >= ends:
                        raise TimeoutError(f"{self._path}: its queue is full") from None
                    sleep(AGAIN_S)
        except OSError:
            sock.close()
            raise
        self.sock = sock


class _Pool(HTTPConnectionPool):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", maxsize=1)
        self._path = path

    def _new_conn(self) -> _Connection:
        self.num_connections += 1
        return _Connection(self._path)
