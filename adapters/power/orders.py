"""From what became of each card's order to a receipt, in the same words for every kind of hardware.

What is trusted is the limit read back. A card whose limit was found elsewhere than we had set it is named: somebody
else writes too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from time import perf_counter

from adapters.ports import AdapterError, Clock, GpuId, GpuInfo, Receipt
from adapters.power.receipts import clamp_notes, failure_notes
from adapters.workers import Abandoned
from optimizer.reasons import Note, Reason

SAME_W = 1.0
"""Limits closer than a watt are the same: firmware rounds."""


class CardError(AdapterError):
    """One card's order or reading failed, for a reason that receipts carry."""

    def __init__(self, text: str, reason: Reason) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Setting:
    """What became of one order on one card, in W."""

    ordered_w: float
    allowed_w: float
    found_w: float
    enforced_w: float


def inside(watts: float, low_w: float | None, high_w: float | None) -> float:
    """A limit brought into a range; an end that nobody tells (None) is none, and so is a range that cannot be (a driver
    that has just been loaded may tell 0 to 0 for a moment)."""
    if high_w is not None and (high_w <= 0 or (low_w is not None and low_w > high_w)):
        return watts
    raised = watts if low_w is None else max(watts, low_w)
    return raised if high_w is None else min(raised, high_w)


def reason_of(error: Exception) -> Reason:
    """Why a card has no result; an error that nobody expected is the caller's, and raised."""
    if isinstance(error, CardError):
        return error.reason
    if isinstance(error, Abandoned):
        return Reason.CALL_TIMEOUT
    raise error


class Recent:
    """What was read a moment ago, for hardware that is slow to tell: the meter and the look at limits in one tick share
    a reading, until an order is given."""

    def __init__(self, clock: Clock, keep: timedelta) -> None:
        self._clock, self._keep_s = clock, keep.total_seconds()
        self._until, self._infos, self._orders = float("-inf"), dict[GpuId, GpuInfo](), 0

    def get(self) -> dict[GpuId, GpuInfo] | None:
        """The reading, while it is young enough."""
        return dict(self._infos) if self._clock.monotonic() < self._until else None

    def begin(self) -> int:
        """A reading begins: what to give to `put` with it."""
        return self._orders

    def put(self, infos: Mapping[GpuId, GpuInfo], begun: int) -> None:
        """Keep a reading, unless another thread gave an order after it began."""
        if begun == self._orders:
            self._until, self._infos = self._clock.monotonic() + self._keep_s, dict(infos)

    def forget(self) -> None:
        """An order was given: what was read before is no longer so."""
        self._orders += 1
        self._until = float("-inf")


class OrderBook:
    """Remembers what was set, so that a change by somebody else is noticed at the next order."""

    def __init__(self, meaning: Mapping[Reason, str] | None = None) -> None:
        """`meaning`: what reasons of failures mean on this hardware, where that is not what they usually do."""
        self._set_w: dict[GpuId, float] = {}
        self._meaning = meaning or {}

    def receipt(
        self, limits_w: Mapping[GpuId, float], done: Mapping[GpuId, Setting | Exception], ours: bool, started: float
    ) -> Receipt:
        """The receipt of one round that began at `started` (perf_counter). Cards of `limits_w` without an outcome are
        lost. `ours`: the limits are orders, not what is given back."""
        failures = {gpu: Reason.GPU_LOST for gpu in limits_w if gpu not in done}
        settings = {gpu: one for gpu, one in done.items() if isinstance(one, Setting)}
        failures |= {gpu: reason_of(one) for gpu, one in done.items() if isinstance(one, Exception)}
        clamped = [(gpu, s.ordered_w, s.allowed_w) for gpu, s in settings.items() if s.ordered_w != s.allowed_w]
        notes = clamp_notes(clamped)
        for gpu, one in settings.items():
            if abs(one.enforced_w - one.allowed_w) > SAME_W:
                failures[gpu] = Reason.CAP_DRIFT
            notes += self._moved(gpu, one)
        for gpu in limits_w:
            self._set_w.pop(gpu, None)
        self._set_w.update({gpu: one.allowed_w for gpu, one in settings.items()} if ours else {})
        notes += failure_notes(failures, self._meaning) + _told(done)
        return Receipt({gpu: s.enforced_w for gpu, s in settings.items()}, failures, notes, perf_counter() - started)

    def _moved(self, gpu: GpuId, one: Setting) -> tuple[Note, ...]:
        ours = self._set_w.get(gpu)
        if ours is None or abs(one.found_w - ours) <= SAME_W:
            return ()
        text = f"the limit was {one.found_w:g} W where {ours:g} W had been set; {one.allowed_w:g} W set now"
        return (Note(Reason.CAP_DRIFT, gpu, text),)


def _told(done: Mapping[GpuId, Setting | Exception]) -> tuple[Note, ...]:
    """What the hardware said of the first failure: a code alone does not tell an operator what to do."""
    for gpu, one in done.items():
        if isinstance(one, CardError):
            return (Note(one.reason, gpu, str(one)),)
    return ()
