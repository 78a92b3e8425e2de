"""One OpenAI-compatible server: sends a request, and says what its answer means for the request and for the others.

Why three kinds: what never reached the server or was turned away for load is no attempt, and tells to wait; what broke
on the way or inside the server may be tried again; what the server understood is the answer, a refusal included.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import aiohttp

from scheduler.gateway.config import UpstreamConfig

LONGEST_ANSWER = 64 * 1024 * 1024
LONGEST_WAIT_S = 300.0
CONNECT_S = 10.0
_OVERLOADED = frozenset({429, 503, 529})
_AGAIN = frozenset({408, 409, 425})


@dataclass(frozen=True, slots=True)
class Answer:
    """The server answered: 2xx is good, everything else the request's own fault."""

    status: int
    request_id: str
    body: Any

    @property
    def good(self) -> bool:
        """Whether it is what was asked for."""
        return 200 <= self.status < 300


@dataclass(frozen=True, slots=True)
class Broken:
    """It was sent and has no usable answer; may be tried again. `answer` is what the server said, if anything."""

    code: str
    text: str
    answer: Answer | None = None


@dataclass(frozen=True, slots=True)
class Away:
    """The server took it not: not `reached`, or too busy. `wait_s` is what it asked for (None: it did not say);
    `answer`: what it said."""

    text: str
    wait_s: float | None = None
    reached: bool = True
    answer: Answer | None = None


Outcome = Answer | Broken | Away


class Upstream:
    """Sends to one server over connections that are kept."""

    def __init__(self, url: str, key: str | None, timeout_s: float) -> None:
        self.url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._session = aiohttp.ClientSession(
            headers=headers,
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(CONNECT_S, timeout_s)),
            raise_for_status=False,
        )

    async def send(self, endpoint: str, body: Mapping[str, Any]) -> Outcome:
        """One request; never raises but for a cancellation."""
        try:
            async with self._session.post(self.url + endpoint, json=body, allow_redirects=False) as response:
                text = await _read(response)
                if text is None:
                    return Broken("upstream_error", f"{self.url} answers with more than {LONGEST_ANSWER} bytes")
                return _outcome(response, text)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            return Away(f"{self.url} can't be reached: {error}", reached=False)
        except asyncio.TimeoutError:  # noqa: UP041 - aiohttp's own timeouts inherit from this name
            return Broken("upstream_timeout", f"{self.url} gave no answer in time")
        except aiohttp.ClientError as error:
            return Broken("upstream_error", f"{type(error).__name__}: {error}")

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()


def upstream_of(config: UpstreamConfig, base_dir: Path) -> Upstream:
    """The server that a file names."""
    key = config.key.reveal(base_dir) if config.key is not None else None
    return Upstream(config.url, key, config.timeout.total_seconds())


async def _read(response: aiohttp.ClientResponse) -> bytes | None:
    """An answer's body; None where it is longer than may be held, whether the server says its length or not."""
    if (response.content_length or 0) > LONGEST_ANSWER:
        return None
    text = bytearray()
    async for part in response.content.iter_any():
        text += part
        if len(text) > LONGEST_ANSWER:
            return None
    return bytes(text)


def _outcome(response: aiohttp.ClientResponse, text: bytes) -> Outcome:
    status = response.status
    answer = Answer(status, response.headers.get("x-request-id", ""), _body(text))
    if status in _OVERLOADED:
        wait_s = _retry_after(response.headers.get("Retry-After"))
        return Away(f"{response.url} answers {status}", wait_s, answer=answer)
    if status >= 500 or status in _AGAIN:
        return Broken("upstream_error", f"{response.url} answers {status}", answer)
    if answer.good and not isinstance(answer.body, dict):
        return Broken("upstream_error", f"{response.url} answers {status} with what is no JSON object")
    return answer


def _body(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text[:2000].decode(errors="replace")


def _retry_after(text: str | None) -> float | None:
    """Seconds of a Retry-After header, which holds seconds or a date (RFC 9110, section 10.2.3)."""
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    return min(max(seconds, 0.0), LONGEST_WAIT_S) if math.isfinite(seconds) else None
