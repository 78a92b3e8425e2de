"""What is done to a job so that it has its GPUs, or has none: pure decisions and the patches that carry them out.

Every patch carries the version that the decision was made on, so that what changed meanwhile is a conflict and is
decided anew; and what holds a job back is marked by an annotation in the same write, so that a crash leaves nothing
held that the next daemon, or a person, can't tell from anybody else's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from adapters.jobs.kube_api import JOBS, WORKLOADS, Kind
from adapters.jobs.kube_read import KubeJob, Past, Workload
from adapters.jobs.kube_terms import HELD, RAN, STARTED, KubeTerms
from adapters.jobs.runs import NOTHING, Earlier, Run
from adapters.jobs.tiers import latest_end, standstill_left, work_h
from optimizer.domain import BatchJob, JobState

WAITING, SUSPENDED, DEACTIVATED, YIELDED = "waiting", "suspended", "deactivated", "yielded"
BACK = {WAITING, SUSPENDED, DEACTIVATED}
"""What is held by us; `yielded`: somebody else undid it, so it is theirs."""
TURN = timedelta(seconds=30)
"""A pause ends when the tier leaves no more than this, and none is begun that could not last as long: pods take their
grace period to end, and times are told in whole seconds."""
NO_LIMIT = timedelta(days=7)
"""Work that a job that says no runtime is taken to have left."""

STOPS = {"adopt", "suspend", "deactivate", "recall"}
GOES = {"start", "resume", "activate", "admit"}


@dataclass(frozen=True, slots=True)
class Paced:
    """A job that may be paced, with Kueue's side of it where it has one."""

    job: KubeJob
    terms: KubeTerms
    workload: Workload | None = None
    earlier: Earlier = NOTHING
    """Runs before the present one, also those that somebody else ended."""

    @property
    def past(self) -> Past:
        """What we wrote on the object that we hold it by."""
        return self.workload.past if self.workload is not None else self.job.past

    @property
    def version(self) -> str:
        """Of the object that we hold it by."""
        return self.workload.version if self.workload is not None else self.job.version

    @property
    def stopped(self) -> bool:
        """Whether it is kept from running: by us, by its owner, or by Kueue."""
        if self.workload is not None:
            return not self.workload.active
        return self.job.suspended

    def ran(self, now: datetime) -> timedelta:
        """How long it has run so far, less what its pauses have undone."""
        since = self.job.running_since if self.job.running else None
        run = max(timedelta(), now - since) if since is not None else timedelta()
        ran, started = max(self.past.ran, self.earlier.ran) + run, self.started()
        return ran if started is None else min(ran, max(timedelta(), now - started))

    def started(self) -> datetime | None:
        """Its first start; None while it has not run."""
        run = self.job.running_since if self.job.running else None
        return min((at for at in (self.past.started, self.earlier.first, run) if at is not None), default=None)

    def deadline(self) -> datetime:
        """When it must be done: its owner's word, and its tier's counted from its start."""
        started, terms = self.started(), self.terms
        if terms.tier is None or terms.runtime is None or started is None:
            return terms.terms.deadline
        return min(terms.terms.deadline, latest_end(started, terms.runtime, terms.tier))

    def run(self, now: datetime) -> Run:
        """Its present run."""
        job = self.job
        since = job.running_since if job.running else None
        ran = max(timedelta(), now - since) if since is not None else timedelta()
        return Run(job.uid, job.let_go if since is not None else None, ran, self.terms.checkpoint)

    def may_pause(self, now: datetime) -> bool:
        """Whether its owner lets it be stopped once it runs, now."""
        left = self.left(now)
        lost = self.terms.checkpoint / 2 if self.job.running else timedelta()
        return self.terms.terms.pause == "requeue" and (left is None or left > 2 * TURN + lost)

    def spent(self, now: datetime) -> bool:
        """Whether it has stood still for as long as its tier tolerates."""
        left = self.left(now)
        return left is not None and left <= TURN

    def left(self, now: datetime) -> timedelta | None:
        """How long it may still stand still by its tier; None: no tier says, or it has not begun."""
        started, terms = self.started(), self.terms
        if terms.tier is None or terms.runtime is None or started is None:
            return None
        return standstill_left(terms.tier, terms.runtime, now - started, self.ran(now))


def theirs(paced: Paced) -> bool:
    """Whether somebody else has it: suspended or deactivated by them, or let go by them after we had stopped it."""
    if paced.past.held == YIELDED:
        return True
    if paced.past.held in BACK:
        return not paced.stopped
    if paced.workload is not None:
        return paced.stopped
    # Suspended since it was created, its spec never changed: handed to whoever may start it, which is us.
    return paced.stopped and (paced.job.queue != "" or paced.job.generation != 1)


def move_of(paced: Paced, gpus: int, now: datetime, check: str) -> str | None:
    """What is to be done so that the job has `gpus` (all, or 0): one of STOPS or GOES; None: nothing, or nothing that
    may be done. `check`: name of our AdmissionCheck."""
    wants = gpus > 0 or paced.spent(now)
    if paced.workload is not None:
        return _in_kueue(paced, paced.workload, wants, now, check)
    if paced.job.queue:
        return None  # Kueue has not made its Workload yet
    if wants:
        return None if not paced.stopped else "resume" if paced.past.held in BACK else "start"
    if paced.stopped:
        return None if paced.past.held in BACK else "adopt"
    return "suspend" if paced.may_pause(now) else None


def _in_kueue(paced: Paced, workload: Workload, wants: bool, now: datetime, check: str) -> str | None:
    """Kueue owns the Job's `suspend`: a Workload is admitted, recalled, deactivated."""
    asked = workload.check(check)
    if wants:
        if not workload.active:
            return "activate" if workload.past.held in BACK else None
        return "admit" if asked == "Pending" else None
    if not workload.active:
        return None
    if workload.admitted or paced.job.active:
        return "deactivate" if paced.may_pause(now) else None
    if asked:
        return "recall" if asked == "Ready" else None
    return "deactivate"  # waits in a queue that does not ask us; nothing of it runs


def release_of(paced: Paced, check: str) -> str | None:
    """What lets it go when we leave; None: it is not held by us."""
    workload = paced.workload
    if paced.past.held in BACK:
        return "activate" if workload is not None else "resume"
    if workload is not None and workload.check(check) == "Pending":
        return "admit"
    return None


def batch_job(paced: Paced, pool: str, wish: int, now: datetime) -> BatchJob:
    """As the planner sees it. Its runtime is its work: all its GPUs, or none; a pause costs the way back to its
    checkpoint. `wish`: GPUs that it was given."""
    job, terms = paced.job, paced.terms
    ran, started = paced.ran(now), paced.started()
    work, done = work_h(terms.runtime or ran + NO_LIMIT, ran, terms.tier)
    # A grant that is not carried out yet, or whose pods wait for a node, is one: it can be withdrawn, and a plan that
    # took it for a job that waits might let another one go in its place.
    granted = job.running or wish > 0
    waits = JobState.WAITING if started is None else JobState.SUSPENDED
    return BatchJob(
        id=job.id,
        pools=(pool,),
        release=job.created,
        deadline=paced.deadline(),
        work_gpu_h=job.gpus * work,
        max_gpus=job.gpus,
        min_gpus=job.gpus,
        preemptible=paced.may_pause(now),
        value_per_gpu_h=terms.terms.value_per_gpu_h,
        checkpoint_gpu_h=job.gpus * terms.checkpoint / 2 / timedelta(hours=1),
        done_gpu_h=job.gpus * done,
        state=JobState.RUNNING if job.running else waits,
        started_at=started,
        gpus=job.gpus if granted else 0,
        running_since=job.running_since if job.running else None,
        tier=terms.tier,
    )


def patch_of(move: str, paced: Paced, now: datetime, check: str) -> tuple[Kind, str, dict[str, Any], bool]:
    """Kind and name of the object, the merge patch, and whether it is for the status."""
    workload = paced.workload
    if move in {"admit", "recall"}:
        assert workload is not None
        state = "Ready" if move == "admit" else "Pending"
        return WORKLOADS, workload.name, _answer(workload, check, state, now), True
    kind, name = (JOBS, paced.job.name) if workload is None else (WORKLOADS, workload.name)
    notes: dict[str, Any] = {}
    spec: dict[str, Any] = {}
    if move in {"suspend", "deactivate"}:
        notes = _pause_notes(paced, now, SUSPENDED if move == "suspend" else DEACTIVATED)
        spec = {"suspend": True} if move == "suspend" else {"active": False}
    elif move == "adopt":
        notes = {HELD: WAITING}
    elif move == "yield":
        notes = {HELD: YIELDED}
    elif move == "start":
        spec = {"suspend": False}
    else:
        notes = {HELD: None}
        spec = {"suspend": False} if move == "resume" else {"active": True}
    metadata: dict[str, Any] = {"resourceVersion": paced.version} | ({"annotations": notes} if notes else {})
    return kind, name, {"metadata": metadata} | ({"spec": spec} if spec else {}), False


def _pause_notes(paced: Paced, now: datetime, did: str) -> dict[str, str]:
    """What we did; for what had run also how long, less half a checkpoint's distance, and when it began."""
    if not paced.job.running:
        return {HELD: did}
    ran = max(timedelta(), paced.ran(now) - paced.terms.checkpoint / 2)
    started = paced.started() or now
    return {HELD: did, RAN: f"{ran.total_seconds():.0f}", STARTED: _text(started)}


def _answer(workload: Workload, check: str, state: str, now: datetime) -> dict[str, Any]:
    """Our state among the checks; a merge patch replaces the list, so that the others' stand in it as they were."""
    text = "The plan gives it power now" if state == "Ready" else "Waits for power by the plan"
    ours = {"name": check, "state": state, "message": text, "lastTransitionTime": _text(now)}
    checks: list[Mapping[str, Any]] = [ours if one["name"] == check else one for one in workload.checks]
    return {"metadata": {"resourceVersion": workload.version}, "status": {"admissionChecks": checks}}


def _text(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")
