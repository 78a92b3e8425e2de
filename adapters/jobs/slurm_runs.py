"""What jobs that may be requeued ran before their present run: Slurm counts anew at every start.

Without it a plan would take a requeued job for one with all of its work left, though it goes on from its own
checkpoint. A run that ends by a requeue, whoever ordered that, counts less half of the distance between checkpoints.
It is written down before we requeue a job, and once a minute for requeues that no daemon sees.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import structlog

from adapters.jobs.slurm_read import PENDING, RUNNING, SUSPENDED, SlurmJob
from adapters.jobs.slurm_terms import Terms
from adapters.ports import RecordStore

log = structlog.get_logger("gridpace.slurm")
KIND, KEY = "slurm_runs", "jobs"
EVERY = timedelta(minutes=1)
SLACK = timedelta(seconds=2)
"""Slurm tells whole seconds."""


@dataclass(frozen=True, slots=True)
class Past:
    """When a job first began, what its runs before the last one were worth, when that one began (None: it has ended)
    and how long it was."""

    first: datetime
    before: timedelta
    run: datetime | None
    ran: timedelta

    def ended(self, checkpoint: timedelta) -> Past:
        """The last run is over, by a requeue."""
        return Past(self.first, self.before + max(timedelta(), self.ran - checkpoint / 2), None, timedelta())


class Runs:
    """The past of each job with `pause=requeue` that has begun. Used by the hand alone."""

    def __init__(self, records: RecordStore | None, now: datetime) -> None:
        self._records, self._written_at, self._dirty = records, now, False
        kept = (records.get(KIND, KEY) if records is not None else None) or {}
        self._past = {job: _read(plain) for job, plain in kept.items()}

    def see(self, jobs: Iterable[tuple[SlurmJob, Terms]], there: Collection[str], now: datetime) -> None:
        """A reading: these may be paced; what is not `there` any more is forgotten."""
        gone = self._past.keys() - set(there)
        for name in gone:
            del self._past[name]
        self._dirty = self._dirty or bool(gone)
        for job, terms in jobs:
            if terms.pause == "requeue":
                self._seen(job, terms.checkpoint)
        if self._dirty or (self._past and now - self._written_at >= EVERY):
            self.write(now)

    def of(self, job: SlurmJob) -> tuple[timedelta, datetime | None]:
        """What its runs before this one were worth, and when it first began (None: it has not)."""
        past = self._past.get(job.id)
        return (past.before, past.first) if past is not None else (timedelta(), job.started)

    def write(self, now: datetime) -> None:
        """Keep it on disk; what that does not take is written with the next."""
        if self._records is None:
            return
        try:
            self._records.put(KIND, KEY, {job: _plain(past) for job, past in self._past.items()})
        except Exception as error:  # noqa: BLE001 - whatever the store raises: work is then done anew in the plan
            log.warning("slurm.runs_not_written", why=str(error))
            return
        self._written_at, self._dirty = now, False

    def _seen(self, job: SlurmJob, checkpoint: timedelta) -> None:
        past = self._past.get(job.id)
        if past is not None and past.run is not None and _another(job, past.run):
            past, self._dirty = past.ended(checkpoint), True
        if job.state in {RUNNING, SUSPENDED} and job.started is not None:
            self._dirty = self._dirty or past is None or past.run is None
            past = Past(job.started, timedelta(), None, timedelta()) if past is None else past
            past = replace(past, run=job.started, ran=job.ran)
        if past is not None:
            self._past[job.id] = past


def _another(job: SlurmJob, run: datetime) -> bool:
    """Whether the run that began then is over."""
    if job.state == PENDING:
        return True
    return job.started is not None and abs(job.started - run) > SLACK


def _plain(past: Past) -> dict[str, Any]:
    return {
        "first": past.first.isoformat(),
        "before_s": past.before.total_seconds(),
        "run": past.run.isoformat() if past.run is not None else None,
        "ran_s": past.ran.total_seconds(),
    }


def _read(plain: Mapping[str, Any]) -> Past:
    run = datetime.fromisoformat(plain["run"]) if plain["run"] is not None else None
    first, seconds = datetime.fromisoformat(plain["first"]), (plain["before_s"], plain["ran_s"])
    return Past(first, timedelta(seconds=seconds[0]), run, timedelta(seconds=seconds[1]))
