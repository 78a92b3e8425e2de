"""What every request passes before it reaches a route: right host, small body, in time; and what every answer carries.

Why as plain ASGI: it must also stand before WebSockets and before the page's own application, and a body that arrives
drop by drop must be stopped while it arrives. The Host check defeats DNS rebinding: a hostile page can make its own
name point at 127.0.0.1, but cannot make the browser send our name. A literal address is no name and is always right.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from scheduler.api.encode import Json
from scheduler.api.settings import ApiSettings

# The page needs inline and generated code (its templates compile in the browser), but nothing from another host.
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'; base-uri 'self'; "
    "form-action 'self'; object-src 'none'"
)
CARRIED = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
}


class Gate:
    """ASGI middleware: Host and Origin check, body limits, a bounded number of WebSockets, headers on the answer."""

    def __init__(self, app: ASGIApp, settings: ApiSettings) -> None:
        self.app = app
        self.settings = settings
        self.sockets = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with a 4xx."""
        if scope["type"] == "websocket":
            await self._socket(scope, receive, send)
        elif scope["type"] == "http":
            await self._request(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        if not self._is_ours(headers.get("host", "")):
            await self._refuse(421, "this name is not in api.allowed_hosts", scope, receive, send)
        elif not _length_fits(headers.get("content-length"), self.settings.max_body_bytes):
            await self._refuse(413, self._too_large(), scope, receive, send)
        else:
            await self.app(scope, self._limited(receive), _carrying(send))

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        foreign = origin is not None and urlsplit(origin).netloc != headers.get("host")
        if foreign or not self._is_ours(headers.get("host", "")) or self.sockets >= self.settings.max_pages:
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        self.sockets += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.sockets -= 1

    async def _refuse(self, status: int, text: str, scope: Scope, receive: Receive, send: Send) -> None:
        await Json({"error": text, "field": None}, status)(scope, receive, _carrying(send))

    def _is_ours(self, host: str) -> bool:
        name = _name_of(host)
        known = {"localhost", self.settings.host, *self.settings.allowed_hosts}
        return name in known or "*" in known or _is_address(name)

    def _too_large(self) -> str:
        return f"the body is larger than {self.settings.max_body_bytes} bytes"

    def _limited(self, receive: Receive) -> Receive:
        """`receive` that raises 413 when the body grows too large, 408 when it does not arrive in time."""
        taken, whole = 0, False
        ends = time.monotonic() + self.settings.body_timeout_s

        async def limited() -> Message:
            nonlocal taken, whole
            if whole:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, ends - time.monotonic()))
            except TimeoutError:
                raise HTTPException(408, "the body did not arrive in time") from None
            taken += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if taken > self.settings.max_body_bytes:
                raise HTTPException(413, self._too_large())
            return message

        return limited


def _carrying(send: Send) -> Send:
    """`send` that adds the protective headers to the start of an answer."""

    async def carrying(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in CARRIED.items():
                headers.setdefault(name, value)
            headers.setdefault("cache-control", "no-store")
        await send(message)

    return carrying


def _length_fits(length: str | None, limit: int) -> bool:
    """False for a declared length that is no number or above the limit."""
    if length is None:
        return True
    return length.isascii() and length.isdigit() and len(length) < 16 and int(length) <= limit


def _name_of(host: str) -> str:
    """The Host header without its port, in small letters; brackets of an IPv6 address removed."""
    try:
        return (urlsplit(f"//{host}").hostname or "") if host else ""
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    """True for a literal IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
