"""One reading of a Slurm cluster: which of its jobs may be paced, on what terms, and which of them could start."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import structlog

from adapters.jobs.held import YIELDED, Held
from adapters.jobs.runs import Earlier, Run, Runs
from adapters.jobs.slurm_config import SlurmConfig
from adapters.jobs.slurm_defer import Deferral, deferral
from adapters.jobs.slurm_nodes import Node, free_gpus
from adapters.jobs.slurm_read import PENDING, RUNNING, SUSPENDED, SlurmJob
from adapters.jobs.slurm_seats import NO_LIMIT, first_end, seated
from adapters.jobs.slurm_terms import Terms, TermsError, terms_of
from adapters.jobs.tiers import work_h
from optimizer.domain import BatchJob, JobState
from optimizer.reasons import Note, Reason, Severity

log = structlog.get_logger("gridpace.slurm")

NO_ROOM = {"Resources", "Priority"}
"""Why a job waits that nobody holds back (squeue(1))."""


@dataclass
class Picture:
    """Jobs that may be paced with their terms, all jobs, what was odd, when a job that waits for GPUs which others keep
    may have some, who waits by a start time of ours (in `jobs` with its owner's), and what the earlier runs of each job
    were worth, with its first start."""

    at: datetime
    jobs: dict[str, tuple[SlurmJob, Terms]] = field(default_factory=dict)
    seen: dict[str, SlurmJob] = field(default_factory=dict)
    odd: tuple[Note, ...] = ()
    seat_at: dict[str, datetime] = field(default_factory=dict)
    deferred: dict[str, Deferral] = field(default_factory=dict)
    past: dict[str, Earlier] = field(default_factory=dict)
    lacking: tuple[Note, ...] = ()
    """Jobs of a tier that gave their GPUs up, and should go on."""

    def stopped(self, name: str) -> bool:
        """Whether somebody keeps it from running."""
        return name in self.deferred or (name in self.seen and self.seen[name].stopped)


class Reader:
    """Makes pictures of one cluster, by what the config says and what the books (`held`, `runs`) know."""

    def __init__(self, config: SlurmConfig, held: Held, runs: Runs) -> None:
        self._config, self._held, self._runs = config, held, runs
        self._refused: set[str] = set()

    def picture(self, found: Sequence[SlurmJob], strange: Sequence[str], now: datetime) -> Picture:
        """What may be paced of the jobs `found`; `strange`: what could not be read."""
        odd = [Note(Reason.HELD, "slurm", f"slurm: {text}", Severity.WARNING, now) for text in strange[:5]]
        found = [_placed(job, self._config.partitions) for job in found]
        picture = Picture(now, seen={job.id: job for job in found})
        for job in found:
            until = deferral(self._held.did(job.id))
            if until is not None and (standing := until.standing(job, now)) is not None:
                picture.deferred[job.id] = standing
            if job.partition in self._config.partitions and job.gpus:
                terms = self._terms(job, odd, now)
                if terms is not None and self._may(job, until, now):
                    own = job if until is None else replace(job, begin=until.own or job.submitted)
                    picture.jobs[job.id] = (own, terms)
        again = (_run(job, terms) for job, terms in picture.jobs.values() if terms.pause == "requeue")
        self._runs.see(again, picture.seen, now)
        for name, (job, _) in picture.jobs.items():
            picture.past[name] = self._runs.before(name) or Earlier(first=job.started)
        picture.odd = tuple(odd)
        return picture

    def seat(self, picture: Picture, nodes: Sequence[Node], wish: Mapping[str, int]) -> None:
        """Say in the picture when jobs that wait for GPUs which others keep may have some: when the next job of their
        partition ends by its limit. Where Slurm started nothing though GPUs seemed free, all wait while something is
        suspended there."""
        found = picture.seen.values()
        suspended = {job.partition for job in found if self._held.did(job.id) == "suspended"}
        refused = {
            job.partition for job in found if job.state == PENDING and job.reason in NO_ROOM and wish.get(job.id, 0) > 0
        }
        self._refused = suspended & (refused | self._refused)
        free = {**free_gpus(nodes), **dict.fromkeys(self._refused, 0)}
        granted = {job for job, gpus in wish.items() if gpus > 0}
        waiting = set(picture.jobs) - seated(picture.jobs, free, granted)
        ends = {partition: picture.at + first_end(found, partition) for partition in self._config.partitions}
        picture.seat_at = {job: ends[picture.jobs[job][0].partition] for job in waiting}
        picture.lacking = tuple(
            Note(Reason.POOL_FULL, name, f"job {name} was requeued, and others have its GPUs now", Severity.WARNING)
            for name, (job, terms) in picture.jobs.items()
            if terms.tier is not None and name in granted and job.state == PENDING and job.reason in NO_ROOM
            if picture.past[name].first is not None
        )

    def _terms(self, job: SlurmJob, odd: list[Note], now: datetime) -> Terms | None:
        wait = self._config.default_deadline
        try:
            default = Terms(job.submitted + wait) if wait is not None else None
            terms = terms_of(job.comment, job.submitted, default, job.limit)
        except TermsError as error:
            odd.append(
                Note(Reason.HELD, job.id, f"job {job.id} of {job.user} is left alone: {error}", Severity.WARNING, now)
            )
            return None
        # An owner's leave counts for what the config lets us do.
        return replace(terms, pause="no") if terms is not None and terms.pause not in self._config.rungs else terms

    def _may(self, job: SlurmJob, until: Deferral | None, now: datetime) -> bool:
        """False for what is somebody else's: held or suspended by them, or let go by them after we had stopped it."""
        did = self._held.did(job.id)
        if job.state not in {PENDING, RUNNING, SUSPENDED}:
            return False
        if until is not None:
            return self._may_defer(job, until, now)
        if did is None:
            return not job.stopped
        if did == "held" and job.priority_held:  # Slurm started it while we held it: it goes on, and is ours to pace
            return True
        if did != YIELDED and not job.stopped and not self._held.doubted(job.id):
            log.warning("slurm.yielded", job=job.id, did=did)
            self._held.give_up(job.id)
            return False
        return did != YIELDED

    def _may_defer(self, job: SlurmJob, until: Deferral, now: datetime) -> bool:
        """The same for one that we put off: whoever gave it another start time, or holds it, has it."""
        if until.standing(job, now) or (self._held.doubted(job.id) and not job.stopped and job.state == PENDING):
            return True
        if until.over(job, now) and not job.stopped:
            self._held.forget([job.id])
            return True
        log.warning("slurm.yielded", job=job.id, did="deferred")
        self._held.give_up(job.id)
        return False


def _placed(job: SlurmJob, partitions: Collection[str]) -> SlurmJob:
    """A job that waits for whichever of several partitions has room (`sbatch -p a,b`), as one of the first of them that
    is paced: Slurm must start it nowhere before its time. Once it runs, it is where it runs."""
    named = job.partition.split(",")
    return replace(job, partition=next((name for name in named if name in partitions), named[0]))


def _run(job: SlurmJob, terms: Terms) -> Run:
    began = job.started if job.state in {RUNNING, SUSPENDED} else None
    return Run(job.id, began, job.ran, terms.checkpoint)


def batch_job(job: SlurmJob, terms: Terms, pool: str, picture: Picture, gpus: int, now: datetime) -> BatchJob:
    """As the planner sees it. Its time limit, or the runtime that its owner says, is its work: all its GPUs, or none.
    What is suspended keeps its GPUs and draws little. `gpus`: those that it was granted."""
    running = job.state == RUNNING
    past = picture.past.get(job.id) or Earlier(first=job.started)
    ran = past.ran + job.ran + (now - picture.at if running else timedelta())
    work, done = work_h(terms.runtime or job.limit or ran + NO_LIMIT, ran, terms.tier)
    # A grant that is not carried out yet is one, so that it can be withdrawn.
    granted = running or gpus > 0
    release = max(job.submitted, job.begin) if job.state == PENDING and not job.held else job.submitted
    release = max(release, picture.seat_at.get(job.id, release))
    return BatchJob(
        id=job.id,
        pools=(pool,),
        release=release,
        deadline=terms.deadline,
        work_gpu_h=job.gpus * work,
        max_gpus=job.gpus,
        min_gpus=job.gpus,
        preemptible=terms.pause != "no",
        value_per_gpu_h=terms.value_per_gpu_h,
        checkpoint_gpu_h=job.gpus * (terms.checkpoint / 2 / timedelta(hours=1)),
        done_gpu_h=job.gpus * done,
        state=JobState.RUNNING if running else JobState.WAITING if past.first is None else JobState.SUSPENDED,
        started_at=past.first,
        gpus=job.gpus if granted else 0,
        running_since=job.started if running else None,
        tier=terms.tier,
    )
