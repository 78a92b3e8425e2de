"""What a client asks of a batch beyond OpenAI's fields, and what that is for the plan.

Why in `metadata`: it is the one place that every client already passes on unchanged. The keys: `deadline` (an aware
time, or a duration from now), `priority` (a whole number), `max_price_per_million_tokens` (a bid: such a batch runs
only where power is cheap enough for it, and may stay undone), `quote` (a firm quote that was accepted), `sites` (which
of the tenant's other sites its data may go to).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from scheduler.coordination.messages import MOVED_FROM
from scheduler.gateway.model import BYTES_PER_TOKEN, ApiError, Batch

DEADLINE, PRIORITY, MAX_PRICE, QUOTE = "deadline", "priority", "max_price_per_million_tokens", "quote"
SITES = "sites"
LONGEST_WINDOW = timedelta(days=30)
MOST_PAIRS, LONGEST_KEY, LONGEST_VALUE = 16, 64, 512
_DURATION = re.compile(r"(\d{1,6})([smhd])")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True)
class Terms:
    """`expires_at` ends the completion window; `deadline` is at most that."""

    expires_at: datetime
    deadline: datetime
    priority: int
    max_price: float | None


def terms(window: str, metadata: Mapping[str, str], now: datetime) -> Terms:
    """What the window and the metadata say. Raises ApiError (400) naming the parameter."""
    expires_at = now + _window(window)
    deadline = time_of(f"metadata.{DEADLINE}", metadata[DEADLINE], now) if DEADLINE in metadata else expires_at
    if not now < deadline <= expires_at:
        raise _bad(f"metadata.{DEADLINE}", f"{deadline.isoformat()} is not between now and the end of {window}")
    bid = price_of(f"metadata.{MAX_PRICE}", metadata[MAX_PRICE]) if MAX_PRICE in metadata else None
    return Terms(expires_at, deadline, _priority(metadata.get(PRIORITY, "0")), bid)


def sites_of(metadata: Mapping[str, str], allowed: Sequence[str]) -> tuple[str, ...]:
    """Other sites that may run a batch: those that its tenant allows, and of these only what the batch itself names (by
    comma; "none" for none). Raises ApiError (400)."""
    text = metadata.get(SITES)
    if text is None:
        return tuple(allowed)
    names = [] if text.strip() == "none" else [name.strip() for name in text.split(",")]
    for name in names:
        if name not in allowed:
            raise _bad(f"metadata.{SITES}", f"{name!r} is not one of {', '.join(allowed) or 'none'}")
    return tuple(dict.fromkeys(names))


def checked_metadata(found: Any) -> dict[str, str]:
    """Metadata as OpenAI limits it: 16 pairs, keys of 64 and texts of 512 characters."""
    if found is None:
        return {}
    if not isinstance(found, dict) or len(found) > MOST_PAIRS:
        raise _bad("metadata", f"is an object of at most {MOST_PAIRS} pairs")
    for key, value in found.items():
        if not isinstance(value, str) or len(key) > LONGEST_KEY or len(value) > LONGEST_VALUE:
            raise _bad(f"metadata.{key[:LONGEST_KEY]}", f"is a text of at most {LONGEST_VALUE} characters")
        if any("\ud800" <= sign <= "\udfff" for sign in key + value):  # it could be shown to nobody
            raise _bad("metadata", "holds half a character")
    return dict(found)


def _window(text: str, param: str = "completion_window") -> timedelta:
    found = _DURATION.fullmatch(text)
    length = timedelta(seconds=int(found.group(1)) * _UNIT_S[found.group(2)]) if found else timedelta()
    if not timedelta() < length <= LONGEST_WINDOW:
        raise _bad(param, f'write a time of at most {LONGEST_WINDOW.days} days, such as "24h" or "7d"')
    return length


def time_of(param: str, text: str, now: datetime) -> datetime:
    """An aware time, or a length of time from now. Raises ApiError (400) naming `param`."""
    found: datetime | None
    if _DURATION.fullmatch(text):
        return now + _window(text, param)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise _bad(param, 'write a time with its zone, such as "2026-11-27T06:00:00Z", or "8h"')
    return found.astimezone(UTC)


def _priority(text: str) -> int:
    if not re.fullmatch(r"[+-]?\d{1,3}", text):
        raise _bad(f"metadata.{PRIORITY}", "write a whole number from -999 to 999")
    return int(text)


def price_of(param: str, text: str) -> float:
    """A price from 0 on. Raises ApiError (400) naming `param`."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 <= found < 1e9:
        raise _bad(param, "write a price from 0 on")
    return found


def _bad(param: str, text: str) -> ApiError:
    return ApiError(400, f"{param}: {text}", "invalid_value", param)


def data_gb(batch: Batch, tokens_per_gpu_h: float, size_bytes: int) -> float:
    """Gigabytes that go to another site with a batch of so many bytes, and come back from it: of its lines without an
    answer, and of the answers that they are estimated to have."""
    left = 1.0 - (batch.completed + batch.failed) / batch.total if batch.total else 1.0
    both_bytes = batch.work_gpu_h * tokens_per_gpu_h * BYTES_PER_TOKEN  # of questions and answers, as it was checked
    return left * max(both_bytes, size_bytes) / 1e9


def job_of(
    batch: Batch, pool: str, tokens_per_gpu_h: float, per_gpu: int, now: datetime, size_bytes: int = 0
) -> dict[str, Any]:
    """The batch as a job of the daemon (the body of `POST /api/v1/jobs`). A bid is worth what it pays for the tokens
    that a GPU makes in an hour, and costs nothing when it stays undone. One that is late already is due at the end of
    its window."""
    job: dict[str, Any] = {
        "id": batch.id,
        "pool": pool,
        "work_gpu_h": batch.work_gpu_h,
        "max_gpus": max(1, math.ceil(batch.total / per_gpu)),
        "deadline": (batch.deadline if batch.deadline > now else batch.expires_at).isoformat(),
        "priority": batch.priority,
        "metadata": {"tenant": batch.tenant, "model": batch.model},
    }
    if batch.sites:
        job |= {"sites": list(batch.open_sites), "data_gb": data_gb(batch, tokens_per_gpu_h, size_bytes)}
    if batch.origin:
        job["metadata"][MOVED_FROM] = batch.origin
    if batch.max_price is not None:
        paid = batch.max_price * tokens_per_gpu_h / 1e6
        job |= {"value_per_gpu_h": paid, "undone_penalty": 0.0, "late_penalty": 0.0}
    return job
