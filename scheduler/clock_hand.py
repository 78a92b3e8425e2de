"""Writes locked SM clocks: on disk before the first lock, asserted again, let go when they are not needed any more.

Why beside the dispatcher: limits are given back to what was found, clocks are let go free, and most sites have only the
first. What a killed daemon left locked is known to its successor, which goes on with it or lets it go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from adapters.ports import AdapterError, CapGuard, ClockLocker, GpuId, Lease
from optimizer.reasons import Note, Reason, Severity
from scheduler.clockwatch import ClockWatch
from scheduler.levers import Clocked, Levers
from scheduler.store.database import StoreDegraded

KIND = "locked_clocks"
ASSERT_S = 30.0
"""A lock is set again this often whatever the clocks say: of a card that idles they tell nothing."""

REFUSED = "did not take a lower clock"


class Records(Protocol):
    """What is written down (a part of scheduler.store.store.Store)."""

    def put(self, kind: str, key: str, value: Mapping[str, Any]) -> None:
        """Insert or replace one record; on disk when it returns."""
        ...

    def all(self, kind: str) -> dict[str, dict[str, Any]]:
        """Every record of a kind by key."""
        ...


@dataclass
class ClockHand:
    """Holds the clocks of pools that are moved by them. `lease` gives the next lease; called under the state's lock."""

    records: Records
    actuator: ClockLocker
    gpus: Mapping[str, tuple[GpuId, ...]]
    levers: Levers
    lease: Callable[[float], Lease]
    monotonic: Callable[[], float]
    locked_mhz: dict[str, int] = field(default_factory=dict)
    watch: ClockWatch = field(default_factory=ClockWatch)
    yielded: dict[GpuId, float] = field(default_factory=dict)
    """GPUs whose clocks are left to another writer, with the MHz at which they ran."""
    _asserted_at: float = float("-inf")
    _tried_at: float = float("-inf")
    _owed: set[str] = field(default_factory=set)

    def adopt(self) -> None:
        """At start: pools that a predecessor held by their clocks stay so; GPUs of others are let go with the rest."""
        for pool, kept in self.records.all(KIND).items():
            if kept.get("mhz"):
                self._owed.add(pool)
            if kept.get("mhz") and pool in self.gpus and pool in self.levers.ranges:
                low, high = self.levers.ranges[pool]
                self.levers.clocked[pool] = Clocked(low, high, float(kept["full_w"]), float(kept["follows"]))
                self.locked_mhz[pool] = int(kept["mhz"])

    def apply(self, wanted_mhz: Mapping[str, int | None], lease_s: float, now: datetime) -> tuple[Note, ...]:
        """Lock the clock of each pool named, or let it go (None); pools not named are let go too. Raises nothing."""
        orders = {pool: mhz for pool, mhz in wanted_mhz.items() if mhz is not None}
        due = self.monotonic() - self._asserted_at >= ASSERT_S
        changed = {pool: mhz for pool, mhz in orders.items() if due or self.locked_mhz.get(pool) != mhz}
        free = self._owed - orders.keys()
        if not free & self.locked_mhz.keys() and self.monotonic() - self._tried_at < ASSERT_S:
            free = set()  # those that did not let go are asked again later
        try:
            notes = self._look(lease_s, now) + (self._lock(changed, lease_s, now) if changed else ())
            return notes + (self._free(free, now) if free else ())
        except (AdapterError, StoreDegraded) as error:
            return (Note(Reason.CLOCK_REFUSED, "clocks", str(error), Severity.ALERT, now),)

    def _look(self, lease_s: float, now: datetime) -> tuple[Note, ...]:
        """See to locks that another hand took away: agents do that themselves and tell; else they are set again some
        times, then left to it. Raises AdapterError."""
        if not self.locked_mhz:
            self.yielded = {}
            return ()
        notes: tuple[Note, ...] = ()
        if isinstance(self.actuator, CapGuard):
            mine = {gpu for pool in self.locked_mhz for gpu in self.gpus[pool]}
            self.yielded = {g: mhz for g, mhz in self.actuator.contested().yielded_mhz.items() if g in mine}
        else:
            judged = self.watch.look(self.actuator, self.monotonic())
            self.yielded = self.watch.yielded_mhz
            if judged.again:
                again = {gpu: round(self.watch.wanted_mhz[gpu]) for gpu in judged.again}
                failures = self.actuator.lock(again, self.lease(lease_s)).failures
                self.watch.forget(failures)  # as in `_lock`: the next assertion tries them again
                done = {gpu: mhz for gpu, mhz in again.items() if gpu not in failures}
                notes = (_drifted(judged.again, done, now),) if done else ()
                notes += _refused(len(again), failures, REFUSED, now)
        return (*notes, *_left(self.yielded, now))

    def take_back(self) -> None:
        """An operator's word: clocks that were left to another writer are locked again."""
        self.watch.take_back()
        if self.yielded and isinstance(self.actuator, CapGuard):
            self.actuator.take_back()
        self.yielded, self._asserted_at = {}, float("-inf")

    def _lock(self, orders: Mapping[str, int], lease_s: float, now: datetime) -> tuple[Note, ...]:
        for pool, mhz in orders.items():
            if pool not in self.locked_mhz or self.monotonic() - self._asserted_at >= ASSERT_S:
                held = self.levers.clocked[pool]
                self._write(pool, mhz, held)
                self._owed.add(pool)
            self.locked_mhz[pool] = mhz
        self._asserted_at = self.monotonic()
        clocks = {gpu: mhz for pool, mhz in orders.items() for gpu in self.gpus[pool]}
        self.watch.bounds({gpu: self.levers.ranges[pool][0] for pool in orders for gpu in self.gpus[pool]})
        self.watch.order(clocks, self.monotonic())
        mine = {gpu: mhz for gpu, mhz in clocks.items() if gpu not in self.yielded}
        receipt = self.actuator.lock(mine, self.lease(lease_s))
        failures = {gpu: why for gpu, why in receipt.failures.items() if why is not Reason.CAP_YIELDED}
        self.watch.forget(failures)
        return _refused(len(clocks), failures, REFUSED, now)

    def _write(self, pool: str, mhz: int, held: Clocked) -> None:
        gpus = list(self.gpus[pool])
        self.records.put(KIND, pool, {"mhz": mhz, "full_w": held.full_w, "follows": held.follows, "gpus": gpus})

    def _outstanding(self) -> dict[str, list[GpuId]]:
        """GPUs that are to be let go, by the pool in which they were locked, those of a predecessor included."""
        return {pool: list(kept["gpus"]) for pool, kept in self.records.all(KIND).items() if kept.get("mhz")}

    def _free(self, pools: set[str], now: datetime) -> tuple[Note, ...]:
        """Let the clocks of these pools go; what is not confirmed is tried again with the next assertion."""
        left, self._tried_at = self._outstanding(), self.monotonic()
        gpus = [gpu for pool in pools for gpu in left.get(pool, ())]
        receipt = self.watch.let_go(self.actuator, gpus)
        for pool in pools:
            self.locked_mhz.pop(pool, None)
            if not any(gpu in receipt.failures for gpu in left.get(pool, ())):
                self.records.put(KIND, pool, {"mhz": 0, "gpus": []})
                self._owed.discard(pool)
        return _refused(len(gpus), receipt.failures, "kept their locked clock", now)

    def release(self, now: datetime) -> tuple[Note, ...]:
        """Let everything go, a predecessor's included."""
        try:
            left = self._outstanding()
            return self._free(set(left), now) if left else ()
        except (AdapterError, StoreDegraded) as error:
            return (Note(Reason.CLOCK_REFUSED, "clocks", f"clocks stay locked: {error}", Severity.ALERT, now),)


def _drifted(runs_mhz: Mapping[GpuId, float], again_mhz: Mapping[GpuId, int], now: datetime) -> Note:
    """Locks that were not in force any more."""
    first = next(iter(again_mhz))
    text = (
        f"{len(again_mhz)} GPUs ran above their locked clock ({first} at {runs_mhz[first]:.0f} MHz, locked to "
        f"{again_mhz[first]} MHz); locked again"
    )
    return Note(Reason.CAP_DRIFT, first, text, Severity.WARNING, now)


def _left(yielded_mhz: Mapping[GpuId, float], now: datetime) -> tuple[Note, ...]:
    """Clocks that belong to another writer."""
    if not yielded_mhz:
        return ()
    first = next(iter(yielded_mhz))
    text = (
        f"the clocks of {len(yielded_mhz)} GPUs ({first} the first) have another writer: they ran above our lock again "
        "and again, and are left to it. Find the program that resets or locks clocks there, then `gridpace resume`"
    )
    return (Note(Reason.CAP_YIELDED, first, text, Severity.ALERT, now),)


def _refused(count: int, failures: Mapping[GpuId, Reason], what: str, now: datetime) -> tuple[Note, ...]:
    """One alert for all that did not follow."""
    if not failures:
        return ()
    first, why = next(iter(failures.items()))
    text = f"{len(failures)} of {count} GPUs {what} ({first}: {why})"
    return (Note(Reason.CLOCK_REFUSED, first, text, Severity.ALERT, now),)
