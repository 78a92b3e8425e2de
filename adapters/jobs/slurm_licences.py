"""Power as a licence that Slurm counts: what the plan does not give is kept by a reservation; no job starts on it.

The mildest rung: it touches no job. A job asks for its power (`-L power_kw:8`); Slurm starts as many as fit into the
licences that nobody keeps, and chooses which. The reservation is of licences alone (`Flags=LICENSE_ONLY`, scontrol(1)),
and ends by itself when it is not renewed, so that a dead daemon keeps nothing for long.
"""

from __future__ import annotations

import getpass
import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from adapters.jobs.held import Held
from adapters.jobs.slurm_cli import Slurm, SlurmSilent
from adapters.jobs.slurm_read import PENDING, SlurmJob
from adapters.ports import AdapterError, RecordStore

NAME = "gridpace"
_TOTAL = re.compile(r"\bTotal=(\d+)")


class LicenceBudget:
    """The reservation over one licence, named `gridpace`. `lease`: so long after the last renewal it ends."""

    def __init__(
        self, slurm: Slurm, licence: str, lease: timedelta, records: RecordStore | None, now: datetime
    ) -> None:
        self._slurm, self._licence, self._lease = slurm, licence, lease
        self._held = Held("slurm-licences", records, now)
        self._kept: int | None = None
        self._renew_at = now

    def counted(self, job: SlurmJob) -> int:
        """How many of the licence a job asks for."""
        return sum(
            int(count or 1) for name, count in re.findall(r"([^,:=@]+)(?:@[^,:=]*)?[:=]?(\d*)", job.licences)
            if name == self._licence
        )  # fmt: skip

    def held(self) -> Mapping[str, str]:
        """The reservation, where it is ours."""
        return self._held.ours()

    def keep(self, jobs: Iterable[SlurmJob], waits: Iterable[str], now: datetime) -> None:
        """Keep all but what the jobs use and may start on; `waits`: ids of jobs that may not start now. Raises
        AdapterError."""
        refused = set(waits)
        given = sum(self.counted(job) for job in jobs if not (job.state == PENDING and job.id in refused))
        found = _TOTAL.search(self._slurm.ask("show", "licenses", self._licence))
        if found is None:
            raise AdapterError(f"slurm: no licence {self._licence!r}; name it in Licenses= of slurm.conf")
        kept = max(0, int(found.group(1)) - given)
        if kept == 0:
            self.release()
        elif kept != self._kept or now >= self._renew_at:
            self._write(kept, now)
            self._kept, self._renew_at = kept, now + self._lease / 3

    def release(self) -> None:
        """Delete the reservation, where it is ours. Raises AdapterError."""
        if not self._held.ours():
            return
        self._kept = None
        try:
            self._slurm.ask("delete", f"ReservationName={NAME}")
        except SlurmSilent:
            raise
        except AdapterError as error:
            if "invalid" not in str(error):  # it ended by itself
                raise
        self._held.forget([_SUBJECT])

    def _write(self, kept: int, now: datetime) -> None:
        minutes = max(1, round(self._lease / timedelta(minutes=1)))
        what = (f"ReservationName={NAME}", f"Licenses={self._licence}:{kept}")
        if self._held.ours():
            try:
                self._slurm.ask("update", *what, f"EndTime=now+{minutes}minutes")
                return
            except SlurmSilent:
                raise
            except AdapterError:
                pass  # it ended by itself, or was deleted: made again
        self._held.ordering({_SUBJECT: "reserved"}, now)
        start = ("StartTime=now", f"Duration={minutes}", f"Users={getpass.getuser()}", "Flags=LICENSE_ONLY")
        try:
            self._slurm.ask("create", "reservation", *what, *start)
        except SlurmSilent:
            raise
        except AdapterError:
            self._held.forget([_SUBJECT])  # somebody else's, or not allowed
            raise
        self._held.stands([_SUBJECT])


_SUBJECT = f"reservation {NAME}"
