"""Jobs in memory that run on a simulated hall: the job system of backtests.

It behaves like the embedded queue without its store: a job becomes known some time before its release, waits until it
is granted GPUs, runs at the speed of its pool's caps, is suspended by a grant of zero (which undoes its checkpoint's
GPU-hours of work, as a restart undoes its own), and ends when its work is done. A job that is not preemptible is never
stopped once it has started.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from adapters.hall import SimulatedHall
from optimizer.domain import BatchJob, JobState
from optimizer.reasons import Reason

_OVER = (JobState.DONE, JobState.CANCELLED)
_DONE_GPU_H = 1e-6


@dataclass
class _Entry:
    """A job as it stands, the pool it runs in, and when it was finished."""

    job: BatchJob
    pool: str = ""
    finished_at: datetime | None = None


class SimulatedJobs:
    """`JobSystem` over a `SimulatedHall`. A job is known `ahead` before its release (timedelta.max: from the start)."""

    keeps_state = True

    def __init__(self, hall: SimulatedHall, jobs: Iterable[BatchJob], ahead: timedelta = timedelta(0)) -> None:
        self._hall, self._ahead = hall, ahead
        self._entries = {job.id: _Entry(job, job.pools[0] if job.gpus else "") for job in jobs}
        hall.attach_work(self._grants, self._progress)

    def snapshot(self) -> Sequence[BatchJob]:
        """Every known job that is neither done nor cancelled, with its progress up to now."""
        self._hall.advance()
        now = self._hall.now
        return [entry.job for entry in self._entries.values() if self._known(entry.job, now)]

    def apply(self, gpus: Mapping[str, int]) -> Mapping[str, Reason]:
        """Grant GPUs from now on; jobs that are not named keep what they have."""
        self._hall.advance()
        now = self._hall.now
        refused: dict[str, Reason] = {}
        # Who gives GPUs back goes first, so that they can be granted again in the same order.
        for name in sorted(
            gpus, key=lambda job: gpus[job] - (self._entries[job].job.gpus if job in self._entries else 0)
        ):
            reason = self._grant(name, gpus[name], now)
            if reason is not None:
                refused[name] = reason
        return refused

    def everything(self) -> Sequence[BatchJob]:
        """Every job that has become known, newest first, finished ones included."""
        self._hall.advance()
        entries = reversed(self._entries.values())
        return [entry.job for entry in entries if entry.job.release - self._hall.now <= self._ahead]

    def cancel(self, name: str) -> None:
        """Withdraw a job; what it has done stays counted."""
        self._hall.advance()
        entry = self._entries[name]
        if entry.job.state not in _OVER:
            entry.job = replace(entry.job, state=JobState.CANCELLED, gpus=0)

    def all_jobs(self) -> Mapping[str, BatchJob]:
        """Every job of the list as it stands, finished ones included."""
        return {name: entry.job for name, entry in self._entries.items()}

    def finished_at(self) -> Mapping[str, datetime]:
        """When each finished job ended."""
        return {name: entry.finished_at for name, entry in self._entries.items() if entry.finished_at is not None}

    def _held(self, name: str) -> int:
        """GPUs that a job holds now."""
        return self._entries[name].job.gpus if name in self._entries else 0

    def _known(self, job: BatchJob, now: datetime) -> bool:
        return job.state not in _OVER and job.release - now <= self._ahead

    def _grant(self, name: str, gpus: int, now: datetime) -> Reason | None:
        """Grant one job; the reason when it gets something else than asked."""
        entry = self._entries.get(name)
        if entry is None or entry.job.state in _OVER:
            return Reason.WORK_DONE
        job = entry.job
        if gpus > 0 and job.release > now:
            return Reason.NOT_RELEASED
        if gpus > 0 and job.started_at is None and self._waits(job):
            return Reason.PREDECESSOR
        if job.started_at is not None and not job.preemptible:
            return Reason.NOT_PREEMPTIBLE if gpus != job.gpus else None
        wanted = min(gpus, job.max_gpus) if job.preemptible or gpus <= 0 else job.max_gpus
        pool, given = self._place(entry, max(0, wanted))
        if not job.preemptible and given < wanted:
            return Reason.POOL_FULL
        if given < job.min_gpus:
            given = 0
        entry.pool, entry.job = pool, _with_gpus(job, given, now)
        return Reason.POOL_FULL if given < wanted else None

    def _waits(self, job: BatchJob) -> bool:
        """Whether a job that it comes after is not over; one that was never there holds nothing back."""
        return any(name in self._entries and self._entries[name].job.state not in _OVER for name in job.after)

    def _place(self, entry: _Entry, wanted: int) -> tuple[str, int]:
        """The pool of a running job, else the first of its pools with room enough, else the one with the most room."""
        pools = (entry.pool,) if entry.pool and entry.job.gpus else entry.job.pools
        room = {pool: self._room(pool, entry) for pool in pools}
        pool = next((name for name in pools if room[name] >= wanted), max(pools, key=lambda name: room[name]))
        return pool, min(wanted, room[pool])

    def _room(self, pool: str, but: _Entry) -> int:
        """GPUs of a pool that other jobs don't hold; none in a pool that the hall doesn't have."""
        held = sum(entry.job.gpus for entry in self._entries.values() if entry is not but and entry.pool == pool)
        return max(0, len(self._hall.gpus_of.get(pool, ())) - held)

    def _grants(self) -> Mapping[str, tuple[str, int, float]]:
        entries = self._entries.items()
        return {
            name: (entry.pool, entry.job.gpus, entry.job.left_gpu_h) for name, entry in entries if entry.job.gpus > 0
        }

    def _progress(self, name: str, gpu_h: float) -> None:
        entry = self._entries[name]
        job = replace(entry.job, done_gpu_h=min(entry.job.work_gpu_h, entry.job.done_gpu_h + gpu_h))
        if job.left_gpu_h <= _DONE_GPU_H and job.state not in _OVER:
            job = replace(job, done_gpu_h=job.work_gpu_h, state=JobState.DONE, gpus=0)
            entry.finished_at = self._hall.now
        entry.job = job


def _with_gpus(job: BatchJob, gpus: int, now: datetime) -> BatchJob:
    """The job with that many GPUs, in the state that follows from it."""
    if gpus > 0:
        since = job.running_since if job.gpus > 0 and job.running_since is not None else now
        if job.started_at is not None and job.gpus == 0:
            job = replace(job, done_gpu_h=max(0.0, job.done_gpu_h - job.restart_gpu_h))
        return replace(job, gpus=gpus, state=JobState.RUNNING, started_at=job.started_at or now, running_since=since)
    if job.gpus > 0:
        job = replace(job, done_gpu_h=max(0.0, job.done_gpu_h - job.checkpoint_gpu_h))
    stopped = JobState.SUSPENDED if job.state in (JobState.RUNNING, JobState.SUSPENDED) else JobState.WAITING
    return replace(job, gpus=0, state=stopped, running_since=None)
