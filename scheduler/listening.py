"""A bound socket for a server, or a plain word why there is none.

Why apart from the servers: daemon and gateway bind alike, and neither should load the other's routes for it.
"""

from __future__ import annotations

import socket

from adapters.ports import AdapterError


class ServerError(AdapterError):
    """The server could not start; the text names the address."""


def bind(host: str, port: int, part: str = "api") -> socket.socket:
    """A socket bound to the address; ServerError says why not, naming the config's `part`."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, proto)
    except OSError as error:
        raise ServerError(f"{part}.host: {host!r} is no address of this machine: {error.strerror or error}") from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(512)
    except OSError as error:
        bound.close()
        raise ServerError(
            f"{part}: cannot listen at {host}:{port}: {error.strerror or error}. Is one running already?"
        ) from error
    return bound
