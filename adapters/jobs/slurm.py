"""Jobs that wait and run in Slurm: a grant becomes release or resume, its end hold, suspend or requeue.

Why a hand of its own: a call takes tens of milliseconds and may hang, and the loop that asks comes every second. So it
reads and writes in a thread; the loop sees the last picture and leaves its wish. Nothing is held without a record that
says so: what is held is let go when Gridpace stops, and what somebody else let go or held is left to them.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal

import structlog
from pydantic import Field, model_validator

from adapters.context import AdapterContext
from adapters.fields import AdapterConfig, Duration, Id
from adapters.jobs.held import YIELDED, Held
from adapters.jobs.slurm_cli import Slurm
from adapters.jobs.slurm_licences import LicenceBudget
from adapters.jobs.slurm_read import PENDING, RUNNING, SUSPENDED, SlurmJob, jobs_of
from adapters.jobs.slurm_seats import NO_LIMIT, first_end, free_gpus, seated
from adapters.jobs.slurm_terms import Terms, TermsError, terms_of
from adapters.ports import AdapterError
from optimizer.domain import BatchJob, JobState
from optimizer.reasons import Note, Reason, Severity

log = structlog.get_logger("gridpace.slurm")

Rung = Literal["licences", "hold", "suspend", "requeue"]


class SlurmConfig(AdapterConfig):
    """Jobs of a Slurm cluster, through its own commands."""

    type: Literal["slurm"] = Field(description="Slurm's own commands.", examples=["slurm"])
    partitions: dict[str, Id] = Field(
        min_length=1,
        description="Batch pool of each partition whose jobs may be paced; others are not looked at.",
        examples=[{"batch": "tune"}],
    )
    default_deadline: Duration | None = Field(
        default=None,
        description="Jobs without `gridpace …` in their comment may wait so long after they were submitted, and are "
        "never paused once they run. Absent: they are left alone.",
        examples=["24h"],
    )
    rungs: tuple[Rung, ...] = Field(
        default=("hold", "suspend", "requeue"),
        min_length=1,
        description="What may be done to jobs, from mild to hard: keep the `licences` of what is not granted, so that "
        "Slurm starts nothing on them; hold what waits; suspend and requeue what runs, where its owner allows that.",
        examples=[["licences", "hold", "suspend"]],
    )
    licence: Id | None = Field(
        default=None,
        description="Licence that jobs ask for as their power (`sbatch -L power_kw:8`), for the rung `licences`.",
        examples=["power_kw"],
    )
    licence_lease: Duration = Field(
        default=timedelta(minutes=10),
        description="A reservation of licences that is not renewed for so long ends by itself.",
        examples=["10m"],
    )
    refresh: Duration = Field(
        default=timedelta(seconds=5), description="How often Slurm is asked for its jobs.", examples=["5s"]
    )
    timeout: Duration = Field(
        default=timedelta(seconds=10), description="How long one command may take.", examples=["10s"]
    )
    conf: str | None = Field(
        default=None, description="slurm.conf; absent: where Slurm's commands look.", examples=["/etc/slurm/slurm.conf"]
    )

    @model_validator(mode="after")
    def _named(self) -> SlurmConfig:
        if ("licences" in self.rungs) != (self.licence is not None):
            raise ValueError("licence: name it, with the rung `licences`, or neither")
        return self


@dataclass
class _Picture:
    """The last reading: jobs that may be paced with their terms, all jobs, what was odd, and when a job that waits
    for GPUs which others keep may have some."""

    at: datetime
    jobs: dict[str, tuple[SlurmJob, Terms]] = field(default_factory=dict)
    seen: dict[str, SlurmJob] = field(default_factory=dict)
    odd: tuple[Note, ...] = ()
    seat_at: dict[str, datetime] = field(default_factory=dict)


class SlurmJobs:
    """`JobSystem`, `WorkKeeper` and `Quietable` over Slurm. `keeps_state`: a suspended job loses nothing; one that is
    requeued begins again. `extras["writes"]` of the context: False where it begins quiet."""

    Config = SlurmConfig
    keeps_state = True

    def __init__(self, config: SlurmConfig, context: AdapterContext) -> None:
        self._config, self._clock = config, context.clock
        conf = context.path(config.conf) if config.conf else None
        self._slurm = Slurm(conf, config.timeout.total_seconds(), context.permit)
        self._lock, self._awake, self._ended = threading.RLock(), threading.Event(), threading.Event()
        self._wish: dict[str, int] = {}
        self._asked, self._writes = False, bool(context.extras.get("writes", True))
        self._refused: set[str] = set()
        self._restarted: set[str] = set()
        self._picture: _Picture | None = None
        self._trouble = ""
        self._failed: dict[str, str] = {}
        self._held = Held("slurm", context.records, self._clock.now())
        self._licences: LicenceBudget | None = None
        if config.licence is not None:
            lease, now = config.licence_lease, self._clock.now()
            self._licences = LicenceBudget(self._slurm, config.licence, lease, context.records, now)
        self._hand = threading.Thread(target=self._work, name="gridpace-slurm", daemon=True)

    # ---------------------------------------------------------------- the loops
    def snapshot(self) -> Sequence[BatchJob]:
        """Jobs that may be paced, as last read, with their progress up to now. Raises AdapterError before the first
        reading worked."""
        if not self._hand.is_alive() and not self._ended.is_set():
            self._look()  # the first one is waited for: a plan without the jobs would be wrong
            self._hand.start()
        with self._lock:
            picture = self._picture
        if picture is None:
            raise AdapterError(f"slurm: {self._trouble or 'not read yet'}")
        return [self._job(job, terms, picture) for job, terms in picture.jobs.values()]

    def apply(self, gpus: Mapping[str, int]) -> Mapping[str, Reason]:
        """Leave the wish; the hand carries it out. Names jobs that are gone, and those that can't be moved."""
        with self._lock:
            known = self._picture.jobs if self._picture is not None else {}
            refused = {job: Reason.WORK_DONE for job in gpus if job not in known}
            refused |= {job: Reason.CAP_REFUSED for job in gpus if job in self._failed}
            wish = self._wish | {job: count for job, count in gpus.items() if job in known}
            new, self._wish, self._asked = wish != self._wish or not self._asked, wish, True
        if new:
            self._awake.set()
        return refused

    def quiet(self, on: bool) -> None:
        """Whether nothing is held but what is let go now: told before `apply`."""
        if on is self._writes:
            self._writes = not on
            self._awake.set()

    def everything(self) -> Sequence[BatchJob]:
        """The jobs that may be paced, newest first. Raises AdapterError before the first reading worked."""
        return list(reversed(self.snapshot()))

    def notes(self) -> tuple[Note, ...]:
        """What a person should know: Slurm silent, comments that can't be read, jobs that somebody else moved."""
        with self._lock:
            odd = self._picture.odd if self._picture is not None else ()
            failed = self._failed.items()
            told = [Note(Reason.HELD, job, f"slurm: {job}: {why}", Severity.WARNING) for job, why in failed]
            if self._trouble:
                told.append(Note(Reason.JOBS_LOST, "slurm", f"slurm: {self._trouble}", Severity.ALERT))
            return (*odd, *told)

    def release(self) -> tuple[Note, ...]:
        """Let everything go that we hold or suspended, and end the hand; what did not work."""
        self.close()
        self._look()
        failed = self._let_go(self._held.ours())
        self._held.forget(job for job in self._held.ours() if job not in failed)
        left = [Note(Reason.HELD, job, f"job {job} is still held: {why}") for job, why in failed.items()]
        try:
            if self._licences is not None:
                self._licences.release()
        except AdapterError as error:
            left.append(Note(Reason.HELD, "slurm", f"licences are still reserved: {error}", Severity.ALERT))
        return tuple(left)

    def close(self) -> None:
        """End the hand; what is held stays held, and in the books."""
        self._ended.set()
        self._awake.set()
        if self._hand.is_alive():
            self._hand.join(2 * self._config.timeout.total_seconds())

    def held(self) -> Mapping[str, str]:
        """What we did to which job, for people who ask what Gridpace holds."""
        with self._lock:
            return {**self._held.ours(), **(self._licences.held() if self._licences is not None else {})}

    # ---------------------------------------------------------------- the hand
    def _work(self) -> None:
        while not self._ended.is_set():
            self._awake.wait(self._config.refresh.total_seconds())
            self._awake.clear()
            if self._ended.is_set():
                return
            try:
                self._look()
                self._move()
            except Exception:  # the hand must outlive whatever happens
                log.exception("slurm.failed")
                self._trouble = "failed; the log says more"

    def _look(self) -> None:
        now = self._clock.now()
        try:
            found, strange = jobs_of(self._slurm.queue(), now)
        except (AdapterError, ValueError) as error:
            if str(error) != self._trouble:
                log.warning("slurm.lost", why=str(error))
            self._trouble = str(error)
            return
        odd = [Note(Reason.HELD, "slurm", f"slurm: {text}", Severity.WARNING, now) for text in strange[:5]]
        paced: dict[str, tuple[SlurmJob, Terms]] = {}
        for job in found:
            if job.partition in self._config.partitions and job.gpus:
                terms = self._terms(job, odd, now)
                if terms is not None and self._may(job):
                    paced[job.id] = (job, terms)
        stopped = {job.id: job.held or job.state == SUSPENDED for job in found}
        nodes = self._slurm.nodes()  # not under the lock: it may hang, and the fast loop asks meanwhile
        with self._lock:
            self._wish = {job: gpus for job, gpus in self._wish.items() if job in paced}
            self._held.settle(stopped, now)
            seats = self._seats(found, paced, nodes, now)
            self._trouble = ""
            self._picture = _Picture(now, paced, {job.id: job for job in found}, tuple(odd), seats)

    def _seats(
        self, found: Sequence[SlurmJob], paced: Mapping[str, tuple[SlurmJob, Terms]], nodes: str, now: datetime
    ) -> dict[str, datetime]:
        """When jobs that wait for GPUs which others keep may have some: when the next job of their partition ends by
        its limit. Where Slurm started nothing though GPUs seemed free, all wait while something is suspended there."""
        suspended = {job.partition for job in found if self._held.did(job.id) == "suspended"}
        refused = {
            job.partition
            for job in found
            if job.state == PENDING and job.reason in {"Resources", "Priority"} and self._wish.get(job.id, 0) > 0
        }
        self._refused = suspended & (refused | self._refused)
        free = {**free_gpus(nodes), **dict.fromkeys(self._refused, 0)}
        granted = {job for job, gpus in self._wish.items() if gpus > 0}
        waiting = set(paced) - seated(paced, free, granted)
        return {job: now + first_end(found, paced[job][0].partition) for job in waiting}

    def _terms(self, job: SlurmJob, odd: list[Note], now: datetime) -> Terms | None:
        wait = self._config.default_deadline
        try:
            terms = terms_of(job.comment, job.submitted, Terms(job.submitted + wait) if wait is not None else None)
        except TermsError as error:
            odd.append(
                Note(Reason.HELD, job.id, f"job {job.id} of {job.user} is left alone: {error}", Severity.WARNING, now)
            )
            return None
        # An owner's leave counts for what the config lets us do.
        return replace(terms, pause="no") if terms is not None and terms.pause not in self._config.rungs else terms

    def _may(self, job: SlurmJob) -> bool:
        """False for what is somebody else's: held or suspended by them, or let go by them after we had stopped it."""
        did = self._held.did(job.id)
        if job.state not in {PENDING, RUNNING, SUSPENDED}:
            return False
        stopped = job.held or job.state == SUSPENDED
        if did is None:
            return not stopped
        if did == "held" and job.priority_held:  # Slurm started it while we held it: it goes on, and is ours to pace
            return True
        if did != YIELDED and not stopped and not self._held.doubted(job.id):
            log.warning("slurm.yielded", job=job.id, did=did)
            self._held.give_up(job.id)
            return False
        return did != YIELDED

    def _move(self) -> None:
        """Bring every job to its wish: what stops goes first, so that power falls before it rises."""
        with self._lock:
            picture, wish, asked, writes = self._picture, dict(self._wish), self._asked, self._writes
        if picture is None or not asked:
            return  # nobody has planned yet: everything goes on as it is
        with self._lock:
            self._failed = {}  # what still fails is tried, and said, again
        self._unhold([name for name, (job, _) in picture.jobs.items() if job.priority_held and self._held.did(name)])
        stop: dict[str, list[str]] = {"hold": [], "suspend": [], "requeuehold": []}
        go: dict[str, str] = {}
        for name, (job, terms) in picture.jobs.items():
            # What waits without a grant is held, unless we only look; what runs without a word about it goes on.
            gpus = wish.get(name, 0 if job.state == PENDING and writes else job.gpus)
            did, stopped = self._held.did(name), job.held or job.state == SUSPENDED
            if gpus == 0 and not stopped and writes:
                verb = self._stopping(job, terms)
                if verb is not None:
                    stop[verb].append(name)
            elif gpus > 0 and did is not None and stopped:
                go[name] = did
        # Slurm puts off a requeued job by two minutes once it has cleaned up after it, which may be after our word.
        late = {job.id for job, _ in picture.jobs.values() if job.state == PENDING and job.reason == "BeginTime"}
        self._slurm.start_now(self._restarted & late & {job for job, gpus in wish.items() if gpus > 0})
        self._restarted = {job for job in self._restarted & set(picture.seen) if picture.seen[job].state == PENDING}
        self._budget(picture, wish)
        for verb, did in (("suspend", "suspended"), ("requeuehold", "requeued"), ("hold", "held")):
            self._stop(verb, did, stop[verb])
        if go:
            self._let_go(go)

    def _stopping(self, job: SlurmJob, terms: Terms) -> str | None:
        """How a job is stopped: one that has not begun by its licences, or held; one that runs as its owner wrote."""
        if job.state == PENDING:
            by_licence = self._licences is not None and self._licences.counted(job)
            return "hold" if "hold" in self._config.rungs and not by_licence else None
        if job.state == RUNNING and terms.pause != "no":
            return "suspend" if terms.pause == "suspend" else "requeuehold"
        return None

    def _budget(self, picture: _Picture, wish: Mapping[str, int]) -> None:
        """Keep the licences of paced jobs that wait without a grant; none where we only look."""
        if self._licences is None:
            return
        try:
            if not self._writes:
                self._licences.release()
                return
            waits = [name for name in picture.jobs if not wish.get(name)]
            self._licences.keep(picture.seen.values(), waits, self._clock.now())
        except AdapterError as error:
            with self._lock:
                self._failed["licences"] = str(error)

    def _stop(self, verb: str, did: str, jobs: Sequence[str]) -> None:
        """Written down before it is done, or not done. What failed stays in doubt: of a list that failed, some may be
        done, and a controller that went silent may have done all."""
        if not jobs:
            return
        try:
            with self._lock:
                self._held.ordering(dict.fromkeys(jobs, did), self._clock.now())
        except AdapterError as error:
            self._told(jobs, dict.fromkeys(jobs, str(error)))
            return
        failed = self._slurm.each(verb, jobs)
        self._told(jobs, failed)
        with self._lock:
            self._held.stands(job for job in jobs if job not in failed)

    def _let_go(self, jobs: Mapping[str, str]) -> dict[str, str]:
        """Undo what was done to these; nothing is done where somebody has undone it already."""
        with self._lock:
            seen = self._picture.seen if self._picture is not None and not self._trouble else {}
            self._held.undoing(jobs, self._clock.now())
        stopped = [job for job in jobs if job not in seen or seen[job].held or seen[job].state == SUSPENDED]
        suspended = [job for job in stopped if jobs[job] == "suspended"]
        held = [job for job in stopped if jobs[job] != "suspended"]
        failed = self._slurm.each("resume", suspended) | self._slurm.each("release", held)
        self._restarted |= {job for job in held if jobs[job] == "requeued" and job not in failed}
        self._slurm.start_now(job for job in self._restarted if job in held)
        self._told(jobs, failed)
        with self._lock:
            self._held.forget(job for job in jobs if job not in failed)
        return failed

    def _unhold(self, jobs: Sequence[str]) -> None:
        """Our hold came when Slurm had just started these: it stops nothing now, but would keep them when requeued."""
        if jobs:
            failed = self._slurm.each("release", jobs)
            with self._lock:
                self._held.forget(job for job in jobs if job not in failed)

    def _told(self, jobs: Sequence[str] | Mapping[str, str], failed: Mapping[str, str]) -> None:
        with self._lock:
            self._failed = {job: why for job, why in self._failed.items() if job not in jobs} | dict(failed)

    # ---------------------------------------------------------------- as the planner sees it
    def _job(self, job: SlurmJob, terms: Terms, picture: _Picture) -> BatchJob:
        """Its time limit is its work: all its GPUs, or none. What is suspended keeps its GPUs and draws little."""
        ran = job.ran + (self._clock.now() - picture.at if job.state == RUNNING else timedelta())
        limit = job.limit or ran + NO_LIMIT
        running = job.state == RUNNING
        # A grant that is not carried out yet is one, so that it can be withdrawn.
        granted = running or self._wish.get(job.id, 0) > 0
        release = max(job.submitted, job.begin) if job.state == PENDING and not job.held else job.submitted
        release = max(release, picture.seat_at.get(job.id, release))
        return BatchJob(
            id=job.id,
            pools=(self._config.partitions[job.partition],),
            release=release,
            deadline=terms.deadline,
            work_gpu_h=job.gpus * limit / timedelta(hours=1),
            max_gpus=job.gpus,
            min_gpus=job.gpus,
            preemptible=terms.pause != "no",
            value_per_gpu_h=terms.value_per_gpu_h,
            done_gpu_h=job.gpus * min(ran, limit) / timedelta(hours=1),
            state={PENDING: JobState.WAITING, RUNNING: JobState.RUNNING}.get(job.state, JobState.SUSPENDED),
            started_at=job.started,
            gpus=job.gpus if granted else 0,
            running_since=job.started if running else None,
        )
