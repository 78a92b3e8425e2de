"""Who asks, how often they may, and what they sent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from time import monotonic
from typing import Any

from starlette.requests import Request

from scheduler.gateway.config import GatewayConfig, TenantConfig
from scheduler.gateway.model import ApiError

LARGEST_BODY = 1_000_000
BURST_S = 2.0


class Guests:
    """Keys are looked up by their hash, so that a tenant more costs nothing, and the time tells nothing."""

    def __init__(self, config: GatewayConfig) -> None:
        self._tenants = {_digest(one.key.reveal(config.base_dir)): one for one in config.tenants}
        metrics = config.metrics_key
        self._metrics = None if metrics is None else _digest(metrics.reveal(config.base_dir))
        self._left = {one.name: (one.requests_per_s * BURST_S, monotonic()) for one in config.tenants}

    def tenant(self, request: Request) -> TenantConfig:
        """The tenant of a request's key. Raises ApiError: 401, or 429 when it asks too often."""
        found = self._tenants.get(_shown(request))
        if found is None:
            raise ApiError(401, "Incorrect API key provided.", "invalid_api_key")
        self._count(found)
        return found

    def may_name_tenants(self, request: Request) -> bool:
        """Whether a request for metrics may see who the tenants are: with the key for that, and no other."""
        return self._metrics is not None and _shown(request) == self._metrics

    def _count(self, tenant: TenantConfig) -> None:
        """A bucket of tokens that fills at the tenant's rate and holds those of BURST_S."""
        (left, at), now, rate = self._left[tenant.name], monotonic(), tenant.requests_per_s
        left = min(rate * BURST_S, left + (now - at) * rate)
        self._left[tenant.name] = (left - 1.0 if left >= 1.0 else left, now)
        if left < 1.0:
            text = f"{tenant.name} may ask {rate:g} times a second"
            raise ApiError(429, text, "rate_limit_exceeded", None, retry_after_s=(1.0 - left) / rate)


def _shown(request: Request) -> bytes:
    """The hash of the key that a request shows; of none where it shows none."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return _digest(key.strip()) if scheme.lower() == "bearer" else b""


def _digest(key: str) -> bytes:
    return sha256(key.encode("utf-8", "surrogateescape")).digest()


async def body_of(request: Request) -> Mapping[str, Any]:
    """The JSON object that a request carries. Raises ApiError."""
    text = bytearray()
    async for piece in request.stream():
        text += piece
        if len(text) > LARGEST_BODY:
            raise ApiError(413, f"the body has more than {LARGEST_BODY} bytes")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON: {error}", "invalid_json") from None
    if not isinstance(found, dict):
        raise ApiError(400, "the body is not a JSON object", "invalid_json")
    return found
