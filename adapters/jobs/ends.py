"""How jobs of a batch system outside ended, for the books of what they were promised.

Why kept apart: a job that is over is in no picture any more, and the loop that asks how it ended must not wait.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from adapters.jobs.slurm_cli import Slurm, SlurmSilent
from adapters.ports import AdapterError

MOST = 2000
"""Ends that are kept; the books ask within a second."""
_SLURM = re.compile(r"^\s*(?:JobState=(?P<state>\w+)|.*\bEndTime=(?P<end>[0-9T:-]{19})\b)", re.MULTILINE)


class Ends:
    """By job, whether it was done and when it ended. Written and asked from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ends: dict[str, tuple[bool, datetime]] = {}
        self._followed: set[str] = set()
        self._unknown: set[str] = set()

    def see(self, job: str, done: bool, at: datetime) -> None:
        """One ended."""
        with self._lock:
            self._ends[job] = (done, at)
            while len(self._ends) > MOST:
                del self._ends[next(iter(self._ends))]

    def of(self, job: str) -> tuple[bool, datetime] | None:
        """Whether a job was done, and when it ended; None: nobody knows."""
        with self._lock:
            return self._ends.get(job)

    def wanted(self, job: str) -> tuple[bool, datetime] | None:
        """The same; one that nobody knows is asked for, once."""
        with self._lock:
            if job not in self._ends and job not in self._unknown:
                self._followed.add(job)
            return self._ends.get(job)

    def ask_slurm(self, paced: Iterable[str], seen: Collection[str], slurm: Slurm) -> None:
        """Follow these jobs, and ask Slurm about those that are gone from its queue (`seen`), which it remembers for a
        while (MinJobAge), and its accounting after that. One that neither knows stays unknown. An accounting that does
        not answer is waited for once: jobs are held and released only after this."""
        accounts = True
        with self._lock:
            self._followed |= set(paced)
            gone = sorted(self._followed - set(seen))
        for job in gone:
            try:
                found = _slurm_end(slurm.ask("show", "job", job))
            except SlurmSilent:
                return
            except (AdapterError, ValueError):
                accounts = accounts and self._accounted(job, slurm)
                self._forget(job)
                continue
            if found is not None:
                self.see(job, *found)
                self._forget(job)

    def _accounted(self, job: str, slurm: Slurm) -> bool:
        """See how one ended that the controller does not know any more, where the site keeps accounts; False: they do
        not answer."""
        try:
            found = _accounted_end(slurm.accounted(job))
        except SlurmSilent:
            return False
        except (AdapterError, ValueError):
            return True
        if found is not None:
            self.see(job, *found)
        return True

    def _forget(self, job: str) -> None:
        with self._lock:
            self._followed.discard(job)
            if job not in self._ends:
                self._unknown.add(job)

    def see_kubernetes(self, job: str, status: Mapping[str, Any], now: datetime) -> None:
        """The status of a Job that may be over."""
        for one in status.get("conditions") or ():
            if one["type"] in {"Complete", "Failed"} and one["status"] == "True":
                told = status.get("completionTime") or one.get("lastTransitionTime")
                at = datetime.fromisoformat(told).astimezone(UTC) if told else now
                self.see(job, one["type"] == "Complete", at)


def _slurm_end(text: str) -> tuple[bool, datetime] | None:
    """State and end in an answer of `scontrol show job`, whose times are UTC; None: it is not over."""
    told = {name: value for found in _SLURM.finditer(text) for name, value in found.groupdict().items() if value}
    if told.get("state") in {None, "PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING"} or "end" not in told:
        return None
    return told["state"] == "COMPLETED", datetime.fromisoformat(told["end"]).replace(tzinfo=UTC)


def _accounted_end(text: str) -> tuple[bool, datetime] | None:
    """The same in a line of `sacct`: state and end, in UTC. ValueError where there is no time."""
    state, _, end = text.strip().partition("|")
    return (state == "COMPLETED", datetime.fromisoformat(end).replace(tzinfo=UTC)) if end else None
