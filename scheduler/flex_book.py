"""The books of Flex tiers: what every job of a tier was promised, and how much slower it was in the end."""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from optimizer.reasons import Note, Reason, Severity
from scheduler.flex_slow import Slowed
from scheduler.store.store import Store, StoreDegraded

KIND, FORCED = "flex", "flex_forced"
FORGET_AFTER_S = 30 * 86_400.0


@dataclass(frozen=True)
class FlexRecord:
    """A job that is done: its tier, start and end, the share by which it was slower on average than at full allocation,
    the share that its tier tolerates, whether that was kept, and what forced it lower."""

    job: str
    tier: int
    started_at: datetime
    ended_at: datetime
    reduction: float
    tolerated: float
    kept: bool
    forced: tuple[str, ...] = ()


class FlexBook:
    """Records by job; kept for thirty days. `of` may be asked from any thread. `slowed`: what throttling took from jobs
    whose progress nobody tells."""

    def __init__(self, store: Store) -> None:
        self._store, self._lock, self.slowed = store, threading.Lock(), Slowed(store)
        try:
            self._held = {job: _read(body) for job, body in store.all(KIND).items()}
            self._forced = {job: frozenset(body.get("forced", ())) for job, body in store.all(FORCED).items()}
        except StoreDegraded:
            self._held, self._forced = {}, {}
        self._waiting: dict[str, FlexRecord] = {}

    def of(self, job: str) -> FlexRecord | None:
        """The record of a job that is done; None without one."""
        with self._lock:
            return self._held.get(job)

    def records(self) -> tuple[FlexRecord, ...]:
        """All of them, oldest first."""
        with self._lock:
            return tuple(sorted(self._held.values(), key=lambda record: record.ended_at))

    def forced(self, job: str) -> frozenset[str]:
        """What forced a job that is not done lower, also before a restart."""
        with self._lock:
            return self._forced.get(job, frozenset())

    def force(self, job: str, why: frozenset[str], now: datetime) -> tuple[Note, ...]:
        """Keep what forced a job so far; written where that is news. What the disk doesn't take is tried again."""
        with self._lock:
            if why == self._forced.get(job, frozenset()):
                return ()
            try:
                self._store.put(FORCED, job, {"forced": sorted(why), "forget_after_s": FORGET_AFTER_S})
            except StoreDegraded as error:
                return (Note(Reason.STORE_DEGRADED, "flex", str(error), Severity.ALERT, now),)
            self._forced[job] = why
        return ()

    def close(self, record: FlexRecord) -> tuple[Note, ...]:
        """Keep a record. What the disk doesn't take now is written with the next one."""
        with self._lock:
            self._held[record.job] = self._waiting[record.job] = record
            try:
                for job, waiting in list(self._waiting.items()):
                    self._store.put(KIND, job, {**asdict(waiting), "forget_after_s": FORGET_AFTER_S})
                    del self._waiting[job]
                if self._forced.pop(record.job, None):
                    self._store.put(FORCED, record.job, {"forget_after_s": 0.0})
            except StoreDegraded as error:
                return (Note(Reason.STORE_DEGRADED, "flex", str(error), Severity.ALERT, record.ended_at),)
        return ()


def _read(body: dict[str, Any]) -> FlexRecord:
    names = ("job", "tier", "reduction", "tolerated", "kept")
    start, end = (datetime.fromisoformat(body[name]) for name in ("started_at", "ended_at"))
    return FlexRecord(started_at=start, ended_at=end, forced=tuple(body["forced"]), **{n: body[n] for n in names})
