"""What jobs that may be stopped and begun again ran before their present run: batch systems count anew at every start.

Without it a plan would take such a job for one with all of its work left, though it goes on from its own checkpoint,
and its tier would count from its last start. A run that ends, whoever ended it, counts less half of the distance
between checkpoints. It is written down before we end one, and once a minute for those that end while no daemon is
there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import structlog

from adapters.ports import RecordStore

log = structlog.get_logger("gridpace.jobs")
KIND = "job_runs"
"""Of the records, one for each batch system."""
EVERY = timedelta(minutes=1)
SLACK = timedelta(seconds=2)
"""Slurm and Kubernetes tell whole seconds."""


@dataclass(frozen=True, slots=True)
class Run:
    """A job as it is now: when its present run began (None: it does not work), how long that is, and how often it
    writes a checkpoint."""

    job: str
    began: datetime | None
    ran: timedelta
    checkpoint: timedelta


@dataclass(frozen=True, slots=True)
class Earlier:
    """What a job's runs before the present one were worth, and when it first began (None: it has not)."""

    ran: timedelta = timedelta()
    first: datetime | None = None


NOTHING = Earlier()


@dataclass(frozen=True, slots=True)
class _Past:
    """When a job first began, what its runs before the last one were worth, when that one began (None: it has ended)
    and how long it was."""

    first: datetime
    before: timedelta
    began: datetime | None
    ran: timedelta

    def ended(self, checkpoint: timedelta) -> _Past:
        """The last run is over."""
        return _Past(self.first, self.before + max(timedelta(), self.ran - checkpoint / 2), None, timedelta())


class Runs:
    """The past of each job that has begun. Used by the hand alone."""

    def __init__(self, system: str, records: RecordStore | None, now: datetime) -> None:
        self._system, self._records, self._written_at, self._dirty = system, records, now, False
        self._past: dict[str, _Past] = {}
        try:
            kept = (records.get(KIND, system) if records is not None else None) or {}
            self._past = {job: _read(plain) for job, plain in kept.items()}
        except Exception as error:  # noqa: BLE001 - whatever the store raises: work is then done anew in the plan
            log.warning("runs.not_read", system=system, why=str(error))

    def see(self, runs: Iterable[Run], there: Collection[str], now: datetime) -> None:
        """A reading of jobs that go on from checkpoints; what is not `there` any more is forgotten."""
        gone = self._past.keys() - set(there)
        for name in gone:
            del self._past[name]
        self._dirty = self._dirty or bool(gone)
        for run in runs:
            self._seen(run)
        if self._dirty or (self._past and now - self._written_at >= EVERY):
            self.write(now)

    def before(self, job: str) -> Earlier | None:
        """What a job ran before its present run; None: it has not begun, or does not go on from checkpoints."""
        past = self._past.get(job)
        return Earlier(past.before, past.first) if past is not None else None

    def write(self, now: datetime) -> None:
        """Keep it on disk; what that does not take is written with the next."""
        if self._records is None:
            return
        try:
            self._records.put(KIND, self._system, {job: _plain(past) for job, past in self._past.items()})
        except Exception as error:  # noqa: BLE001 - whatever the store raises: work is then done anew in the plan
            log.warning("runs.not_written", system=self._system, why=str(error))
            return
        self._written_at, self._dirty = now, False

    def _seen(self, run: Run) -> None:
        past = self._past.get(run.job)
        if past is not None and past.began is not None and (run.began is None or abs(run.began - past.began) > SLACK):
            past, self._dirty = past.ended(run.checkpoint), True
        if run.began is not None:
            self._dirty = self._dirty or past is None or past.began is None
            past = _Past(run.began, timedelta(), None, timedelta()) if past is None else past
            past = replace(past, began=run.began, ran=run.ran)
        if past is not None:
            self._past[run.job] = past


def _plain(past: _Past) -> dict[str, Any]:
    return {
        "first": past.first.isoformat(),
        "before_s": past.before.total_seconds(),
        "began": past.began.isoformat() if past.began is not None else None,
        "ran_s": past.ran.total_seconds(),
    }


def _read(plain: Mapping[str, Any]) -> _Past:
    began = datetime.fromisoformat(plain["began"]) if plain["began"] is not None else None
    first, seconds = datetime.fromisoformat(plain["first"]), (plain["before_s"], plain["ran_s"])
    return _Past(first, timedelta(seconds=seconds[0]), began, timedelta(seconds=seconds[1]))
