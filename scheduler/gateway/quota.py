"""How much a tenant may have at once.

Why looked at twice: how many requests a batch holds is known once it is checked, and many may have been created before.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from scheduler.gateway.config import TenantConfig
from scheduler.gateway.model import ApiError, Batch, InputError

LEAST_WAIT_S = 60.0
"""Who has too much under way comes back after this, or when power is cheap for it and it gets done."""


def waiting(batches: Iterable[Batch]) -> tuple[int, int]:
    """Batches that are not over, and requests of them that are not answered."""
    open_ones = [one for one in batches if not one.over]
    return len(open_ones), sum(one.total - one.completed - one.failed for one in open_ones)


def refuse_beyond(
    tenant: TenantConfig, batches: Collection[Batch], cheap_in_s: Callable[[Collection[str]], float]
) -> None:
    """Raises ApiError (429) where a tenant with these batches may have no other; it may come again when those that are
    not over get done: when power is cheap for their models (`cheap_in_s`: seconds until then)."""
    count, requests = waiting(batches)
    if count >= tenant.max_batches or requests >= tenant.max_requests:
        text = f"{count} batches with {requests} requests are not over yet"
        wait_s = cheap_in_s({one.model for one in batches if one.model and not one.over})
        raise ApiError(429, text, "quota_exceeded", None, retry_after_s=max(LEAST_WAIT_S, wait_s))


def beyond(tenant: TenantConfig | None, batch: Batch, lines: int, batches: Iterable[Batch]) -> tuple[InputError, ...]:
    """Why a batch that was checked, and has so many lines, can't begin beside the tenant's others. One that another
    site handed over was judged when it came."""
    if tenant is None or batch.origin:
        return ()
    _, requests = waiting(one for one in batches if one.id != batch.id)
    if requests + lines <= tenant.max_requests:
        return ()
    text = f"{lines} requests, beside {requests} of other batches that are not over yet, are more than "
    return (InputError("quota_exceeded", f"{text}{tenant.max_requests}"),)
