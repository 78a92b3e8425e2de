"""Jobs that wait by a start time of ours: Slurm shows when each is expected to start, and starts it then without us.

Milder than a hold: nobody has to let it go, so a daemon that dies keeps a job no longer than it had planned to. What we
put off is put off again in time, while the plan gives it nothing. The owner's own start time is written down, and given
back; who sets another one has the job.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from adapters.jobs.slurm_read import PENDING, SlurmJob

WORD = "deferred"
SLACK = timedelta(seconds=2)
"""Slurm tells whole seconds."""
MOVED = timedelta(minutes=1)
"""An expected start that moves by less is left as it is."""


@dataclass(frozen=True, slots=True)
class Deferral:
    """Start times that we gave a job: `to`, and `last`, which holds until that has been carried out. `own`: what its
    owner asked for (None: to start as soon as it can)."""

    to: datetime
    last: datetime | None = None
    own: datetime | None = None

    def text(self) -> str:
        """As it stands in the books."""
        more = ((name, at) for name, at in (("last", self.last), ("own", self.own)) if at is not None)
        return " ".join((WORD, f"to={_iso(self.to)}", *(f"{name}={_iso(at)}" for name, at in more)))

    def standing(self, job: SlurmJob, now: datetime) -> Deferral | None:
        """What of it keeps the job back now; None: nothing."""
        if job.state != PENDING or job.held or job.begin <= now:
            return None
        if abs(job.begin - self.to) <= SLACK:
            return self
        if self.last is not None and abs(job.begin - self.last) <= SLACK:
            return Deferral(self.last, None, self.own)
        return None

    def over(self, job: SlurmJob, now: datetime) -> bool:
        """Whether nothing is left of it, by itself: its time has come, or it was never carried out."""
        came = any(at is not None and at <= now for at in (self.to, self.last))
        return job.state != PENDING or came or abs(job.begin - (self.own or job.submitted)) <= SLACK

    def back(self, now: datetime) -> datetime:
        """The start time that lets the job go."""
        return max(now, self.own) if self.own is not None else now


def deferral(did: str | None) -> Deferral | None:
    """What the books say of a job; None: not that it is deferred."""
    if did is None or not did.startswith(WORD):
        return None
    times = dict(_times(did))
    return Deferral(times["to"], times.get("last"), times.get("own"))


def next_deferral(
    job: SlurmJob, now: Deferral | None, at: datetime, expected: datetime | None, lease: timedelta
) -> Deferral | None:
    """The start time that a job without a grant is to have from `at` on, where it isn't the one that it has: when the
    plan starts it, and never sooner than a `lease` from now, in which it is renewed."""
    own = now.own if now is not None else (job.begin if job.begin > at else None)
    soonest = at + lease
    to = max(soonest, expected or soonest).replace(microsecond=0)
    if own is not None and own >= to:
        return None  # its owner wants it no sooner
    if now is not None and now.to >= at + lease / 2:
        near = now.to <= soonest + MOVED
        if near if to <= soonest else abs(now.to - to) <= MOVED:
            return None
    return Deferral(to, now.to if now is not None else None, own)


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _times(text: str) -> Iterator[tuple[str, datetime]]:
    for word in text.split()[1:]:
        name, _, value = word.partition("=")
        yield name, datetime.fromisoformat(value)
