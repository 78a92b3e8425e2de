"""What we did to which job of a batch system outside, written down before it is done.

Why doubts: a controller that dies or a command that runs out of time in the middle leaves open whether it was done. So
an order in flight is in doubt, on disk too, until a reading shows what became of it. Without that, what was done is
held by nobody's books, and what we undid looks as if somebody else had done it. What can't be written down is not done,
but a disk that says no keeps nothing from being let go.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

import structlog

from adapters.ports import AdapterError, RecordStore

log = structlog.get_logger("gridpace.jobs")
KIND = "held_jobs"
"""Of the records, one for each batch system."""

YIELDED = "yielded"
"""Somebody else undid what we did: the job is theirs."""

AFTERWARDS = timedelta(seconds=30)
"""So long after an order whose answer was lost it may still be carried out."""


class Held:
    """`did` of each job: "held", "suspended", "requeued" or YIELDED. Under a lock: who lets everything go may write
    beside a hand that hangs."""

    def __init__(self, system: str, records: RecordStore | None, now: datetime) -> None:
        self._system, self._records, self._behind = system, records, False
        self._lock = threading.RLock()
        kept = (records.get(KIND, system) if records is not None else None) or {}
        self._did: dict[str, str] = dict(kept.get("jobs", {}))
        # An order in flight when the daemon before ended may still be carried out.
        self._doubt: dict[str, datetime] = {job: now + AFTERWARDS for job in kept.get("doubt", ()) if job in self._did}

    def did(self, job: str) -> str | None:
        """What we did to it, None: nothing."""
        return self._did.get(job)

    def ours(self) -> dict[str, str]:
        """Everything that we hold."""
        return {job: did for job, did in self._did.items() if did != YIELDED}

    def doubted(self, job: str) -> bool:
        """Whether nobody knows yet what became of the last order."""
        return job in self._doubt

    def ordering(self, jobs: Mapping[str, str], now: datetime) -> None:
        """These are about to be stopped, and are ours as `jobs` says until that is known. Raises AdapterError where it
        is not on disk: nothing may be done."""
        with self._lock:
            self._keep({**self._did, **jobs}, {**self._doubt, **dict.fromkeys(jobs, now + AFTERWARDS)}, must=True)

    def undoing(self, jobs: Mapping[str, str], now: datetime) -> None:
        """These are about to be let go, and are ours as `jobs` says until that is known. Raises AdapterError where
        another daemon leads by now: they are its to let go, and it would take our hand for a stranger's."""
        with self._lock:
            self._keep({**self._did, **jobs}, {**self._doubt, **dict.fromkeys(jobs, now + AFTERWARDS)}, lead=True)

    def stands(self, jobs: Iterable[str]) -> None:
        """These are stopped, for certain."""
        with self._lock:
            sure = set(jobs)
            self._keep(self._did, {job: until for job, until in self._doubt.items() if job not in sure})

    def forget(self, jobs: Iterable[str]) -> None:
        """Nothing of ours is on these."""
        with self._lock:
            gone = set(jobs)
            self._keep({job: did for job, did in self._did.items() if job not in gone}, self._doubt)

    def give_up(self, job: str) -> None:
        """Somebody else undid it: theirs from now on."""
        with self._lock:
            self._keep({**self._did, job: YIELDED}, {name: at for name, at in self._doubt.items() if name != job})

    def settle(self, stopped: Mapping[str, bool], now: datetime) -> None:
        """A reading: who is `stopped` (absent: gone). Ends the doubts that it answers."""
        with self._lock:
            self.forget(set(self._did) - set(stopped))
            self.stands(job for job in self._doubt if stopped[job])
            self.forget([job for job, until in self._doubt.items() if until <= now])

    def _keep(
        self, did: Mapping[str, str], doubt: Mapping[str, datetime], must: bool = False, lead: bool = False
    ) -> None:
        doubt = {job: until for job, until in doubt.items() if job in did}
        if self._records is not None and (self._behind or did != self._did or set(doubt) != set(self._doubt)):
            try:
                self._records.put(KIND, self._system, {"jobs": dict(did), "doubt": sorted(doubt)})
            except Exception as error:  # whatever the store raises: not on disk
                if must or (lead and getattr(error, "overruled", False)):
                    raise AdapterError(f"it can't be written down, and is not done: {error}") from error
                if not self._behind:
                    log.warning("held.not_written", system=self._system, why=str(error))
                self._behind = True  # and written with what comes next
            else:
                self._behind = False
        self._did, self._doubt = dict(did), doubt
