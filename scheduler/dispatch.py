"""Journal -> apply -> read back -> confirm: the only place that writes to GPUs.

Why so ceremonious: in one fleet 113 of 536 cap/restore pairs came back raised. So the limit found before the first
write is on disk before that write and stays there until a release was confirmed; every intent is journalled before it
is applied; the *enforced* limit is read back, and a difference is a note, never noise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from adapters.ports import AdapterError, GpuId, GpuInfo, Lease, PowerActuator, Receipt, TrajectoryHolder
from optimizer.reasons import Note, Reason, Severity
from scheduler.orders import PoolOrder

RENEWALS = 3
"""A lease is renewed when this part of it has passed."""

DRIFT_W = 1.5
"""Difference between ordered and enforced limit that counts as drift; NVML rounds to whole watts."""


class Books(Protocol):
    """What the dispatcher writes down (a part of scheduler.store.Store)."""

    def remember_first_limits(self, limits: Mapping[str, tuple[float, str]], now: datetime) -> None:
        """Keep the limit in W and the model of each GPU, unless one is kept already; on disk when it returns."""
        ...

    def first_limits(self) -> dict[str, float]:
        """The limits to restore, in W."""
        ...

    def forget_first_limits(self, ids: Sequence[str]) -> None:
        """These GPUs have their limit back."""
        ...

    def journal_intent(self, orders: Mapping[str, Any]) -> int:
        """Write down what is about to be done; on disk when it returns."""
        ...

    def journal_result(self, intent: int, result: Mapping[str, Any]) -> None:
        """Write down what became of it."""
        ...


@dataclass(frozen=True)
class Dispatched:
    """What one dispatch did: pools written, notes about GPUs that did not follow, seconds it took."""

    pools: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()
    seconds: float = 0.0


@dataclass
class Dispatcher:
    """Applies pool orders to GPUs. `writes` False (observe, advise, paused): nothing leaves this object."""

    books: Books
    actuator: PowerActuator
    gpus: Mapping[str, tuple[GpuId, ...]]
    writes: bool = False
    epoch: int = 0
    lease_s: float | None = None
    monotonic: Callable[[], float] = time.monotonic
    _sequence: int = 0
    _renewed_at: float = float("-inf")
    _applied: dict[str, PoolOrder] = field(default_factory=dict)
    _remembered: set[str] = field(default_factory=set)

    def apply(self, orders: Mapping[str, PoolOrder], lease_s: float, now: datetime) -> Dispatched:
        """Apply what changed. Raises nothing: an actuator that can't be reached becomes an alert note."""
        changed = {pool: order for pool, order in orders.items() if self._applied.get(pool) != order}
        lease_s = self.lease_s or lease_s
        if not self.writes:
            return Dispatched()
        try:
            if changed:
                self._remember(changed, now)
                return self._write(changed, lease_s, now)
            if self.monotonic() - self._renewed_at > lease_s / RENEWALS:
                self.actuator.apply({}, self._lease(lease_s))
            return Dispatched()
        except AdapterError as error:
            return Dispatched(notes=(Note(Reason.CAP_REFUSED, "power", str(error), Severity.ALERT, now),))

    def _remember(self, orders: Mapping[str, PoolOrder], now: datetime) -> None:
        """Put the limits found before our first write of these GPUs on disk."""
        fresh = [gpu for pool in orders for gpu in self.gpus[pool] if gpu not in self._remembered]
        if not fresh:
            return
        found = self.actuator.discover()
        limits = {gpu: (found[gpu].limit_w, found[gpu].model) for gpu in fresh if gpu in found}
        self.books.remember_first_limits(limits, now)
        self._remembered.update(limits)

    def _write(self, orders: Mapping[str, PoolOrder], lease_s: float, now: datetime) -> Dispatched:
        intent = self.books.journal_intent(
            {pool: [order.cap_w, len(self.gpus[pool])] for pool, order in orders.items()}
        )
        caps = {
            gpu: order.cap_w for pool, order in orders.items() for gpu in self.gpus[pool] if gpu in self._remembered
        }
        receipt = self.actuator.apply(caps, self._lease(lease_s))
        notes = receipt.notes + self._disagreements(caps, receipt, now)
        self.books.journal_result(intent, {"failed": len(receipt.failures), "seconds": round(receipt.seconds, 4)})
        self._applied.update(orders)
        for pool in orders:
            if any(gpu in receipt.failures for gpu in self.gpus[pool]):
                self._applied.pop(pool, None)  # tried again in the next tick
        return Dispatched(tuple(orders), notes, receipt.seconds)

    def _lease(self, lease_s: float) -> Lease:
        """The next lease; whoever enforces it renews all caps with it."""
        self._sequence += 1
        self._renewed_at = self.monotonic()
        return Lease(self.epoch, self._sequence, lease_s)

    def hold(self, steps: Sequence[tuple[float, Mapping[str, PoolOrder]]], until_s: float, now: datetime) -> None:
        """Hand the trajectory to an actuator that can follow it alone, until `until_s` seconds from now."""
        if not self.writes or not isinstance(self.actuator, TrajectoryHolder) or self.lease_s is None:
            return
        held = [
            (offset_s, {gpu: order.cap_w for pool, order in orders.items() for gpu in self.gpus[pool]})
            for offset_s, orders in steps
        ]
        self._remember({pool: order for _, orders in steps for pool, order in orders.items()}, now)
        self.actuator.hold(held, until_s, self._lease(self.lease_s))

    def _disagreements(self, caps: Mapping[GpuId, int], receipt: Receipt, now: datetime) -> tuple[Note, ...]:
        """One note per reason, naming a few of its GPUs."""
        by_reason: dict[Reason, list[GpuId]] = {}
        for gpu, reason in receipt.failures.items():
            by_reason.setdefault(reason, []).append(gpu)
        return tuple(
            Note(
                reason,
                gpus[0],
                f"{len(gpus)} of {len(caps)} GPUs: {reason} ({', '.join(gpus[:3])}{', …' if len(gpus) > 3 else ''})",
                Severity.ALERT,
                now,
            )
            for reason, gpus in by_reason.items()
        )

    def verify(self, now: datetime) -> tuple[Note, ...]:
        """Read every limit back; a pool with a GPU whose enforced limit is not as ordered is written again."""
        if not self.writes or not self._applied:
            return ()
        try:
            found = self.actuator.discover()
        except AdapterError as error:
            return (Note(Reason.CAP_REFUSED, "power", str(error), Severity.ALERT, now),)
        notes = []
        for pool, order in list(self._applied.items()):
            drifted = [gpu for gpu in self.gpus[pool] if gpu in found and _drifted(found[gpu], order)]
            if drifted:
                self._applied.pop(pool)
                text = (
                    f"{len(drifted)} GPUs of {pool} are not at the {order.cap_w} W ordered "
                    f"({drifted[0]} is at {found[drifted[0]].enforced_w:.0f} W); written again"
                )
                notes.append(Note(Reason.CAP_DRIFT, pool, text, Severity.WARNING, now))
        return tuple(notes)

    def release(self, now: datetime) -> tuple[Note, ...]:
        """Give back the limits found before the first write, those of a killed predecessor included."""
        limits = self.books.first_limits()
        if not limits and not isinstance(self.actuator, TrajectoryHolder):
            return ()
        try:
            intent = self.books.journal_intent({"release": len(limits)})
            receipt = self.actuator.release(limits)
        except AdapterError as error:
            return (Note(Reason.CAP_REFUSED, "power", f"limits not given back: {error}", Severity.ALERT, now),)
        confirmed = [gpu for gpu, limit in limits.items() if _returned(receipt, gpu, limit)]
        self.books.journal_result(intent, {"confirmed": len(confirmed), "of": len(limits)})
        self.books.forget_first_limits(confirmed)
        self._remembered.difference_update(confirmed)
        self._applied.clear()
        missing = len(limits) - len(confirmed)
        if not missing:
            return ()
        return (
            Note(
                Reason.CAP_REFUSED,
                "power",
                f"{missing} of {len(limits)} GPUs did not take their limit back",
                Severity.ALERT,
                now,
            ),
        )

    def adopt(self) -> int:
        """At start: limits that a predecessor found stay the ones to restore. Returns how many are outstanding."""
        self._remembered = set(self.books.first_limits())
        return len(self._remembered)


def _drifted(info: GpuInfo, order: PoolOrder) -> bool:
    wanted = min(max(order.cap_w, info.min_w), info.max_w)
    return abs(info.enforced_w - wanted) > DRIFT_W and info.enforced_w > wanted


def _returned(receipt: Receipt, gpu: GpuId, limit_w: float) -> bool:
    return gpu not in receipt.failures and abs(receipt.enforced_w.get(gpu, -1.0) - limit_w) <= DRIFT_W
