"""What the HTTP side must know, with secrets already resolved and nothing about files.

Why apart from the configuration: the API is also built by tests and tools, which have no config file.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Token:
    """A bearer token: the name that the books keep, and the secret that they never do."""

    name: str
    secret: str = field(repr=False)


@dataclass(frozen=True)
class ApiSettings:
    """Where to listen, who may ask, who may change.

    `open_on_loopback`: reading needs no token while `host` is a loopback address; changes need one always.
    `allowed_hosts`: names a browser may use in its address bar besides localhost and literal addresses ("*": any).
    `page`: serve the web page at "/" (needs the extra `web`). `demo`: the page says that the site is simulated.
    """

    host: str = "127.0.0.1"
    port: int = 8642
    read_tokens: tuple[Token, ...] = ()
    write_tokens: tuple[Token, ...] = ()
    open_on_loopback: bool = True
    allowed_hosts: tuple[str, ...] = ()
    title: str = "Gridpace"
    demo: bool = False
    page: bool = True
    max_body_bytes: int = 1_000_000
    body_timeout_s: float = 10.0
    max_pages: int = 200

    @property
    def reads_are_open(self) -> bool:
        """True when reading needs no token: asked for, and nobody outside this machine can reach the port."""
        return self.open_on_loopback and is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """True for localhost and the loopback addresses, not for a name that only resolves to one."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
