"""Where a NATS bus is and who we are on it; apart from the connection, so that naming a bus loads no library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class BusSettings:
    """Where the servers are and who we are. `name` is also the prefix of the private inbox that the server lets us
    hear; `seed_file` holds the secret of the nkey, `ca_file` the certificate authority of the servers."""

    servers: tuple[str, ...]
    name: str
    seed_file: Path | None = None
    ca_file: Path | None = None

    @property
    def place(self) -> str:
        """The servers, for messages."""
        return ", ".join(self.servers)
