"""Another site's gateway, as one that hands work over to it knows it.

Why a token in the address: every call may be sent again, by hand or by a network, and means the same. The other side
derives the ids of file and batch from it, so one token is one batch, or none for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import aiohttp

PIECE = 1024 * 1024
CALL_S, STALL_S = 10.0, 60.0
AGAIN = frozenset({401, 403, 408, 409, 425, 429})
"""Statuses below 500 that say "not now" or "set me up", and nothing about the work."""


class PeerError(Exception):
    """The other gateway did not answer, or not now: ask again."""


class PeerRefused(Exception):
    """The other gateway will not take this work."""


@dataclass(frozen=True)
class Far:
    """How far the work is there. `over`: nothing of it runs any more, and nothing ever will under this token."""

    status: str
    over: bool
    completed: int = 0
    failed: int = 0
    output: str | None = None
    errors: str | None = None
    why: str = ""


class Peer(Protocol):
    """What the one that hands over asks. Each call may be repeated. Raises PeerError."""

    async def send(self, token: str, source: Path) -> None:
        """The input, before `take`. Raises PeerRefused."""
        ...

    async def take(self, token: str, terms: Mapping[str, Any]) -> Far:
        """Take the work whose input was sent. Raises PeerRefused, which is no promise: it is to be given back."""
        ...

    async def look(self, token: str) -> Far | None:
        """How far it is; None where the token is unknown."""
        ...

    async def give_back(self, token: str) -> Far:
        """Stop it. Once the answer says `over`, the token is dead there, whether it was known or not."""
        ...

    async def fetch(self, token: str, file: str, into: Path) -> None:
        """A file of answers of work that is over, whole."""
        ...

    async def close(self) -> None:
        """Hang up."""
        ...


class HttpPeer:
    """`Peer` over HTTP, as a tenant of the other gateway."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url.rstrip("/")
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CALL_S, sock_read=STALL_S)
        self._session = aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}, timeout=timeout)

    async def send(self, token: str, source: Path) -> None:
        """See Peer."""
        await self._ask("PUT", f"/v1/moves/{token}/input", data=_pieces(source))

    async def take(self, token: str, terms: Mapping[str, Any]) -> Far:
        """See Peer."""
        return _far(await self._ask("PUT", f"/v1/moves/{token}", json=terms))

    async def look(self, token: str) -> Far | None:
        """See Peer."""
        found = await self._ask("GET", f"/v1/moves/{token}", missing=True)
        return None if found is None else _far(found)

    async def give_back(self, token: str) -> Far:
        """See Peer."""
        return _far(await self._ask("DELETE", f"/v1/moves/{token}"))

    async def fetch(self, token: str, file: str, into: Path) -> None:
        """See Peer."""
        part = into.with_suffix(".part")
        try:
            async with self._session.get(f"{self.url}/v1/files/{file}/content", allow_redirects=False) as answer:
                if answer.status != 200:
                    raise PeerError(f"{self.url}: HTTP {answer.status} for the answers")
                with part.open("wb") as stream:
                    async for piece in answer.content.iter_chunked(PIECE):
                        await asyncio.to_thread(stream.write, piece)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise PeerError(f"{self.url}: {str(error) or type(error).__name__}") from None
        part.rename(into)

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def _ask(self, method: str, path: str, missing: bool = False, **how: Any) -> Any:
        if "data" not in how:
            how["timeout"] = aiohttp.ClientTimeout(total=CALL_S)
        try:
            async with self._session.request(method, self.url + path, allow_redirects=False, **how) as answer:
                if answer.status == 404 and missing:
                    return None
                if answer.status >= 300:
                    text = f"{self.url}: {await _said(answer)}"
                    raise (PeerRefused if 400 <= answer.status < 500 and answer.status not in AGAIN else PeerError)(
                        text
                    )
                return await answer.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise PeerError(f"{self.url}: {str(error) or type(error).__name__}") from None


def _far(found: Any) -> Far:
    try:
        return Far(**{name: found[name] for name in Far.__dataclass_fields__})
    except (KeyError, TypeError):
        raise PeerError("what answers there is not Gridpace's gateway") from None


async def _pieces(source: Path) -> AsyncIterator[bytes]:
    with source.open("rb") as stream:
        while piece := await asyncio.to_thread(stream.read, PIECE):
            yield piece


async def _said(answer: aiohttp.ClientResponse) -> str:
    try:
        return str((await answer.json(content_type=None))["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {answer.status}"
