"""Locked clocks that another hand set free: locked again some times, then left to whoever frees them.

What can be told: NVML has no call that says what a clock is locked to, or by whom; it tells the clock that runs. One
that runs above its lock proves that the lock is not in force. One at or below proves nothing, since a card that idles
clocks down, and power and heat hold it lower; so a lock that was taken from an idle card is seen when it works. NVML's
reasons for a low clock don't help: not every driver counts a lock among them. The counting is that of limits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from adapters.ports import ClockLocker, ClockReader, ClockReceipt, GpuId
from scheduler.capwatch import CapWatch, DriftRules, Judgement

STEP_MHZ = 30.0
"""A clock that is higher than its lock by less may be rounding: clocks go by steps of 15 MHz."""

SETTLE_S = 0.4
"""So long after an order clocks are not judged: the card is on its way."""


class ClockWatch:
    """The locks that are to be in force, and the GPUs on which somebody else sees to it that they are not."""

    def __init__(self, rules: DriftRules | None = None) -> None:
        self._watch = CapWatch(rules, STEP_MHZ)
        self._ordered_at = float("-inf")

    @property
    def wanted_mhz(self) -> Mapping[GpuId, float]:
        """The locks ordered, in MHz, yielded GPUs included."""
        return self._watch.wanted_w

    @property
    def yielded_mhz(self) -> dict[GpuId, float]:
        """Yielded GPUs with the clock in MHz at which they ran then."""
        return self._watch.yielded_w

    @property
    def reasserted(self) -> int:
        """Locks set again since the start."""
        return self._watch.reasserted

    def bounds(self, lowest_mhz: Mapping[GpuId, float]) -> None:
        """Lowest clock that each card can be locked to: below it an order is clamped, which is no drift."""
        self._watch.bounds(lowest_mhz)

    def order(self, clocks_mhz: Mapping[GpuId, float], now: float) -> None:
        """These clocks are locked (or, on yielded GPUs, would be)."""
        if any(self.wanted_mhz.get(gpu) != mhz for gpu, mhz in clocks_mhz.items()):
            self._ordered_at = now
        self._watch.order(clocks_mhz)

    def forget(self, gpus: Iterable[GpuId]) -> None:
        """Nothing is expected of these any more: they were let go."""
        self._watch.forget(gpus)

    def unwritten(self, gpus: Iterable[GpuId]) -> None:
        """These could not be locked: what they run at proves nothing until they are."""
        self._watch.unwritten(gpus)

    def leave(self, clocks_mhz: Mapping[GpuId, float], now: float) -> None:
        """These GPUs were yielded before this watch began, at these clocks."""
        self._watch.leave(clocks_mhz, now)

    def take_back(self) -> None:
        """An operator's word: all yielded GPUs are ours again, with a clean record."""
        self._watch.take_back()

    def look(self, reader: object, now: float) -> Judgement:
        """Read the clocks and judge them, where they can be read and it is time. Raises AdapterError."""
        if not isinstance(reader, ClockReader) or not self.wanted_mhz or now - self._ordered_at < SETTLE_S:
            return Judgement()
        left = self.yielded_mhz
        # What runs on a yielded card changes with its work: there only time says when it is tried again.
        seen = {gpu: left.get(gpu, float(mhz)) for gpu, mhz in reader.clocks(tuple(self.wanted_mhz)).items()}
        return self._watch.judge(seen, now)

    def let_go(self, locker: ClockLocker, gpus: Collection[GpuId]) -> ClockReceipt:
        """Set these clocks free, but for yielded cards that run above our lock: another lock may be on them, and is not
        ours to take away. Raises AdapterError."""
        left = [gpu for gpu in gpus if gpu in self.yielded_mhz]
        runs = locker.clocks(left) if left and isinstance(locker, ClockReader) else {}
        theirs = {gpu: mhz for gpu, mhz in runs.items() if mhz > self.wanted_mhz.get(gpu, mhz) + STEP_MHZ}
        receipt = locker.unlock([gpu for gpu in gpus if gpu not in theirs])
        self.forget(gpu for gpu in {**receipt.clock_mhz, **theirs} if gpu not in receipt.failures)
        return ClockReceipt({**receipt.clock_mhz, **theirs}, receipt.failures)
