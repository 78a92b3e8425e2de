"""Firm quotes: an amount of tokens of a model until a deadline, at a price that holds until the quote expires.

Life: `open` (its GPU-hours are set aside; in memory, gone with the process), then `expired` or `cancelled`, or
`accepted`: sold, on disk, owed in full, and a job of the daemon that the plan must do (`cancelled` where the planner
refuses it or an operator withdraws it). Batches that name it run on that job's GPUs, one after the other. It ends
`delivered` once its tokens are used, or `closed` at its deadline or earlier by its owner's word; `late` where the site
did not do it in time (see `settling.py`): a batch that is under way goes on, and what was used in the end is owed.
Why the job begins before there is a batch: what was bought is power at a time, and that must be held.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from adapters.ports import RecordStore
from scheduler.gateway.config import FirmConfig, TenantConfig, UpstreamConfig
from scheduler.gateway.market import Market
from scheduler.gateway.model import ApiError
from scheduler.gateway.terms import price_of, time_of

KIND = "gateway_quote"
MOST_TOKENS = 10**13
NEXT_PLAN_S = 60.0


class State(StrEnum):
    """Life of a firm quote."""

    OPEN = "open"
    ACCEPTED = "accepted"
    DELIVERED = "delivered"
    CLOSED = "closed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Quote:
    """`per_million` is money for a million tokens; `used` are tokens delivered; `told`: the daemon knows its end;
    `late`: the site did not do it in time."""

    id: str
    tenant: str
    model: str
    tokens: int
    per_million: float
    currency: str
    made_at: datetime
    expires_at: datetime
    deadline: datetime
    work_gpu_h: float
    max_gpus: int
    state: State = State.OPEN
    accepted_at: datetime | None = None
    used: int = 0
    told: bool = False
    late: bool = False

    @property
    def left(self) -> int:
        """Tokens bought and not used."""
        return max(0, self.tokens - self.used)

    @property
    def paid(self) -> float:
        """What its owner owes: all of it, once it is accepted; what was used of it where the site could not keep it."""
        owed = min(self.used, self.tokens) if self.late or self.state is State.CANCELLED else self.tokens
        return owed * self.per_million / 1e6 if self.accepted_at is not None else 0.0

    def json(self) -> dict[str, Any]:
        """As clients see it."""
        plain: dict[str, Any] = {
            "id": self.id, "object": "quote", "status": self.state.value, "model": self.model, "tokens": self.tokens,
            "per_million_tokens": self.per_million, "price": self.tokens * self.per_million / 1e6,
            "currency": self.currency, "tokens_used": self.used, "late": self.late,
        }  # fmt: skip
        times = {"created_at": self.made_at, "expires_at": self.expires_at, "deadline": self.deadline,
                 "accepted_at": self.accepted_at}  # fmt: skip
        return plain | {name: None if at is None else int(at.timestamp()) for name, at in times.items()}


class Sales:
    """Quotes of all tenants. Lives in the gateway's event loop."""

    def __init__(
        self,
        upstreams: Mapping[str, UpstreamConfig],
        firm: FirmConfig,
        market: Market,
        store: RecordStore,
        now: Callable[[], datetime],
    ) -> None:
        """`upstreams` by the models that they serve."""
        self._of_model, self._firm, self._market, self._store, self._now = upstreams, firm, market, store, now
        self.accepted = {key: read_quote(body) for key, body in store.all(KIND).items() if "id" in body}
        self._open: dict[str, Quote] = {}
        self.heard: dict[str, datetime] = {}
        """When the daemon was known to have the job of a sale; not on disk: after a restart it is told again."""
        self.unkept: Callable[[Quote], bool] = lambda _quote: False
        """Whether the site did not do in time what was sold."""

    # ---------------------------------------------------------------- clients
    def ask(self, tenant: TenantConfig, body: Mapping[str, Any]) -> Quote:
        """A firm quote. Raises ApiError: 400 naming the parameter, 409 above the client's price, 429 without room."""
        now = self._now()
        self.expire(now)
        upstream, tokens, deadline, most = self._asked(body, now)
        self._within(tenant, now)
        offer = self._market.offer(upstream, tokens, now, deadline, self.taken(upstream.pool))
        if offer is None:
            raise self._no_room(upstream, tokens, now, deadline)
        if most is not None and offer.per_million > most:
            wait_s = self._market.cheap_in_s(upstream, now) or NEXT_PLAN_S
            text = f"{tokens} tokens by then cost {offer.per_million:.6g} {self._market.currency} a million now"
            raise ApiError(409, text, "price_above_bid", "max_price_per_million_tokens", retry_after_s=wait_s)
        quote = Quote(
            f"quote_{secrets.token_hex(12)}", tenant.name, str(body["model"]), tokens, offer.per_million,
            self._market.currency, now, min(deadline, now + self._firm.hold), deadline, offer.work_gpu_h,
            offer.max_gpus,
        )  # fmt: skip
        self._open[quote.id] = quote
        return quote

    def accept(self, tenant: str, name: str) -> Quote:
        """Buy; on disk when it returns. Again is the same. Raises ApiError (404; also when it has expired)."""
        self.expire(self._now())
        quote = self.find(tenant, name)
        if quote.state is not State.OPEN:
            return quote
        sold = self.put(replace(quote, state=State.ACCEPTED, accepted_at=self._now()))
        del self._open[name]
        return sold

    def drop(self, tenant: str, name: str) -> Quote:
        """Cancel an open quote, or give up what is left of a bought one (which is owed all the same)."""
        quote = self.find(tenant, name)
        if quote.state is State.OPEN:
            del self._open[name]
            return replace(quote, state=State.CANCELLED)
        return self.put(replace(quote, state=State.CLOSED)) if quote.state is State.ACCEPTED else quote

    def find(self, tenant: str, name: str) -> Quote:
        """A tenant's quote. Raises ApiError (404; also for one that expired)."""
        found = self._open.get(name) or self.accepted.get(name)
        if found is None or found.tenant != tenant:
            raise ApiError(404, f"No quote found with id '{name}'; it may have expired.", "not_found", "id")
        return found

    def of(self, tenant: str) -> list[Quote]:
        """A tenant's quotes: bought ones, then open ones, oldest first."""
        return [one for one in (*self.accepted.values(), *self._open.values()) if one.tenant == tenant]

    # ---------------------------------------------------------------- the gateway
    def put(self, quote: Quote) -> Quote:
        """Keep a bought quote as it is now."""
        self._store.put(KIND, quote.id, _written(quote))
        self.accepted[quote.id] = quote
        return quote

    def expire(self, now: datetime) -> None:
        """Let go of open quotes whose time is over."""
        if any(one.expires_at <= now for one in self._open.values()):
            self._open = {key: one for key, one in self._open.items() if one.expires_at > now}

    def close_due(self, now: datetime) -> None:
        """Close bought ones at their deadline; where the site did not keep one, only what was used of it is owed.
        Raises StoreDegraded."""
        for one in [one for one in self.accepted.values() if one.state is State.ACCEPTED and one.deadline <= now]:
            self.put(replace(one, state=State.CLOSED, late=self.unkept(one)))

    def forget(self, before: datetime) -> None:
        """Forget bought quotes that were over before then."""
        for one in [one for one in self.accepted.values() if one.told and one.deadline < before]:
            self._store.put(KIND, one.id, {"forget_after_s": 0.0})
            del self.accepted[one.id]
            self.heard.pop(one.id, None)

    def use(self, name: str, used: int) -> Quote:
        """Keep how many tokens batches have used of a quote."""
        quote = self.accepted[name]
        state = State.DELIVERED if used >= quote.tokens and quote.state is State.ACCEPTED else quote.state
        return self.put(replace(quote, used=used, state=state))

    def taken(self, pool: str) -> float:
        """GPU-hours of a pool that are set aside or sold, and that the plan in force does not know of yet."""
        unknown = [one for one in self.accepted.values() if one.state is State.ACCEPTED and self._newer(one)]
        models = {model for model, one in self._of_model.items() if one.pool == pool}
        return sum(one.work_gpu_h for one in (*self._open.values(), *unknown) if one.model in models)

    def all_taken(self) -> dict[str, float]:
        """The same by pool."""
        return {one.pool: self.taken(one.pool) for one in self._of_model.values()}

    def job(self, quote: Quote, deadline: datetime) -> dict[str, Any]:
        """A sale as a job of the daemon, due then: worth what is paid for it, and dear when it is late or left
        undone."""
        upstream = self._of_model[quote.model]
        penalty = self._firm.penalty_per_gpu_h
        return {
            "id": quote.id, "pool": upstream.pool, "work_gpu_h": quote.work_gpu_h, "max_gpus": quote.max_gpus,
            "deadline": deadline.isoformat(), "undone_penalty": penalty, "late_penalty": penalty,
            "value_per_gpu_h": quote.per_million * upstream.tokens_per_gpu_h / 1e6,
            "metadata": {"tenant": quote.tenant, "model": quote.model, "sold": "firm"},
        }  # fmt: skip

    def _newer(self, quote: Quote) -> bool:
        return quote.id not in self.heard or self.heard[quote.id] >= self._market.made_at

    # ---------------------------------------------------------------- checking
    def _asked(self, body: Mapping[str, Any], now: datetime) -> tuple[UpstreamConfig, int, datetime, float | None]:
        model, tokens = body.get("model"), body.get("tokens")
        upstream = self._of_model.get(model) if isinstance(model, str) else None
        if upstream is None:
            raise ApiError(400, f"model: no server here has {model!r}", "model_not_found", "model")
        if not isinstance(tokens, int) or isinstance(tokens, bool) or not 0 < tokens <= MOST_TOKENS:
            raise ApiError(400, "tokens: is a whole number from 1 on", "invalid_value", "tokens")
        deadline, most = body.get("deadline", "24h"), body.get("max_price_per_million_tokens")
        if not isinstance(deadline, str):
            raise ApiError(400, 'deadline: write a time with its zone, or "8h"', "invalid_value", "deadline")
        ends = time_of("deadline", deadline, now)
        if not now < ends <= now + timedelta(hours=24):
            raise ApiError(400, "deadline: lies within the coming day", "invalid_value", "deadline")
        limit = None if most is None else price_of("max_price_per_million_tokens", str(most))
        return upstream, tokens, ends, limit

    def _within(self, tenant: TenantConfig, now: datetime) -> None:
        mine = [one for one in self._open.values() if one.tenant == tenant.name]
        if len(mine) >= tenant.max_quotes:
            wait_s = max(1.0, (min(one.expires_at for one in mine) - now).total_seconds())
            raise ApiError(429, f"{len(mine)} quotes are open", "quota_exceeded", None, retry_after_s=wait_s)

    def _no_room(self, upstream: UpstreamConfig, tokens: int, now: datetime, deadline: datetime) -> ApiError:
        """When to come again: when others' quotes expire where that is enough, else when GPUs are free again."""
        opens = [one for one in self._open.values() if self._of_model[one.model].pool == upstream.pool]
        fits = self._market.offer(upstream, tokens, now, deadline, 0.0) is not None
        wait_s = min(((one.expires_at - now).total_seconds() for one in opens), default=NEXT_PLAN_S)
        if not fits:
            wait_s = self._market.room_in_s(upstream, now, deadline) or NEXT_PLAN_S
        text = f"no {tokens} tokens are left by then; a bid runs when there is room (max_price_per_million_tokens)"
        return ApiError(429, text, "no_room", "tokens", retry_after_s=math.ceil(wait_s))


def _written(quote: Quote) -> dict[str, Any]:
    plain = asdict(quote) | {"state": quote.state.value}
    return {key: value.isoformat() if isinstance(value, datetime) else value for key, value in plain.items()}


def read_quote(plain: Mapping[str, Any]) -> Quote:
    """A quote of a record."""
    names = {one.name for one in fields(Quote)}
    values = {key: value for key, value in plain.items() if key in names}
    for name in ("made_at", "expires_at", "deadline", "accepted_at"):
        if values.get(name) is not None:
            values[name] = datetime.fromisoformat(values[name])
    return Quote(**values | {"state": State(values["state"])})
