"""Takes batches over from the gateways of other sites: the receiving end of a hand-over.

One token is one batch for ever: its ids follow from it, so that taking it again changes nothing, and one that was given
back before it came leaves a record that refuses it when it does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from scheduler.gateway.config import TenantConfig
from scheduler.gateway.intake import Incoming
from scheduler.gateway.lines import ENDPOINTS
from scheduler.gateway.model import ApiError, Batch, Status
from scheduler.gateway.peer import Far
from scheduler.gateway.shelf import Shelf

LONGEST_TOKEN = 100


class Host:
    """Batches of other sites. `begin` has a new one checked and worked, `cancel` stops one, `look` counts it."""

    def __init__(
        self,
        shelf: Shelf,
        now: Callable[[], datetime],
        begin: Callable[[Batch], object],
        cancel: Callable[[Batch], Batch],
        look: Callable[[Batch], Batch],
        quota: Callable[[TenantConfig], None],
    ) -> None:
        self._shelf, self._now, self._begin, self._cancel = shelf, now, begin, cancel
        self._look, self._quota = look, quota

    def lacks(self, tenant: TenantConfig, token: str) -> bool:
        """Whether the input of a hand-over is still to come: what came before, or is over, is not kept again. Raises
        ApiError."""
        key = _key(tenant.name, token)
        return self._shelf.known(f"batch_{key}") is None and self._shelf.held(f"file-{key}") is None

    def keep(self, tenant: TenantConfig, token: str, coming: Incoming) -> None:
        """Store the input of a hand-over (blocking)."""
        if self.lacks(tenant, token):
            self._shelf.keep(coming, "moved.jsonl", f"file-{_key(tenant.name, token)}")

    def take(self, tenant: TenantConfig, token: str, body: Mapping[str, Any]) -> Far:
        """Take a batch over. Raises ApiError: 400 naming the field, 409 before its input is here, 410 when too late."""
        name, now = "batch_" + _key(tenant.name, token), self._now()
        held = self._shelf.known(name)
        if held is not None:
            return self.far(held)
        batch = _batch(name, tenant.name, "file-" + _key(tenant.name, token), body, now)
        if batch.expires_at <= now:
            raise ApiError(410, "expires_at: is past", "expired", "expires_at")
        if self._shelf.held(batch.input_file) is None:
            raise ApiError(409, "its input has not come yet", "input_missing")
        try:
            self._quota(tenant)
        except ApiError as error:  # no "come again": it goes on where it is
            raise ApiError(422, f"not taken: {error}", "quota_exceeded") from None
        self._begin(self._shelf.put(batch))
        return self.far(batch)

    def look(self, tenant: TenantConfig, token: str) -> Far:
        """How far it is. Raises ApiError (404)."""
        held = self._shelf.known("batch_" + _key(tenant.name, token))
        if held is None:
            raise ApiError(404, "no such hand-over", "not_found")
        return self.far(self._look(held))

    def give_back(self, tenant: TenantConfig, token: str) -> Far:
        """Stop it; what never came is refused from now on."""
        key, now = _key(tenant.name, token), self._now()
        name = f"batch_{key}"
        held = self._shelf.known(name)
        if held is None:
            dead = Batch(name, tenant.name, ENDPOINTS[0], "", "0s", now, now, now, told=True)
            dead = self._shelf.put(dead.at(Status.CANCELLED, now))
            if (input_file := self._shelf.held(f"file-{key}")) is not None:
                self._shelf.drop(input_file)
            return self.far(dead)
        if held.over or held.status in {Status.CANCELLING, Status.FINALIZING}:
            return self.far(held)
        return self.far(self._cancel(held))

    @staticmethod
    def far(batch: Batch) -> Far:
        """As the one that handed it over sees it."""
        why = "; ".join(error.message for error in batch.errors[:3])
        output, errors = (batch.output_file, batch.error_file) if batch.over else (None, None)
        return Far(batch.status.value, batch.over, batch.completed, batch.failed, output, errors, why)


def _key(tenant: str, token: str) -> str:
    """24 hexadecimal digits for a tenant's token. Raises ApiError (400)."""
    if not (token.isascii() and token.isprintable() and 0 < len(token) <= LONGEST_TOKEN):
        raise ApiError(400, "token: is not one", "invalid_value", "token")
    return hashlib.sha256(f"{tenant}\0{token}".encode()).hexdigest()[:24]


def _batch(name: str, tenant: str, file: str, body: Mapping[str, Any], now: datetime) -> Batch:
    """The batch that the terms mean. Raises ApiError naming the field."""
    if body.get("endpoint") not in ENDPOINTS:
        raise ApiError(400, f"endpoint: is one of {', '.join(ENDPOINTS)}", "invalid_value", "endpoint")
    price, priority, origin = body.get("max_price"), body.get("priority"), body.get("origin")
    if price is not None and not (isinstance(price, int | float) and 0 <= price < 1e9):
        raise ApiError(400, "max_price: is a price from 0 on", "invalid_value", "max_price")
    if not isinstance(priority, int) or abs(priority) > 999:
        raise ApiError(400, "priority: is a whole number from -999 to 999", "invalid_value", "priority")
    if not isinstance(origin, str) or not origin.startswith(f"{tenant}/") or len(origin) > 200:
        text = f"origin: {origin!r} is not of {tenant!r}; a gateway is a tenant by its site's name"
        raise ApiError(400, text, "invalid_value", "origin")
    expires, deadline = _moment(body, "expires_at"), _moment(body, "deadline")
    return Batch(
        id=name, tenant=tenant, endpoint=str(body["endpoint"]), input_file=file, window="moved", created_at=now,
        expires_at=expires, deadline=min(deadline, expires), priority=priority,
        max_price=None if price is None else float(price), origin=origin,
    )  # fmt: skip


def _moment(body: Mapping[str, Any], name: str) -> datetime:
    try:
        found = datetime.fromisoformat(str(body.get(name)))
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise ApiError(400, f"{name}: is an aware time", "invalid_value", name)
    return found
