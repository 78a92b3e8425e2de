"""Takes a gateway out of service for good: cancels its batches, withdraws its sales, and tells the daemon of both.

Why: its work is jobs in the daemon's plan. Those of a gateway that nobody starts again would keep GPUs until their
deadlines and beyond.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from time import monotonic

from scheduler.clock import WallClock
from scheduler.gateway.config import GatewayConfig
from scheduler.gateway.daemon import Daemon
from scheduler.gateway.gateway import Gateway
from scheduler.gateway.model import Batch, Status, read_batch
from scheduler.gateway.process import BOOKS
from scheduler.gateway.sales import KIND as QUOTE
from scheduler.gateway.sales import Quote, State, read_quote
from scheduler.gateway.shelf import BATCH, Shelf
from scheduler.holdings import Holding, records_in
from scheduler.lock import DaemonLock
from scheduler.store.store import Store

PAUSE_S, MOST_S = 0.2, 30.0


def held_by_gateway(config: GatewayConfig) -> tuple[Holding, ...]:
    """Batches that are not over, sales that are open, and ends of which the daemon has not heard; read beside whoever
    writes. Raises AdapterError."""
    rows = records_in(config.state_dir / BOOKS, (BATCH, QUOTE))
    known = [(kind, body) for kind, _, body in rows if "id" in body]  # the others are forgotten
    lines = (_batch(read_batch(body)) if kind == BATCH else _sale(read_quote(body)) for kind, body in known)
    return tuple(line for some in lines for line in some)


def _batch(batch: Batch) -> Iterator[Holding]:
    answered = f"{batch.tenant}, {batch.completed + batch.failed} of {batch.total} requests were answered"
    if not batch.over:
        yield Holding("batch", batch.id, f"{batch.status.value}{f' at {batch.away}' if batch.away else ''}: {answered}")
    elif batch.model and not batch.told:
        yield Holding("batch", batch.id, f"{batch.status.value}, and the daemon has not heard of it: {answered}")


def _sale(quote: Quote) -> Iterator[Holding]:
    if not quote.told:
        until = f"{quote.tenant}, {quote.left} tokens of {quote.model} until {quote.deadline.isoformat()}"
        open_one = quote.state is State.ACCEPTED
        yield Holding("sale", quote.id, f"{quote.state.value}{'' if open_one else ', not ended yet'}: {until}")


def release_gateway(config: GatewayConfig, seconds: float = MOST_S) -> tuple[Holding, ...]:
    """Let go of everything where no gateway runs; what could not be in so many seconds. Raises AlreadyRunning, and
    AdapterError."""
    with DaemonLock(config.state_dir):
        store = Store.open(config.state_dir / BOOKS)
        try:
            asyncio.run(_leave(config, store, seconds))
        finally:
            store.close()
    return held_by_gateway(config)


async def _leave(config: GatewayConfig, store: Store, seconds: float) -> None:
    clock = WallClock()
    daemon = Daemon(config.daemon, config.token.reveal(config.base_dir))
    leaving = _Leaving(config, Shelf(config.state_dir, store, clock.now), clock, daemon)
    try:
        await leaving.wind_up(seconds)
    finally:
        await leaving.close(0.0)


class _Leaving(Gateway):
    """A gateway that sends nothing more: its servers are not asked, since nobody runs them."""

    async def wind_up(self, seconds: float) -> None:
        """Turns until everything is over and told."""
        self._resume()
        with self.disk.tries():
            self._end_everything()
        ends, turn = monotonic() + seconds, 0
        while self._open() and monotonic() < ends:
            await self._turn(turn)
            turn += 1
            await asyncio.sleep(PAUSE_S if self._open() else 0.0)

    def _end_everything(self) -> None:
        for batch in self.shelf.batches():
            if batch.over:
                continue
            ending = batch if batch.status is Status.CANCELLING else self._cancelling(batch)
            if not ending.model:
                self._unbegun(ending.at(Status.CANCELLED, self._clock.now()))
        for quote in list(self.trade.sales.accepted.values()):
            if quote.state is State.ACCEPTED:  # what was used of it is owed
                self.trade.sales.put(replace(quote, state=State.CANCELLED))

    def _open(self) -> bool:
        batches = any(not one.over or (one.model and not one.told) for one in self.shelf.batches())
        return batches or any(not one.told for one in self.trade.sales.accepted.values())
