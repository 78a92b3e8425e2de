"""The gateway's trade: what batches pay, what was sold in advance, and what the daemon hears of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from time import monotonic
from typing import Any
from zlib import crc32

import structlog

from adapters.ports import Clock
from scheduler.gateway.config import GatewayConfig, TenantConfig, UpstreamConfig
from scheduler.gateway.daemon import Daemon, DaemonError
from scheduler.gateway.disk import Disk
from scheduler.gateway.market import Market
from scheduler.gateway.model import ApiError, Batch, InputError
from scheduler.gateway.sales import Quote, Sales, State
from scheduler.gateway.shelf import Shelf
from scheduler.gateway.terms import MAX_PRICE, QUOTE
from scheduler.gateway.validate import Checked

log = structlog.get_logger("gridpace.gateway")

NEVER, HELD, UNKNOWN = 422, 409, 404
"""What the daemon's status says of a job: it can't be taken; it is another's, or cancelled; it is not known."""
TALK_S = 1.0
"""So long one kind of call of the daemon may begin in one turn."""
PRICES = "gateway_prices"
LOOK_EVERY = 40
"""Turns between reports of a batch or sale of which nothing was answered."""


class Trade:
    """Prices, quotes and charges. Lives in the gateway's event loop."""

    def __init__(
        self,
        config: GatewayConfig,
        upstreams: Mapping[str, UpstreamConfig],
        shelf: Shelf,
        clock: Clock,
        daemon: Daemon,
        disk: Disk,
    ) -> None:
        """`upstreams` by the models that they serve."""
        self._of_model, self._shelf, self._clock, self._daemon = upstreams, shelf, clock, daemon
        self._disk = disk
        self.market = Market(config.upstreams, config.firm)
        self._kept = {str(one): float(price) for one, price in (shelf.store.get(PRICES, "last") or {}).items()}
        self.market.last = dict(self._kept)
        self._refused: set[str] = set()
        self.sales = Sales(upstreams, config.firm, self.market, shelf.store, clock.now)

    def cheap_in_s(self, models: Collection[str]) -> float:
        """Seconds until power for one of these models (none: for any) is cheap; 0 where nobody knows."""
        now, served = self._clock.now(), {self._of_model[one] for one in models or self._of_model}
        waits = [self.market.cheap_in_s(one, now) for one in served]
        return min((one for one in waits if one is not None), default=0.0)

    def bought(self, tenant: TenantConfig, metadata: Mapping[str, str], bid: float | None = None) -> Quote | None:
        """The quote that a batch names. Raises ApiError where nothing can be had for it, or the batch bids less."""
        if QUOTE not in metadata:
            return None
        quote = self.sales.find(tenant.name, metadata[QUOTE])
        if quote.state is not State.ACCEPTED or quote.deadline <= self._clock.now() or not quote.left:
            raise ApiError(409, f"{quote.id} is {quote.state.value}, with {quote.left} tokens left", "quote_not_open")
        if (other := self._user(quote)) is not None:
            raise ApiError(409, f"{other.id} uses {quote.id} and is not over", "quote_in_use", f"metadata.{QUOTE}")
        if bid is not None and bid < quote.per_million:  # or what goes beyond the quote would run for next to nothing
            text = f"metadata.{MAX_PRICE}: is less than the {quote.per_million:.6g} a million of {quote.id}"
            raise ApiError(400, text, "invalid_value", f"metadata.{MAX_PRICE}")
        return quote

    def prices(self) -> bytes:
        """What `GET /v1/quotes` answers."""
        return self.market.shown(self._clock.now(), self.sales.all_taken)

    def beyond(self, batch: Batch, found: Checked) -> tuple[InputError, ...]:
        """Why a batch can't be had for its quote."""
        if batch.quote is None:
            return ()
        quote = self.sales.find(batch.tenant, batch.quote)
        if found.model != quote.model:
            return (InputError("mismatched_model", f"{quote.id} is for {quote.model!r}", f"metadata.{QUOTE}"),)
        if found.tokens > quote.left:
            text = f"it may take {found.tokens:.0f} tokens, and {quote.id} has {quote.left} left"
            return (InputError("quote_too_small", text, f"metadata.{QUOTE}"),)
        return ()

    def charged(self, batch: Batch) -> Batch:
        """With the tokens since the last time charged: at the price of now, else at the last one known, never above a
        bid. What is left of its firm quote is paid for, and only what goes beyond that is charged. Before there was any
        price, nothing yet."""
        tokens = batch.tokens - max(batch.paid_tokens, self._covered(batch))
        if tokens <= 0:
            return batch
        price = self.market.indication(self._of_model[batch.model], self._clock.now())
        if price is None and not batch.over:
            return batch  # no plan has had a price yet: charged with what comes next
        price = max(0.0, price or 0.0)
        price = min(price, batch.max_price) if batch.max_price is not None else price
        return replace(batch, paid=batch.paid + tokens * price / 1e6, paid_tokens=batch.tokens)

    def _covered(self, batch: Batch) -> int:
        """Tokens of a batch that its firm quote pays for: what other batches have left of it."""
        if batch.quote is None:
            return 0
        quote = self.sales.accepted.get(batch.quote)
        return quote.left if quote is not None else batch.tokens

    def recount(self, name: str | None) -> None:
        """Count what batches have used of a quote, from their own books."""
        quote = self.sales.accepted.get(name or "")
        if quote is not None:
            used = sum(one.tokens for one in self._shelf.batches(quote.tenant) if one.quote == quote.id and one.over)
            if used != quote.used:
                self.sales.use(quote.id, used)

    async def report(self, batch: Batch) -> bool:
        """Tell the daemon how far the sale is that a batch uses; False: it was withdrawn, by an operator or because the
        planner can't take it, and the batch would wait for ever. Raises DaemonError."""
        quote = self.sales.accepted[batch.quote or ""]
        if quote.state is State.CANCELLED:
            return False
        used = quote.used + batch.tokens
        return await self._tell(quote, used, used + _to_come(batch))

    async def look(self, turn: int) -> None:
        """Hear whether what was sold is still a job of the daemon, each sale in its own turn: an operator may withdraw
        one that no batch uses yet. Raises DaemonError."""
        ends = monotonic() + TALK_S
        for quote in list(self.sales.accepted.values()):
            told = quote.state is State.ACCEPTED and quote.id in self.sales.heard
            if told and (turn + crc32(quote.id.encode())) % LOOK_EVERY == 0 and monotonic() < ends:
                await self._tell(quote, quote.used, quote.used)

    def _books(self, quote: Quote, used: int) -> dict[str, Any]:
        """The books of a sale as the daemon hears them: what is owed for it, and for what its batches took beyond."""
        beyond = sum(one.paid for one in self._shelf.batches(quote.tenant) if one.quote == quote.id)
        return {"tokens": used, "paid": quote.paid + beyond, "tenant": quote.tenant, "model": quote.model}

    async def _tell(self, quote: Quote, used: int, in_all: float) -> bool:
        """`in_all`: tokens that it comes to with what the batch that uses it has left: the job is not done, and keeps
        its GPUs, while there are lines left, also once they took all that was bought."""
        try:
            done = used / max(quote.tokens, in_all) * quote.work_gpu_h
            await self._daemon.progress(quote.id, done, False, self._books(quote, used))
        except DaemonError as error:
            if error.status == UNKNOWN:
                self.sales.heard.pop(quote.id, None)
            elif error.status == HELD:
                log.warning("gateway.sale_withdrawn", quote=quote.id, why=str(error))
                self.sales.put(replace(self.sales.accepted[quote.id], state=State.CANCELLED))
                return False
            else:
                raise
        return True

    async def hear_prices(self) -> None:
        """Take in what the plan in force quotes. Raises DaemonError."""
        try:
            self.market.hear(await self._daemon.quotes())
        except DaemonError as error:
            if error.status != UNKNOWN:  # 404: it has no plan yet
                raise
        except (ValueError, KeyError, TypeError) as error:
            raise DaemonError(f"quotes: {error!r}") from None
        for upstream in set(self._of_model.values()):
            self.market.indication(upstream, self._clock.now())
        if self.market.last != self._kept:  # over a restart in an interval without a price
            self._shelf.store.put(PRICES, "last", dict(self.market.last))
            self._kept = dict(self.market.last)

    async def tell_sales(self) -> None:
        """Make jobs of what was sold in advance, and end those that are delivered or given up. Raises
        DaemonError."""
        now = self._clock.now()
        self.sales.expire(now)
        with self._disk.tries():
            self.sales.close_due(now)
        ends = monotonic() + TALK_S
        for quote in [one for one in self.sales.accepted.values() if not one.told]:
            if monotonic() >= ends:
                return  # the next turn goes on
            with self._disk.tries():
                await self._tell_sale(quote)

    async def _tell_sale(self, quote: Quote) -> None:
        user = self._user(quote) if quote.state is not State.ACCEPTED else None
        try:
            if quote.state is State.ACCEPTED or (quote.state is State.CLOSED and user is not None):
                await self._tell_open(quote, user)
            elif user is None:  # else what is under way comes back first
                await self._end_sale(quote)
        except DaemonError as error:
            if error.status == HELD:
                self.sales.heard[quote.id] = self._clock.now()
            elif error.status != NEVER:
                raise
            elif quote.state is State.ACCEPTED:
                log.error("gateway.sale_refused", quote=quote.id, why=str(error))
                self.sales.put(replace(quote, state=State.CANCELLED))
            elif quote.id not in self._refused:  # said once; told again in every turn, since a daemon may be mended
                log.error("gateway.sale_end_refused", quote=quote.id, state=quote.state.value, why=str(error))
                self._refused.add(quote.id)

    async def _tell_open(self, quote: Quote, user: Batch | None) -> None:
        """Make a job of it, where the daemon has none, or none any more: of one whose deadline is past for the batch
        that still uses it, until its window ends."""
        now = self._clock.now()
        deadline = quote.deadline if user is None else max(quote.deadline, user.expires_at)
        if quote.id not in self.sales.heard and deadline > now:
            await self._daemon.submit(self.sales.job(quote, quote.deadline if quote.deadline > now else deadline))
            self.sales.heard[quote.id] = now

    def _user(self, quote: Quote) -> Batch | None:
        """The batch that uses a quote and is not over."""
        return next((one for one in self._shelf.batches(quote.tenant) if one.quote == quote.id and not one.over), None)

    async def _end_sale(self, quote: Quote) -> None:
        sold = self._books(quote, quote.used)
        if quote.state is State.DELIVERED:
            await self._daemon.progress(quote.id, quote.work_gpu_h, True, sold)
        else:
            await self._daemon.sold(quote.id, sold)
            await self._daemon.cancel(quote.id)
        self.sales.put(replace(quote, told=True))


def _to_come(batch: Batch) -> float:
    """Tokens that a batch's lines without an answer may take, by those that have one."""
    answered = batch.completed + batch.failed
    return (batch.total - answered) * batch.tokens / answered if answered else 0.0
