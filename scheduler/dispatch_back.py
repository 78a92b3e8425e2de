"""The dispatcher's way back: give limits back, journalled, and forget those whose return was confirmed.

Why apart: a cap that is not confirmed is written again with the next order; a limit that is forgotten before it was
given back is lost for good.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from adapters.ports import CapGuard, GpuId, GpuInfo, Lease, PowerActuator, Receipt
from optimizer.reasons import Reason
from scheduler.capwatch import CapWatch
from scheduler.dispatch_books import Books
from scheduler.restoring import Restorer


@dataclass
class WayBack:
    """Gives back what `books` say was found."""

    books: Books
    watch: CapWatch
    _restorer: Restorer = field(default_factory=Restorer)

    def give(
        self,
        limits_w: Mapping[GpuId, float],
        actuator: PowerActuator,
        discover: Callable[[], Mapping[GpuId, GpuInfo]],
        lease: Lease,
        now: float,
    ) -> list[GpuId]:
        """Give these back; returns the GPUs of which that was confirmed, and which are forgotten. Agents judge
        themselves what is owed, and whether it was done. Raises AdapterError and StoreDegraded."""
        guarded = isinstance(actuator, CapGuard)
        if self.watch.theirs_w.keys() & limits_w.keys() and not guarded:
            limits_w = self.watch.owed(limits_w, {gpu: info.limit_w for gpu, info in discover().items()})
        intent = self.books.journal_intent({"release": len(limits_w)})
        receipt = actuator.release(limits_w) if guarded else self._restorer.restore(actuator, limits_w, lease, now)
        confirmed = [gpu for gpu, limit in limits_w.items() if returned(receipt, gpu, limit)]
        self.books.journal_result(intent, {"confirmed": len(confirmed), "of": len(limits_w)})
        self.books.forget_first_limits(confirmed)
        return confirmed


def returned(receipt: Receipt, gpu: GpuId, limit_w: float) -> bool:
    """True when the limit was given back; a board controller may still enforce a lower one, never ours. (An agent
    restores what it found itself, which may be another limit than ours: it was there before us.)"""
    if gpu not in receipt.enforced_w:
        return False
    failure = receipt.failures.get(gpu)
    return failure is None or (failure is Reason.CAP_DRIFT and receipt.enforced_w[gpu] < limit_w)
