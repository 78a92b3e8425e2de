"""Demand response by a signed webhook: the simplest channel that a utility's script can speak.

What is signed: HMAC-SHA256 over `timestamp.nonce.body`, sent as hex in X-Gridpace-Signature beside X-Gridpace-Timestamp
(unix seconds), X-Gridpace-Nonce and X-Gridpace-Key-Id (the program). The window of 300 s is real time even where the
site's clock is a recorded day; nonces are on disk before a message counts, so that a captured one is refused after a
restart too. Whatever is wrong with a signature gets the same 401: a forger learns nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Protocol

from adapters.dr.body import parse_event
from adapters.ports import EventMessage, EventRefused

__all__ = ["Webhook", "parse_event", "sign"]

BODY_LIMIT = 64 * 1024
WINDOW_S = 300
NONCE_KEPT_S = 86_400.0
"""Longer than the window, so that a wall clock that is set back does not let a captured message in again."""
SHORTEST_SECRET = 16
_NONCE = re.compile(r"[A-Za-z0-9_.=+/-]{8,128}")
_SIGNATURE = re.compile(r"[0-9a-f]{64}")
_TIMESTAMP = re.compile(r"[0-9]{1,12}")


class NonceStore(Protocol):
    """Where nonces are kept."""

    def put_once(self, kind: str, key: str, value: Mapping[str, Any]) -> bool:
        """Keep a record unless one of that key is there, durable when it returns; False where one is."""
        ...


class Webhook:
    """`EventChannel` for the programs whose secrets it is given (program id -> secret).

    `wall` is real time, `records` keeps the nonces, `windows_s` is each program's replay window (300 s). Raises
    ValueError for a secret that is too short to be one.
    """

    def __init__(
        self,
        secrets: Mapping[str, bytes],
        records: NonceStore,
        wall: Callable[[], datetime],
        windows_s: Mapping[str, float] | None = None,
    ) -> None:
        for program, secret in secrets.items():
            if len(secret) < SHORTEST_SECRET:
                raise ValueError(f"the webhook secret of program {program} has less than {SHORTEST_SECRET} bytes")
        self._secrets, self._records, self._wall = dict(secrets), records, wall
        self._windows_s = dict(windows_s or {})
        self._lock = threading.Lock()
        self._coming: set[str] = set()

    def receive(self, headers: Mapping[str, str], body: bytes, now: datetime) -> EventMessage:
        """Verify and parse one message; a start of "now" means `now`.

        Raises EventRefused: 413 too large, 401 not authenticated (whatever the cause), 400 not JSON, 422 a wrong field.
        What the store raises when the nonce can't be kept passes through: the message then does not count.
        """
        if len(body) > BODY_LIMIT:
            raise EventRefused(f"the body is larger than {BODY_LIMIT} bytes", 413)
        program, nonce = self._authenticated({name.lower(): value for name, value in headers.items()}, body)
        self._once(f"{program}/{nonce}")
        return parse_event(body, now, program=program, source="webhook")

    def _once(self, nonce: str) -> None:
        """Keep a nonce; refuse one that was kept, or is being kept by another request. The disk is waited for outside
        the lock, so that messages which come together are written together."""
        with self._lock:
            if nonce in self._coming:
                raise _not_authenticated()
            self._coming.add(nonce)
        try:
            if not self._records.put_once("nonce", nonce, {"forget_after_s": NONCE_KEPT_S}):
                raise _not_authenticated()
        finally:
            with self._lock:
                self._coming.discard(nonce)

    def _authenticated(self, headers: Mapping[str, str], body: bytes) -> tuple[str, str]:
        """Program and nonce of a message with the right signature inside the window."""
        program, nonce = headers.get("x-gridpace-key-id", ""), headers.get("x-gridpace-nonce", "")
        timestamp, given = headers.get("x-gridpace-timestamp", ""), headers.get("x-gridpace-signature", "")
        if not (_NONCE.fullmatch(nonce) and _TIMESTAMP.fullmatch(timestamp) and _SIGNATURE.fullmatch(given)):
            raise _not_authenticated()
        secret = self._secrets.get(program, b"")
        # An unknown program costs the same work as a known one, and comparison takes the same time wherever it differs.
        expected = _signature(secret or b"\0" * 32, body, timestamp, nonce)
        genuine = hmac.compare_digest(expected.encode(), given.encode())
        if not (genuine and secret):
            raise _not_authenticated()
        if abs(self._wall().timestamp() - int(timestamp)) > self._windows_s.get(program, WINDOW_S):
            raise _not_authenticated()
        return program, nonce


def sign(secret: bytes, body: bytes, timestamp: int, nonce: str, key_id: str) -> dict[str, str]:
    """Headers that a sender puts on `body`; `timestamp` in unix seconds, `nonce` 8 to 128 letters never used before."""
    return {
        "X-Gridpace-Key-Id": key_id,
        "X-Gridpace-Timestamp": str(timestamp),
        "X-Gridpace-Nonce": nonce,
        "X-Gridpace-Signature": _signature(secret, body, str(timestamp), nonce),
    }


def _signature(secret: bytes, body: bytes, timestamp: str, nonce: str) -> str:
    return hmac.new(secret, f"{timestamp}.{nonce}.".encode() + body, hashlib.sha256).hexdigest()


def _not_authenticated() -> EventRefused:
    return EventRefused("not authenticated", 401)
