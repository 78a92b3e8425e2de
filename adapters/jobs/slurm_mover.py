"""Carries out what a Slurm job is to do, each order in the books before it is given."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from adapters.jobs.held import Held
from adapters.jobs.runs import Runs
from adapters.jobs.slurm_cli import Slurm
from adapters.jobs.slurm_config import SlurmConfig
from adapters.jobs.slurm_defer import Deferral, deferral, next_deferral
from adapters.jobs.slurm_drain import Drain
from adapters.jobs.slurm_licences import LicenceBudget
from adapters.jobs.slurm_nodes import Node
from adapters.jobs.slurm_picture import Picture
from adapters.jobs.slurm_read import PENDING, RUNNING, SlurmJob
from adapters.jobs.slurm_terms import Terms
from adapters.ports import AdapterError, Clock, RecordStore

DID = {"suspend": "suspended", "requeuehold": "requeued", "hold": "held"}
"""What stops a job, hardest first, and how it then stands in the books."""


@dataclass(frozen=True)
class Orders:
    """Jobs to stop, by how; jobs to put off, and until when; jobs to let go, with what was done to them."""

    stop: Mapping[str, Sequence[str]] = field(default_factory=dict)
    defer: Mapping[str, Deferral] = field(default_factory=dict)
    go: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Wish:
    """What is wanted: GPUs by job, and starts that the plan foresees. `writes`: False where nothing may be held;
    `drain`: whether an emergency is in force that may go below floors."""

    gpus: Mapping[str, int] = field(default_factory=dict)
    starts: Mapping[str, datetime] = field(default_factory=dict)
    writes: bool = True
    drain: bool = False


class Mover:
    """The writer of one cluster. `book`: what was done to which job; `runs`: what requeued jobs ran before."""

    def __init__(self, slurm: Slurm, config: SlurmConfig, records: RecordStore | None, clock: Clock) -> None:
        self._slurm, self._config, self._clock, self._lock = slurm, config, clock, threading.Lock()
        now = clock.now()
        self.book = self._held = Held("slurm", records, now)
        self.runs = Runs("slurm", records, now)
        slurm.rest(job for job, did in self._held.ours().items() if did == "requeued")
        self._licences: LicenceBudget | None = None
        if config.licence is not None:
            self._licences = LicenceBudget(slurm, config.licence, config.licence_lease, records, now)
        self._drain = Drain(slurm, config.partitions, records, now)
        self._restarted: set[str] = set()
        self._failed: dict[str, str] = {}

    @property
    def failed(self) -> dict[str, str]:
        """What was said of each job for which it did not work."""
        with self._lock:
            return dict(self._failed)

    def held(self) -> dict[str, str]:
        """Everything that we hold: jobs, licences, nodes."""
        licences = self._licences.held() if self._licences is not None else {}
        return {**self._held.ours(), **licences, **self._drain.held()}

    def orders(self, picture: Picture, wish: Wish) -> Orders:
        """What brings every job to its wish. What waits without a grant is put off or held, unless we only look; what
        runs without a word about it goes on, and so does what we stopped and is not ours to pace any more."""
        stop: dict[str, list[str]] = {verb: [] for verb in DID}
        defer: dict[str, Deferral] = {}
        left = (name for name in self._held.ours() if name not in picture.jobs and picture.stopped(name))
        go = {name: self._held.ours()[name] for name in left}  # its owner took his word back, or the config did
        for name, (job, terms) in picture.jobs.items():
            gpus = wish.gpus.get(name, 0 if job.state == PENDING and wish.writes else job.gpus)
            did, stopped = self._held.did(name), picture.stopped(name)
            if gpus > 0:
                if did is not None and stopped:
                    go[name] = did
            elif wish.writes and name in picture.deferred and "defer" in self._config.rungs:
                self._put_off(picture, job, wish, defer)
            elif wish.writes and not stopped:
                verb = self._stopping(job, terms)
                if verb == "defer":
                    self._put_off(picture, job, wish, defer)
                elif verb is not None:
                    stop[verb].append(name)
        return Orders(stop, defer, go)

    def carry_out(self, picture: Picture, nodes: Sequence[Node], wish: Wish) -> None:
        """Bring every job to its wish: what stops goes first, so that power falls before it rises."""
        with self._lock:
            self._failed = {}  # what still fails is tried, and said, again
        self._unhold([name for name, (job, _) in picture.jobs.items() if job.priority_held and self._held.did(name)])
        orders = self.orders(picture, wish)
        self._hurry(picture, wish)
        self._budget(picture, wish)
        for verb, jobs in orders.stop.items():
            self.stop(verb, jobs)
        self.defer(orders.defer)
        if "drain" in self._config.rungs or self._drain.held():
            self._try("nodes", lambda: self._drain.keep(wish.drain and wish.writes, nodes, self._clock.now()))
        if orders.go:
            self.let_go(orders.go, picture)

    def release(self, picture: Picture | None) -> dict[str, str]:
        """Let everything go that we hold; what failed, and why. `picture`: None where nobody knows how it is."""
        failed = self.let_go(self._held.ours(), picture)
        self._held.forget(job for job in self._held.ours() if job not in failed)
        with self._lock:
            self._failed = {}
        if self._licences is not None:
            self._try("licences", self._licences.release)
        self._try("nodes", self._drain.release)
        return failed | self.failed

    def defer(self, jobs: Mapping[str, Deferral]) -> None:
        """Give these their start times, those with the same in one call; each in the books before it is done."""
        groups: dict[datetime, list[str]] = {}
        for job, until in jobs.items():
            groups.setdefault(until.to, []).append(job)
        for to, names in groups.items():
            self._order(names, {job: jobs[job].text() for job in names}, partial(self._slurm.begin, names, to))

    def stop(self, verb: str, jobs: Sequence[str]) -> None:
        """Written down before it is done, or not done. What failed stays in doubt: of a list that failed, some may be
        done, and a controller that went silent may have done all."""
        if verb == "requeuehold" and jobs:
            self.runs.write(self._clock.now())
        self._order(jobs, dict.fromkeys(jobs, DID[verb]), lambda: self._slurm.each(verb, jobs))

    def _order(self, jobs: Sequence[str], did: Mapping[str, str], give: Callable[[], dict[str, str]]) -> None:
        if not jobs:
            return
        try:
            self._held.ordering(did, self._clock.now())
        except AdapterError as error:
            self._told(jobs, dict.fromkeys(jobs, str(error)))
            return
        failed = give()
        self._told(jobs, failed)
        self._held.stands(job for job in jobs if job not in failed)

    def let_go(self, jobs: Mapping[str, str], picture: Picture | None) -> dict[str, str]:
        """Undo what was done to these, and what failed; nothing is done where somebody has undone it already.
        `picture`: the jobs as they are (None: nobody knows)."""
        now = self._clock.now()
        self._held.undoing(jobs, now)
        stopped = [job for job in jobs if picture is None or job not in picture.seen or picture.stopped(job)]
        later = {job: until for job in stopped if (until := deferral(jobs[job])) is not None}
        suspended = [job for job in stopped if jobs[job] == "suspended"]
        held = [job for job in stopped if jobs[job] != "suspended" and job not in later]
        failed = self._slurm.each("resume", suspended) | self._slurm.each("release", held)
        starts = {job: until.back(now) for job, until in later.items()}
        for at in sorted(set(starts.values())):
            failed |= self._slurm.begin([job for job, start in starts.items() if start == at], at)
        self._restarted |= {job for job in held if jobs[job] == "requeued" and job not in failed}
        self._slurm.start_now(job for job in self._restarted if job in held)
        self._told(jobs, failed)
        self._held.forget(job for job in jobs if job not in failed)
        return failed

    def _put_off(self, picture: Picture, job: SlurmJob, wish: Wish, into: dict[str, Deferral]) -> None:
        """Until when a job without a grant is put off, where that is not so already."""
        lease, now = self._config.defer_lease, picture.deferred.get(job.id)
        until = next_deferral(job, now, picture.at, wish.starts.get(job.id), lease)
        if until is not None:
            into[job.id] = until

    def _stopping(self, job: SlurmJob, terms: Terms) -> str | None:
        """How a job is stopped: one that has not begun by its licences, put off, or held, whatever is mildest of what
        the config allows; one that runs as its owner wrote."""
        if job.state == PENDING:
            if self._licences is not None and self._licences.counted(job):
                return None
            return next((rung for rung in ("defer", "hold") if rung in self._config.rungs), None)
        if job.state == RUNNING and terms.pause != "no":
            return "suspend" if terms.pause == "suspend" else "requeuehold"
        return None

    def _hurry(self, picture: Picture, wish: Wish) -> None:
        """Slurm puts off a requeued job by two minutes once it has cleaned up after it, which may be after our word."""
        late = {job.id for job, _ in picture.jobs.values() if job.state == PENDING and job.reason == "BeginTime"}
        self._slurm.start_now(self._restarted & late & {job for job, gpus in wish.gpus.items() if gpus > 0})
        self._restarted = {job for job in self._restarted & set(picture.seen) if picture.seen[job].state == PENDING}

    def _budget(self, picture: Picture, wish: Wish) -> None:
        """Keep the licences of paced jobs that wait without a grant; none where we only look."""
        licences = self._licences
        if licences is None:
            return
        if not wish.writes:
            self._try("licences", licences.release)
            return
        waits = [name for name in picture.jobs if not wish.gpus.get(name)]
        self._try("licences", lambda: licences.keep(picture.seen.values(), waits, self._clock.now()))

    def _try(self, what: str, order: Callable[[], None]) -> None:
        try:
            order()
        except AdapterError as error:
            self._told((), {what: str(error)})

    def _unhold(self, jobs: Sequence[str]) -> None:
        """Our hold came when Slurm had just started these: it stops nothing now, but would keep them when requeued."""
        if jobs:
            failed = self._slurm.each("release", jobs)
            self._held.forget(job for job in jobs if job not in failed)

    def _told(self, jobs: Sequence[str] | Mapping[str, str], failed: Mapping[str, str]) -> None:
        with self._lock:
            self._failed = {job: why for job, why in self._failed.items() if job not in jobs} | dict(failed)
