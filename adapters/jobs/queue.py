"""The embedded batch queue: deferrable work of a site that has no Slurm and no Kubernetes.

Why durable before it answers: a client that was told "queued" may forget its job. Each job is one record; who holds how
many GPUs is one more, written once for a whole round of grants, so that 5,000 grants cost one write. Workers see their
grant through the API and report what they have done; suspending loses nothing.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from adapters.jobs.queue_rules import JobFields, JobRefused, new_job, read, sites_of, written
from adapters.ports import Clock, RecordStore
from optimizer.domain import BatchJob, JobState
from optimizer.reasons import Note, Reason

__all__ = ["JobFields", "JobQueue", "JobRefused"]

OVER = (JobState.DONE, JobState.CANCELLED)
FORGET_AFTER_S = 30 * 86_400.0
MOST_FINISHED = 10_000


@dataclass(frozen=True)
class _Grant:
    """GPUs that a job holds now, when it first had any, and since when it has had some without a break."""

    gpus: int
    started_at: datetime
    running_since: datetime


class JobQueue:
    """`JobSystem` over a record store. `pools`: GPUs of each batch pool, in order of preference. Thread-safe.

    What the store raises when a record can't be kept passes through: the job then is not acknowledged.
    """

    keeps_state = True

    def __init__(self, records: RecordStore, pools: Mapping[str, int], clock: Clock) -> None:
        self._records, self._pools, self._clock = records, dict(pools), clock
        self._lock = threading.RLock()
        held = records.all("job")
        self._jobs = {key: read(body["job"]) for key, body in held.items()}
        self._metadata = {key: dict(body["metadata"]) for key, body in held.items()}
        moves = {key: body.get("moves", {}) for key, body in held.items()}
        self._sites = {key: tuple(one.get("sites", ())) for key, one in moves.items() if one.get("sites")}
        self._away = {key: str(one["away"]) for key, one in moves.items() if one.get("away")}
        self._lives = {key: _read_life(body["life"]) for key, body in held.items() if body.get("life")}
        self._notes: dict[str, tuple[Note, ...]] = {}
        self._grants = _read_grants(records.get("job_grants", "now"), self._jobs)

    # ------------------------------------------------------------ clients
    def submit(self, request: JobFields, now: datetime) -> BatchJob:
        """Queue a job, durably. The same job under the same id again is the same job (as it stands now).

        Raises JobRefused: 422 naming the field, 409 when the id belongs to another job.
        """
        with self._lock:
            job_id = request.id if request.id is not None else self._free_id()
            held = self._jobs.get(job_id)
            if held is not None:
                return self._same(held, request)
            job, notes = new_job(request, job_id, self._pools, now)
            unknown = [name for name in job.after if name not in self._jobs]
            if unknown:
                raise JobRefused(f"after: no job {unknown[0]!r} is known; submit it first")
            metadata, sites = dict(request.metadata or {}), sites_of(request)
            body = {"job": written(job), "metadata": metadata, "moves": {"sites": list(sites)}}
            self._records.put("job", job_id, body)
            if sites:
                self._sites[job_id] = sites
            self._jobs[job_id], self._metadata[job_id], self._notes[job_id] = job, metadata, notes
            return job

    def _same(self, held: BatchJob, request: JobFields) -> BatchJob:
        """The job that is held, where the request says the same."""
        names = (
            "work_gpu_h",
            "preemptible",
            "value_per_gpu_h",
            "late_penalty",
            "undone_penalty",
            "priority",
            "deadline",
            "min_gpus",
            "min_run_h",
            "pause_cost",
            "checkpoint_gpu_h",
            "restart_gpu_h",
            "data_gb",
            "tier",
        )
        same = all(getattr(held, name) == getattr(request, name) for name in names)
        same = same and tuple(dict.fromkeys(request.after)) == held.after
        same = same and self._sites.get(held.id, ()) == sites_of(request)
        same = same and (request.release is None or request.release == held.release)
        same = same and (request.pool is None or (request.pool,) == held.pools)
        if not same or held.max_gpus != min(request.max_gpus, max(self._pools.get(name, 0) for name in held.pools)):
            raise JobRefused(f"id: {held.id} belongs to another job; choose another id, or none", 409)
        return self._now(held)

    def _free_id(self) -> str:
        number = len(self._jobs) + 1
        while f"job-{number:06d}" in self._jobs:
            number += 1
        return f"job-{number:06d}"

    def cancel(self, job_id: str, by: str) -> BatchJob:
        """Withdraw a job; what it has done stays counted. Again is the same. Raises JobRefused (404, 409 when done)."""
        with self._lock:
            job = self._known(job_id)
            if job.state is JobState.DONE:
                raise JobRefused(f"{job_id} is done already", 409)
            if job.state is not JobState.CANCELLED:
                self._end(replace(job, state=JobState.CANCELLED), cancelled_by=by)
            return self._jobs[job_id]

    def report(self, job_id: str, done_gpu_h: float, finished: bool, site: str = "") -> BatchJob:
        """A worker's word: work done so far in GPU-hours, whether that was all, and at which other `site` it goes on
        ("": here). Late reports never lower what is done. A job that is elsewhere has no GPUs here.

        Raises JobRefused: 404 unknown, 409 cancelled, 422 naming the field.
        """
        with self._lock:
            job = self._known(job_id)
            if not math.isfinite(done_gpu_h) or done_gpu_h < 0:
                raise JobRefused(f"done_gpu_h: {done_gpu_h} is not a number from 0 on")
            if job.state is JobState.CANCELLED:
                raise JobRefused(f"{job_id} was cancelled", 409)
            if job.state is JobState.DONE:
                return job
            if site and site not in (*self._sites.get(job_id, ()), self._away.get(job_id)):
                raise JobRefused(f"site: {job_id} may not run at {site!r}")
            job = replace(job, done_gpu_h=min(job.work_gpu_h, max(job.done_gpu_h, done_gpu_h)))
            if finished:
                self._end(replace(job, state=JobState.DONE))
            else:
                self._keep(job, away=site)
                if site:
                    self._keep_grants(self._grants_without(job))
            return self._now(self._jobs[job_id])

    def confine(self, job_id: str, sites: Sequence[str]) -> None:
        """Of the other sites that may run a job, keep these only; none is added. Raises JobRefused (404)."""
        with self._lock:
            job, held = self._known(job_id), self._sites.get(job_id, ())
            kept = tuple(site for site in held if site in sites)
            if kept != held:
                self._sites[job_id] = kept
                self._keep(job, away=self._away.get(job_id, ""))

    def everything(self) -> Sequence[BatchJob]:
        """Every job that is not forgotten, newest first; finished ones are kept for 30 days."""
        with self._lock:
            return [self._now(job) for job in reversed(self._jobs.values())]

    def lives(self) -> Mapping[str, tuple[datetime, datetime]]:
        """Start and end of the jobs of a tier that are done, for whoever did not see their end."""
        with self._lock:
            return dict(self._lives)

    def notes(self) -> tuple[Note, ...]:
        """What was changed about jobs that still wait or run."""
        with self._lock:
            return tuple(note for key, notes in self._notes.items() if key in self._jobs for note in notes)

    def movable(self) -> Mapping[str, tuple[str, ...]]:
        """See Movable."""
        with self._lock:
            return {key: sites for key, sites in self._sites.items() if sites and self._jobs[key].state not in OVER}

    def elsewhere(self) -> Mapping[str, str]:
        """See Movable."""
        with self._lock:
            return dict(self._away)

    def metadata(self, job_id: str) -> Mapping[str, str]:
        """What the client attached. Raises JobRefused (404)."""
        with self._lock:
            return dict(self._metadata[self._known(job_id).id])

    # ------------------------------------------------------------ the loops
    def snapshot(self) -> Sequence[BatchJob]:
        """Every job that is neither done nor cancelled nor at another site, oldest first, with its grant."""
        with self._lock:
            return [self._now(job) for job in self._jobs.values() if job.state not in OVER and job.id not in self._away]

    def apply(self, gpus: Mapping[str, int]) -> Mapping[str, Reason]:
        """Grant GPUs from now on; jobs that are not named keep what they have. On disk when it returns; what the disk
        does not take holds all the same until a restart, so that a full one keeps no job from pausing.

        A job that may not be interrupted starts with all its GPUs and keeps them; no pool is handed out twice.
        """
        with self._lock:
            grants, now = dict(self._grants), self._clock.now()
            used: Counter[tuple[str, ...]] = Counter()
            for key, grant in grants.items():
                used[self._jobs[key].pools] += grant.gpus
            refused: dict[str, Reason] = {}
            # Who gives GPUs back goes first, so that they can be granted again in the same round.
            for job_id in sorted(gpus, key=lambda key: gpus[key] - self._held(key)):
                job = self._jobs.get(job_id)
                if job is None or job.state in OVER or job_id in self._away:
                    refused[job_id] = Reason.ELSEWHERE if job_id in self._away else Reason.WORK_DONE
                    continue
                held = grants.get(job_id)
                used[job.pools] -= held.gpus if held else 0
                given, reason = self._grantable(job, gpus[job_id], held, used, now)
                used[job.pools] += given
                if reason is not None:
                    refused[job_id] = reason
                if given or held is not None:
                    goes_on = held is not None and held.gpus > 0
                    since = held.running_since if held is not None and goes_on else now
                    grants[job_id] = _Grant(given, held.started_at if held is not None else now, since)
            self._keep_grants(grants)
            return refused

    def _grantable(
        self, job: BatchJob, wanted: int, held: _Grant | None, used: Mapping[tuple[str, ...], int], now: datetime
    ) -> tuple[int, Reason | None]:
        """GPUs that a job gets, and why not what was wanted; `used` are the others' by the pools that they may use."""
        if held is not None and held.gpus and not job.preemptible:
            return held.gpus, Reason.NOT_PREEMPTIBLE if wanted != held.gpus else None
        if wanted > 0 and job.release > now:
            return 0, Reason.NOT_RELEASED
        if wanted > 0 and held is None and self._waits(job):
            return 0, Reason.PREDECESSOR
        wanted = max(0, min(wanted, job.max_gpus))
        if wanted and not job.preemptible:
            wanted = job.max_gpus
        others = sum(count for pools, count in used.items() if set(pools) & set(job.pools))
        free = max(0, sum(self._pools.get(name, 0) for name in job.pools) - others)
        given = wanted if free >= wanted else free if job.preemptible else 0
        if given < job.min_gpus:
            given = 0
        return given, Reason.POOL_FULL if given < wanted else None

    def _waits(self, job: BatchJob) -> bool:
        """Whether a job that it comes after is neither over nor forgotten; a cancelled one holds nothing back."""
        return any(name in self._jobs and self._jobs[name].state not in OVER for name in job.after)

    def _grants_without(self, job: BatchJob) -> dict[str, _Grant]:
        """The grants when a job has left for another site: of one with a tier the start stays, and its allowance with
        it."""
        grants = dict(self._grants)
        held = grants.pop(job.id, None)
        return grants if held is None or job.tier is None else grants | {job.id: replace(held, gpus=0)}

    # ------------------------------------------------------------ the books
    def _known(self, job_id: str) -> BatchJob:
        if job_id not in self._jobs:
            raise JobRefused(f"no job {job_id!r}", 404)
        return self._jobs[job_id]

    def _held(self, job_id: str) -> int:
        return self._grants[job_id].gpus if job_id in self._grants else 0

    def _now(self, job: BatchJob) -> BatchJob:
        """The job with its grant and the state that follows from it."""
        grant = self._grants.get(job.id)
        if job.state in OVER or grant is None:
            return job
        state = JobState.RUNNING if grant.gpus else JobState.SUSPENDED
        return replace(job, gpus=grant.gpus, started_at=grant.started_at, state=state,
                       running_since=grant.running_since if grant.gpus else None)  # fmt: skip

    def _keep(self, job: BatchJob, away: str = "", **more: Any) -> None:
        moves = {"sites": list(self._sites.get(job.id, ())), "away": away}
        body = {"job": written(job), "metadata": self._metadata[job.id], "moves": moves, **more}
        self._records.put("job", job.id, body)
        self._jobs[job.id] = job
        self._away.pop(job.id, None)
        if away:
            self._away[job.id] = away

    def _end(self, job: BatchJob, **more: Any) -> None:
        """Done or cancelled: kept for a while, without GPUs."""
        life, grant = None, self._grants.get(job.id)
        if grant is not None and job.tier is not None and job.state is JobState.DONE:
            life = (grant.started_at, self._clock.now())
            more["life"] = [at.isoformat() for at in life]
        self._keep(job, forget_after_s=FORGET_AFTER_S, **more)
        if life is not None:
            self._lives[job.id] = life
        self._notes.pop(job.id, None)
        # What is left of its grant in the record is ignored when it is read again; the next round writes without it.
        self._grants.pop(job.id, None)
        finished = [key for key, other in self._jobs.items() if other.state in OVER]
        for key in finished[: max(0, len(finished) - MOST_FINISHED)]:
            del self._jobs[key], self._metadata[key]
            self._sites.pop(key, None)
            self._lives.pop(key, None)

    def _keep_grants(self, grants: Mapping[str, _Grant]) -> None:
        if grants == self._grants:
            return
        plain = {
            key: [grant.gpus, grant.started_at.isoformat(), grant.running_since.isoformat()]
            for key, grant in grants.items()
        }
        self._grants = dict(grants)
        self._records.put("job_grants", "now", {"grants": plain})


def _read_life(held: Sequence[str]) -> tuple[datetime, datetime]:
    start, end = held
    return datetime.fromisoformat(start), datetime.fromisoformat(end)


def _read_grants(held: Mapping[str, Any] | None, jobs: Mapping[str, BatchJob]) -> dict[str, _Grant]:
    """Grants of jobs that are not over."""
    grants = held["grants"] if held is not None else {}
    return {
        key: _Grant(int(grant[0]), datetime.fromisoformat(grant[1]), datetime.fromisoformat(grant[-1]))
        for key, grant in grants.items()
        if key in jobs and jobs[key].state not in OVER
    }
