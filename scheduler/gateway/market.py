"""What tokens cost, from the daemon's quotes: an indication for each interval, and what can be bought of it for sure.

Why a supply curve: the daemon quotes the next GPU-hour at the margin of its plan, and says how many GPUs its plan and
the site's limits leave free. An amount costs what the cheapest free hours before its deadline cost, and never more GPUs
are sold than a part of those that are free, so that plans that change can still keep what was sold.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from scheduler.gateway.config import FirmConfig, UpstreamConfig

SHOWN_S = 2.0
"""How old the shown amounts may be: a question for a firm quote decides, and thousands ask."""

SLACK = 1.1
"""A price within so much of the day's lowest one counts as cheap."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One interval of a pool: price of one more GPU-hour (None: there is none), GPUs that are free."""

    start: datetime
    end: datetime
    per_gpu_h: float | None
    free_gpus: float

    def gpu_h(self, now: datetime, deadline: datetime) -> float:
        """Free GPU-hours of it between now and a deadline."""
        seconds = (min(self.end, deadline) - max(self.start, now)).total_seconds()
        return max(0.0, seconds) / 3600.0 * self.free_gpus if self.per_gpu_h is not None else 0.0


@dataclass(frozen=True, slots=True)
class Offer:
    """An amount of work and what it is sold for: money for a million tokens, and GPUs that it may use at once."""

    work_gpu_h: float
    per_million: float
    max_gpus: int


class Market:
    """Prices of the daemon's plan in force; empty before the first one."""

    def __init__(self, upstreams: Sequence[UpstreamConfig], firm: FirmConfig) -> None:
        self._upstreams, self._firm = upstreams, firm
        self.made_at, self.currency, self.note = datetime.min.replace(tzinfo=UTC), "", "no plan is known yet"
        self._slots: dict[str, tuple[Slot, ...]] = {}
        self.last: dict[str, float] = {}
        """Last price of a million tokens that was known, by upstream."""
        self._shown: tuple[object, bytes] = (None, b"")
        self._cheapest: dict[str, tuple[Slot, ...]] = {}

    def hear(self, told: Mapping[str, Any]) -> bool:
        """Take in the daemon's quotes; True when they are new. Raises ValueError, KeyError or TypeError when they are
        none."""
        made_at = datetime.fromisoformat(told["made_at"])
        slots = {str(pool["pool"]): tuple(map(_slot, pool["intervals"])) for pool in told["pools"]}
        new = (made_at, slots) != (self.made_at, self._slots)
        self.made_at, self.currency, self.note, self._slots = made_at, str(told["currency"]), str(told["note"]), slots
        self._cheapest = {
            pool: tuple(sorted(mine, key=lambda one: (one.per_gpu_h or 0.0, one.start))) for pool, mine in slots.items()
        }
        return new

    # ---------------------------------------------------------------- prices
    def indication(self, upstream: UpstreamConfig, now: datetime) -> float | None:
        """Price of a million tokens now: the last one known, where the plan in force has none; None: never any."""
        slot = next((one for one in self._slots.get(upstream.pool, ()) if one.start <= now < one.end), None)
        if slot is not None and slot.per_gpu_h is not None:
            self.last[upstream.id] = per_million(slot.per_gpu_h, upstream)
        return self.last.get(upstream.id)

    def cheap_in_s(self, upstream: UpstreamConfig, now: datetime) -> float | None:
        """Seconds until power is about as cheap as it gets in the coming day (0: it is now); None: nobody knows."""
        priced = [one for one in self._slots.get(upstream.pool, ()) if one.per_gpu_h is not None and one.end > now]
        lowest = min((one.per_gpu_h or 0.0 for one in priced), default=None)
        if lowest is None:
            return None
        enough = lowest + (SLACK - 1.0) * abs(lowest) + 1e-12
        return min(max(0.0, (one.start - now).total_seconds()) for one in priced if (one.per_gpu_h or 0.0) <= enough)

    def room_in_s(self, upstream: UpstreamConfig, now: datetime, after: datetime) -> float | None:
        """Seconds until the first interval that ends after `after` and has free GPUs; None: the coming day has none."""
        found = [one for one in self._slots.get(upstream.pool, ()) if one.end > after and one.gpu_h(now, one.end) > 0]
        return max(0.0, (found[0].start - now).total_seconds()) if found else None

    # ---------------------------------------------------------------- offers
    def offer(
        self, upstream: UpstreamConfig, tokens: int, now: datetime, deadline: datetime, taken_gpu_h: float
    ) -> Offer | None:
        """The cheapest free hours before the deadline, after those that are `taken` by other offers; None: too few."""
        work_gpu_h = tokens / upstream.tokens_per_gpu_h
        cost, left, gpus = 0.0, work_gpu_h, 0.0
        for slot in self._cheapest.get(upstream.pool, ()):
            have = slot.gpu_h(now, deadline) * self._firm.share
            gone = min(have, taken_gpu_h)
            taken_gpu_h -= gone
            used = min(have - gone, left)
            left -= used
            cost += used * max(0.0, slot.per_gpu_h or 0.0)
            gpus = max(gpus, slot.free_gpus * self._firm.share if used > 0 else 0.0)
            if left <= 1e-12:
                price = per_million(cost / work_gpu_h * (1.0 + self._firm.markup), upstream)
                return Offer(work_gpu_h, max(price, self._firm.least_per_million), max(1, math.ceil(gpus)))
        return None

    def shown(self, now: datetime, taken_gpu_h: Callable[[], Mapping[str, float]]) -> bytes:
        """The whole list as JSON, made once for each plan, and again after a while where something was set aside."""
        key = (self.made_at, self.note, int(now.timestamp() // SHOWN_S))
        if self._shown[0] != key:
            self._shown = (key, json.dumps(self._list(now, taken_gpu_h()), separators=(",", ":")).encode())
        return self._shown[1]

    def _list(self, now: datetime, taken_gpu_h: Mapping[str, float]) -> dict[str, Any]:
        models = [
            {"model": model, "intervals": self._intervals(one, now, taken_gpu_h.get(one.pool, 0.0))}
            for one in self._upstreams
            for model in one.models
        ]
        return {
            "object": "list",
            "made_at": self.made_at.isoformat() if self._slots else None,
            "currency": self.currency,
            "note": self.note,
            "data": models,
        }

    def _intervals(self, upstream: UpstreamConfig, now: datetime, taken_gpu_h: float) -> list[dict[str, Any]]:
        slots = [one for one in self._slots.get(upstream.pool, ()) if one.end > now]
        left = self._left(slots, now, taken_gpu_h)
        return [_interval(one, left[one.start], upstream, self._firm) for one in slots]

    def _left(self, slots: Sequence[Slot], now: datetime, taken_gpu_h: float) -> dict[datetime, float]:
        """GPU-hours of each interval that can be bought: what is taken is taken from the cheapest."""
        left: dict[datetime, float] = {}
        for slot in sorted(slots, key=lambda one: (one.per_gpu_h or 0.0, one.start)):
            have = slot.gpu_h(now, slot.end) * self._firm.share
            gone = min(have, taken_gpu_h)
            taken_gpu_h -= gone
            left[slot.start] = have - gone
        return left


def per_million(per_gpu_h: float, upstream: UpstreamConfig) -> float:
    """Money for a million tokens of what a GPU-hour costs."""
    return per_gpu_h / upstream.tokens_per_gpu_h * 1e6


def _interval(slot: Slot, left_gpu_h: float, upstream: UpstreamConfig, firm: FirmConfig) -> dict[str, Any]:
    price = None if slot.per_gpu_h is None else per_million(slot.per_gpu_h, upstream)
    tokens = math.floor(left_gpu_h * upstream.tokens_per_gpu_h)
    sure = None
    if price is not None and tokens > 0:
        sure = {"per_million_tokens": max(firm.least_per_million, max(0.0, price) * (1 + firm.markup)),
                "tokens": tokens}  # fmt: skip
    return {
        "start": slot.start.isoformat(),
        "end": slot.end.isoformat(),
        "indication_per_million_tokens": price,
        "firm": sure,
    }


def _slot(plain: Mapping[str, Any]) -> Slot:
    price = plain["per_gpu_h"]
    return Slot(
        datetime.fromisoformat(plain["start"]), datetime.fromisoformat(plain["end"]),
        None if price is None else float(price), max(0.0, float(plain["free_gpus"])),
    )  # fmt: skip
