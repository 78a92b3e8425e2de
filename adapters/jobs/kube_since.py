"""Since when a Job's pods work, as far as it was seen.

A Job's `startTime` is when it was let go; its pods may wait hours for a node after that, and what they waited is no
work done. The API does not keep when they became ready, so whoever watches remembers it; for a job that already worked
when it was first seen, `startTime` must do.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime
from threading import Lock

from adapters.jobs.kube_read import KubeJob


class Since:
    """By uid: the jobs that were seen waiting, and when they were then seen at work."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._waited: set[str] = set()
        self._since: dict[str, datetime] = {}

    def seen(self, job: KubeJob, now: datetime) -> KubeJob:
        """The job with the time since which it works."""
        with self._lock:
            if not job.running:
                self._waited.add(job.uid)
                self._since.pop(job.uid, None)
                return job
            if job.uid in self._waited:
                self._waited.discard(job.uid)
                self._since[job.uid] = now
            since = self._since.get(job.uid)
        if since is None or (job.running_since is not None and job.running_since > since):
            return job
        return replace(job, running_since=since)

    def keep(self, uids: Collection[str]) -> None:
        """Forget all others."""
        with self._lock:
            self._waited &= set(uids)
            self._since = {uid: at for uid, at in self._since.items() if uid in uids}
