"""Carries out what a Slurm job is to do, each order in the books before it is given."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from adapters.jobs.held import Held
from adapters.jobs.slurm_cli import Slurm
from adapters.jobs.slurm_config import SlurmConfig
from adapters.jobs.slurm_licences import LicenceBudget
from adapters.jobs.slurm_picture import Picture
from adapters.jobs.slurm_read import PENDING, RUNNING, SlurmJob
from adapters.jobs.slurm_terms import Terms
from adapters.ports import AdapterError, Clock

DID = {"suspend": "suspended", "requeuehold": "requeued", "hold": "held"}
"""What stops a job, hardest first, and how it then stands in the books."""


@dataclass(frozen=True)
class Orders:
    """Jobs to stop, by how; jobs to let go, with what was done to them."""

    stop: Mapping[str, Sequence[str]] = field(default_factory=dict)
    go: Mapping[str, str] = field(default_factory=dict)


class Mover:
    """The writer of one cluster. `failed`: what was said of each job for which it did not work."""

    def __init__(
        self, slurm: Slurm, config: SlurmConfig, held: Held, licences: LicenceBudget | None, clock: Clock
    ) -> None:
        self._slurm, self._config, self._held, self._licences = slurm, config, held, licences
        self._clock, self._lock = clock, threading.Lock()
        self._restarted: set[str] = set()
        self._failed: dict[str, str] = {}

    @property
    def failed(self) -> dict[str, str]:
        """A copy of it."""
        with self._lock:
            return dict(self._failed)

    def orders(self, picture: Picture, wish: Mapping[str, int], writes: bool) -> Orders:
        """What brings every job to its wish. What waits without a grant is held, unless we only look; what runs
        without a word about it goes on."""
        stop: dict[str, list[str]] = {verb: [] for verb in DID}
        go: dict[str, str] = {}
        for name, (job, terms) in picture.jobs.items():
            gpus = wish.get(name, 0 if job.state == PENDING and writes else job.gpus)
            did = self._held.did(name)
            if gpus == 0 and not job.stopped and writes:
                verb = self._stopping(job, terms)
                if verb is not None:
                    stop[verb].append(name)
            elif gpus > 0 and did is not None and job.stopped:
                go[name] = did
        return Orders(stop, go)

    def carry_out(self, picture: Picture, wish: Mapping[str, int], writes: bool) -> None:
        """Bring every job to its wish: what stops goes first, so that power falls before it rises."""
        with self._lock:
            self._failed = {}  # what still fails is tried, and said, again
        self._unhold([name for name, (job, _) in picture.jobs.items() if job.priority_held and self._held.did(name)])
        orders = self.orders(picture, wish, writes)
        self._hurry(picture, wish)
        self._budget(picture, wish, writes)
        for verb, jobs in orders.stop.items():
            self.stop(verb, jobs)
        if orders.go:
            self.let_go(orders.go, picture.seen)

    def stop(self, verb: str, jobs: Sequence[str]) -> None:
        """Written down before it is done, or not done. What failed stays in doubt: of a list that failed, some may be
        done, and a controller that went silent may have done all."""
        if not jobs:
            return
        try:
            self._held.ordering(dict.fromkeys(jobs, DID[verb]), self._clock.now())
        except AdapterError as error:
            self._told(jobs, dict.fromkeys(jobs, str(error)))
            return
        failed = self._slurm.each(verb, jobs)
        self._told(jobs, failed)
        self._held.stands(job for job in jobs if job not in failed)

    def let_go(self, jobs: Mapping[str, str], seen: Mapping[str, SlurmJob]) -> dict[str, str]:
        """Undo what was done to these, and what failed; nothing is done where somebody has undone it already. `seen`:
        the jobs as they are (empty: nobody knows)."""
        self._held.undoing(jobs, self._clock.now())
        stopped = [job for job in jobs if job not in seen or seen[job].stopped]
        suspended = [job for job in stopped if jobs[job] == "suspended"]
        held = [job for job in stopped if jobs[job] != "suspended"]
        failed = self._slurm.each("resume", suspended) | self._slurm.each("release", held)
        self._restarted |= {job for job in held if jobs[job] == "requeued" and job not in failed}
        self._slurm.start_now(job for job in self._restarted if job in held)
        self._told(jobs, failed)
        self._held.forget(job for job in jobs if job not in failed)
        return failed

    def _stopping(self, job: SlurmJob, terms: Terms) -> str | None:
        """How a job is stopped: one that has not begun by its licences, or held; one that runs as its owner wrote."""
        if job.state == PENDING:
            by_licence = self._licences is not None and self._licences.counted(job)
            return "hold" if "hold" in self._config.rungs and not by_licence else None
        if job.state == RUNNING and terms.pause != "no":
            return "suspend" if terms.pause == "suspend" else "requeuehold"
        return None

    def _hurry(self, picture: Picture, wish: Mapping[str, int]) -> None:
        """Slurm puts off a requeued job by two minutes once it has cleaned up after it, which may be after our word."""
        late = {job.id for job, _ in picture.jobs.values() if job.state == PENDING and job.reason == "BeginTime"}
        self._slurm.start_now(self._restarted & late & {job for job, gpus in wish.items() if gpus > 0})
        self._restarted = {job for job in self._restarted & set(picture.seen) if picture.seen[job].state == PENDING}

    def _budget(self, picture: Picture, wish: Mapping[str, int], writes: bool) -> None:
        """Keep the licences of paced jobs that wait without a grant; none where we only look."""
        if self._licences is None:
            return
        try:
            if not writes:
                self._licences.release()
                return
            waits = [name for name in picture.jobs if not wish.get(name)]
            self._licences.keep(picture.seen.values(), waits, self._clock.now())
        except AdapterError as error:
            self._told((), {"licences": str(error)})

    def _unhold(self, jobs: Sequence[str]) -> None:
        """Our hold came when Slurm had just started these: it stops nothing now, but would keep them when requeued."""
        if jobs:
            failed = self._slurm.each("release", jobs)
            self._held.forget(job for job in jobs if job not in failed)

    def _told(self, jobs: Sequence[str] | Mapping[str, str], failed: Mapping[str, str]) -> None:
        with self._lock:
            self._failed = {job: why for job, why in self._failed.items() if job not in jobs} | dict(failed)
