"""Refuses to start with work under way, or sold, whose model no server of the file has: nobody could ever do it."""

from __future__ import annotations

from collections.abc import Container, Iterable
from datetime import datetime

from adapters.ports import AdapterError
from scheduler.gateway.model import Batch
from scheduler.gateway.sales import Quote, State


def check_served(served: Container[str], batches: Iterable[Batch], sold: Iterable[Quote], now: datetime) -> None:
    """Raises AdapterError naming the batch or the sale, and its model."""
    for batch in batches:
        if batch.model and batch.model not in served and not batch.over:
            text = f"{batch.id} is under way and no server has its model {batch.model!r}; serve it until that is over"
            raise AdapterError(f"upstreams: {text}")
    for quote in sold:
        if quote.state is State.ACCEPTED and now < quote.deadline and quote.model not in served:
            text = f"{quote.id} is sold until {quote.deadline.isoformat()} and no server has its model"
            raise AdapterError(f"upstreams: {text} {quote.model!r}; serve it until then")
