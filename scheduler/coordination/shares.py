"""The coordinator's last word as a daemon keeps it: on disk, under a lease.

Why a lease: a word that is old was made for other prices. When it ends, no job is moved any more, in either direction;
what was moved stays where it is, and the daemon plans its own site as it always does.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from adapters.ports import RecordStore
from optimizer.reasons import Note, Reason, Severity
from scheduler.coordination.messages import Home, Share

KIND, KEY = "coordination", "share"


class Stale(ValueError):
    """A word that was made before the one in force."""


class Shares:
    """Thread-safe by replacing one frozen value. What the store raises passes through: the word then does not hold."""

    def __init__(self, name: str, records: RecordStore) -> None:
        self.name, self._records = name, records
        held = records.get(KIND, KEY)
        self._share: Share | None = None
        self._heard_at: datetime | None = None
        if held is not None:
            self._share, self._heard_at = _read(held)

    def accept(self, share: Share, now: datetime) -> None:
        """Keep a word. Raises Stale where a newer one is in force."""
        if self._share is not None and share.made_at < self._share.made_at and self.holds(now):
            raise Stale(f"made_at: {share.made_at.isoformat()} is before {self._share.made_at.isoformat()}")
        homes = {job: [home.site, home.why] for job, home in share.homes.items()}
        self._records.put(
            KIND, KEY, {"made_at": share.made_at, "heard_at": now, "lease_s": share.lease_s, "homes": homes}
        )
        self._share, self._heard_at = share, now

    def holds(self, now: datetime) -> bool:
        """Whether the last word is in force."""
        return (
            self._share is not None
            and self._heard_at is not None
            and timedelta() <= now - self._heard_at < timedelta(seconds=self._share.lease_s)
        )

    def homes(self, now: datetime) -> Mapping[str, Home]:
        """Where jobs should run; of jobs that are not named nothing is wanted."""
        return self._share.homes if self._share is not None and self.holds(now) else {}

    def last(self, job: str) -> Home | None:
        """The last that was said of a job, however long ago."""
        return self._share.homes.get(job) if self._share is not None else None

    def notes(self, now: datetime) -> tuple[Note, ...]:
        """What a person should know of the coordinator."""
        if self.holds(now):
            return ()
        since = f"since {self._heard_at:%Y-%m-%d %H:%M} UTC" if self._heard_at is not None else "yet"
        text = f"no coordinator was heard {since}: {self.name} goes on by itself, and no job moves to or from it"
        return (Note(Reason.COORDINATOR_LOST, self.name, text, Severity.WARNING, now),)

    def status(self, now: datetime) -> Mapping[str, Any]:
        """For the API: the name, the age of the last word, and whether it holds."""
        age_s = (now - self._heard_at).total_seconds() if self._heard_at is not None else None
        return {"name": self.name, "holds": self.holds(now), "age_s": age_s}


def _read(plain: Mapping[str, Any]) -> tuple[Share, datetime]:
    homes = {job: Home(str(site), str(why)) for job, (site, why) in plain["homes"].items()}
    made_at, heard_at = (_moment(plain[name]) for name in ("made_at", "heard_at"))
    return Share(made_at, float(plain["lease_s"]), homes), heard_at


def _moment(value: datetime | str) -> datetime:
    return value if isinstance(value, datetime) else datetime.fromisoformat(value)
