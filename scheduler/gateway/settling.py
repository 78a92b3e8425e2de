"""Who could not keep a sale: its client, who used less than was bought, or the site, which did not do it in time.

Why by time and not by cause: servers that are down, power that an event took, a gateway that was dead and a full disk
are all one to who bought tokens until a deadline. The site had its chance where a batch that names the sale came early
enough, and neither is it done nor are the tokens used; and the client had none where the gateway was away from when
what was left could still have been handed in until it was too late for that.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from adapters.ports import RecordStore
from scheduler.gateway.model import Batch, Status
from scheduler.gateway.sales import Quote

KIND, KEY = "gateway_alive", "last"
BEAT = timedelta(seconds=30)
"""How often it is written down that the gateway lives."""
TIMES, PLANNING = 2.0, timedelta(minutes=1)
"""Early enough: twice the time that the sale's GPUs need, and that of a plan."""
WAITS = (Status.VALIDATING, Status.IN_PROGRESS)


class Settling:
    """Judges sales at their deadlines, by what is on disk. `batches`: a tenant's batches, as far as they are now."""

    def __init__(self, store: RecordStore, batches: Callable[[str], list[Batch]], now: datetime) -> None:
        self._store, self._batches, self._began = store, batches, now
        last = (store.get(KIND, KEY) or {}).get("at")
        self._away_from = datetime.fromisoformat(last) if last is not None else now
        self._told: datetime | None = None

    def beat(self, now: datetime) -> None:
        """Write down that the gateway lives. Raises StoreDegraded."""
        if self._told is None or now - self._told >= BEAT:
            self._store.put(KIND, KEY, {"at": now.isoformat()})
            self._told = now

    def unkept(self, quote: Quote) -> bool:
        """Whether the site did not do in time what was sold, though it was asked for, or could not be, early enough."""
        return self._waited_for(quote) or self._was_away(quote)

    def _waited_for(self, quote: Quote) -> bool:
        mine = (one for one in self._batches(quote.tenant) if one.quote == quote.id and one.status in WAITS)
        return any(
            one.created_at + _needed(one.work_gpu_h if one.total else _rest(quote), quote) <= quote.deadline
            for one in mine
            if not one.total or (one.total > one.completed + one.failed and one.tokens < quote.left)
        )

    def _was_away(self, quote: Quote) -> bool:
        needed = _needed(_rest(quote), quote)
        return bool(quote.left) and self._away_from + needed <= quote.deadline < self._began + needed


def _rest(quote: Quote) -> float:
    """GPU-hours for what is left of a sale: as much as a batch may take that is not checked yet."""
    return quote.work_gpu_h * quote.left / quote.tokens


def _needed(work_gpu_h: float, quote: Quote) -> timedelta:
    return PLANNING + timedelta(hours=TIMES * work_gpu_h / quote.max_gpus)
