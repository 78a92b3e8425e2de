"""Ports for servers that tests start.

Why not one that the system picks: it picks from the range in which every connection that begins also takes one, so
that between the question and the server's start another worker's socket may have it.
"""

import os
import socket
from itertools import count

FIRST, EACH, WORKERS = 10_000, 1_000, 20
"""Below Linux's range for connections (32,768 and up); each worker has its own part of it."""

_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % WORKERS
_next = count(os.getpid() % EACH)  # two suites on one machine begin at different places


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, and that this process gives out once in a thousand calls."""
    for _ in range(EACH):
        port = FIRST + _worker * EACH + next(_next) % EACH
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"no port is free from {FIRST + _worker * EACH} on")
