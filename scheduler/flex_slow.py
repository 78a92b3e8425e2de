"""What throttling took from jobs of a tier whose progress nobody tells: jobs of Slurm and of Kubernetes.

Why: such a job's work is counted by how long it ran, and a cap slows it down all the same. So the share of its pool's
throughput that the orders in force take from it is added up while it runs, and counts as not done. It is in the books:
after a restart the time without a daemon counts at the share that was last seen.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import datetime, timedelta

from scheduler.store.store import Store, StoreDegraded

KIND = "flex_slowed"
EVERY = timedelta(minutes=1)
HOUR = timedelta(hours=1)


class Slowed:
    """Hours that each running job lost so far."""

    def __init__(self, store: Store) -> None:
        self._store, self._lock = store, threading.Lock()
        self._hours: dict[str, float] = {}
        self._shares: dict[str, float] = {}
        self._at: datetime | None = None
        self._kept_at: datetime | None = None
        try:
            body = store.get(KIND, "now") or {}
        except StoreDegraded:
            body = {}
        if body:
            self._hours, self._shares = dict(body["hours"]), dict(body["shares"])
            self._at = datetime.fromisoformat(body["at"])

    def see(self, shares: Mapping[str, float], now: datetime) -> None:
        """The share of its throughput that each job of a tier, running or not, loses from now on."""
        with self._lock:
            passed_h = max(timedelta(), now - self._at) / HOUR if self._at is not None else 0.0
            hours = {job: self._hours.get(job, 0.0) + passed_h * self._shares.get(job, 0.0) for job in shares}
            self._hours, self._shares, self._at = hours, dict(shares), now
            if not hours and self._kept_at is None:
                return
            if self._kept_at is None or now - self._kept_at >= EVERY:
                self._keep(now)

    def lost_h(self, job: str) -> float:
        """Hours of its work that a job lost so far."""
        with self._lock:
            return self._hours.get(job, 0.0)

    def _keep(self, now: datetime) -> None:
        """What the disk does not take is written the next time."""
        body = {"hours": self._hours, "shares": self._shares, "at": now.isoformat()}
        try:
            self._store.put(KIND, "now", body)
        except StoreDegraded:
            return
        self._kept_at = now if self._hours else None
