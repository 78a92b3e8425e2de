"""What throttling took from jobs of a tier whose progress nobody tells: jobs of Slurm and of Kubernetes.

Why: such a job's work is counted by how long it ran, and a cap slows it down all the same. So the share of its pool's
throughput that the orders in force take from it is added up while it runs, and counts as not done. It is in the books,
with the jobs themselves: after a restart the time without a daemon counts at the share that was last seen, and how one
ended meanwhile is asked for.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from optimizer.domain import BatchJob, JobState
from scheduler.store.store import Store, StoreDegraded

KIND = "flex_slowed"
EVERY, SOON = timedelta(minutes=1), timedelta(seconds=5)
"""How often it is written down, and how often where jobs came or went."""
HOUR = timedelta(hours=1)


class Slowed:
    """Hours that each running job lost so far."""

    def __init__(self, store: Store) -> None:
        self._store, self._lock = store, threading.Lock()
        self._hours: dict[str, float] = {}
        self._shares: dict[str, float] = {}
        self._at: datetime | None = None
        self._kept_at: datetime | None = None
        self._kept: set[str] = set()
        self.left: tuple[tuple[BatchJob, datetime], ...] = ()
        """Jobs of an earlier life, as it last saw them, and when."""
        try:
            body = store.get(KIND, "now") or {}
        except StoreDegraded:
            body = {}
        if body:
            self._hours, self._shares = dict(body["hours"]), dict(body["shares"])
            self._at = datetime.fromisoformat(body["at"])
            self.left = tuple(_job(name, plain) for name, plain in body.get("jobs", {}).items())

    def see(self, shares: Mapping[str, float], now: datetime, jobs: Iterable[tuple[BatchJob, datetime]]) -> None:
        """The share of its throughput that each job of a tier, running or not, loses from now on; and these `jobs`,
        each with when it was last seen."""
        with self._lock:
            passed_h = max(timedelta(), now - self._at) / HOUR if self._at is not None else 0.0
            hours = {job: self._hours.get(job, 0.0) + passed_h * self._shares.get(job, 0.0) for job in shares}
            self._hours, self._shares, self._at = hours, dict(shares), now
            if not hours and self._kept_at is None:
                return
            every = EVERY if self._kept == hours.keys() else SOON
            if self._kept_at is None or now - self._kept_at >= every:
                self._keep(now, {job.id: _plain(job, at) for job, at in jobs})

    def lost_h(self, job: str) -> float:
        """Hours of its work that a job lost so far."""
        with self._lock:
            return self._hours.get(job, 0.0)

    def share_of(self, job: str) -> float:
        """The share of its throughput that a job was last seen to lose."""
        with self._lock:
            return self._shares.get(job, 0.0)

    def _keep(self, now: datetime, jobs: Mapping[str, Any]) -> None:
        """What the disk does not take is written the next time."""
        body = {"hours": self._hours, "shares": self._shares, "at": now.isoformat(), "jobs": jobs}
        try:
            self._store.put(KIND, "now", body)
        except StoreDegraded:
            return
        self._kept_at, self._kept = (now if self._hours else None), set(self._hours)


def _plain(job: BatchJob, at: datetime) -> dict[str, Any]:
    """What the books of its tier must know of a job that has begun."""
    assert job.started_at is not None
    return {"pool": job.pools[0], "tier": job.tier, "started_at": job.started_at.isoformat(),
            "runs": job.state is JobState.RUNNING, "gpus": job.max_gpus, "work_gpu_h": job.work_gpu_h,
            "done_gpu_h": job.done_gpu_h, "at": at.isoformat()}  # fmt: skip


def _job(name: str, plain: Mapping[str, Any]) -> tuple[BatchJob, datetime]:
    begun = datetime.fromisoformat(plain["started_at"])
    state = JobState.RUNNING if plain["runs"] else JobState.SUSPENDED
    job = BatchJob(
        name, (plain["pool"],), begun, begun, plain["work_gpu_h"], plain["gpus"], done_gpu_h=plain["done_gpu_h"],
        state=state, started_at=begun, tier=plain["tier"],
    )  # fmt: skip
    return job, datetime.fromisoformat(plain["at"])
