"""Jobs that wait and run in Kubernetes: a grant starts them, its end suspends those whose owner says they checkpoint.

As for Slurm, a hand of its own reads and writes, so that the loop that asks every second never waits. What is held is
marked on the object in the very write that holds it: the cluster itself is the book, and after a crash the next daemon,
`gridpace release` or a person with kubectl sees what is ours. `spec.suspend` deletes a Job's pods, so `keeps_state` is
false; in Kueue's queues `spec.suspend` is Kueue's, and Workloads are moved instead.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from time import monotonic
from typing import Any, TypeVar

import structlog

from adapters.context import AdapterContext
from adapters.jobs.ends import Ends
from adapters.jobs.hand import Hand
from adapters.jobs.held import KIND
from adapters.jobs.kube_api import JOBS, WORKLOADS, KubeApi, KubeLost
from adapters.jobs.kube_config import KubernetesConfig
from adapters.jobs.kube_mirror import Mirror
from adapters.jobs.kube_mover import AT_ONCE, Mover
from adapters.jobs.kube_moves import BACK, GOES, STOPS, Paced, batch_job, move_of, release_of, theirs
from adapters.jobs.kube_queues import Queues
from adapters.jobs.kube_read import KubeJob, Workload, job_of, workload_of
from adapters.jobs.kube_since import Since
from adapters.jobs.kube_terms import KubeTerms, kube_terms
from adapters.jobs.runs import NOTHING, Runs
from adapters.jobs.slurm_terms import Terms, TermsError
from adapters.ports import AdapterError, RecordStore
from optimizer.domain import BatchJob
from optimizer.reasons import Note, Reason, Severity

log = structlog.get_logger("gridpace.kubernetes")

T = TypeVar("T")
NO_TERMS = KubeTerms(Terms(datetime.max.replace(tzinfo=UTC)))
GATHER_S, QUEUES_EVERY_S = 0.1, 60.0


@dataclass
class _Picture:
    """The last reading: jobs that may be paced, those that somebody took from us, those that we hold though their
    owners took their words back, and what was odd."""

    at: datetime
    jobs: dict[str, Paced] = field(default_factory=dict)
    taken: list[Paced] = field(default_factory=list)
    left: dict[str, Paced] = field(default_factory=dict)
    odd: tuple[Note, ...] = ()


class KubernetesJobs:
    """`JobSystem`, `WorkKeeper`, `Drainable`, `EndTeller` and `Quietable` over a Kubernetes cluster. `extras["writes"]`
    of the context: False where it begins quiet, and only what an earlier life holds is let go."""

    Config = KubernetesConfig
    keeps_state = False

    def __init__(self, config: KubernetesConfig, context: AdapterContext) -> None:
        self._config, self._clock = config, context.clock
        self._records: RecordStore | None = context.records
        self._booked: dict[str, str] | None = None
        self._writes = bool(context.extras.get("writes", True))
        path = context.path(config.kubeconfig) if config.kubeconfig else None
        self._kueue = bool(config.cluster_queues)
        connections = 2 * len(config.namespaces) + AT_ONCE
        self._api = KubeApi(path, config.context, config.timeout.total_seconds(), connections, context.permit)
        self._queues = Queues(self._api, config.cluster_queues, config.admission_check)
        self._since, self._ends = Since(), Ends()
        self._runs = Runs("kubernetes", context.records, self._clock.now())
        self._mover = Mover(self._api, self._read, config.admission_check, self._clock)
        self._lock = threading.RLock()
        self._hand = Hand("kubernetes", config.refresh.total_seconds(), self._turn, self._broken, GATHER_S)
        watch_s = config.watch.total_seconds()
        self._jobs: dict[str, Mirror[KubeJob]] = {
            ns: Mirror(self._api, JOBS, ns, self._read, self._hand.wake, watch_s) for ns in config.namespaces
        }
        self._workloads: dict[str, Mirror[Workload]] = {
            ns: Mirror(self._api, WORKLOADS, ns, workload_of, self._hand.wake, watch_s)
            for ns in (config.namespaces if self._kueue else ())
        }
        self._wish: dict[str, int] = {}
        self._asked = self._drain = False
        self._attached = False
        self._drained: bool | None = None  # an earlier life may have left some drained
        self._picture: _Picture | None = None
        self._trouble = ""
        self._failed: dict[str, str] = {}
        self._queue_trouble = self._check_trouble = ""
        self._queues_at = float("-inf")

    # ---------------------------------------------------------------- the loops
    def snapshot(self) -> Sequence[BatchJob]:
        """Jobs that may be paced, as last read, with their progress up to now. Raises AdapterError before the first
        reading worked."""
        self._hand.begin(self._first)
        with self._lock:
            picture, wish = self._picture, dict(self._wish)
        if picture is None:
            raise AdapterError(self._trouble or "kubernetes: not read yet")
        now = self._clock.now()
        pools = self._config.namespaces
        return [batch_job(one, pools[one.job.namespace], wish.get(name, 0), now) for name, one in picture.jobs.items()]

    def ended(self, job: str) -> tuple[bool, datetime] | None:
        """See EndTeller."""
        return self._ends.of(job)

    def everything(self) -> Sequence[BatchJob]:
        """The jobs that may be paced, newest first. Raises AdapterError before the first reading worked."""
        return list(reversed(self.snapshot()))

    def apply(self, gpus: Mapping[str, int]) -> Mapping[str, Reason]:
        """Leave the wish; the hand carries it out. Names jobs that are gone, and those that can't be moved."""
        with self._lock:
            known = self._picture.jobs if self._picture is not None else {}
            refused = {job: Reason.WORK_DONE for job in gpus if job not in known}
            refused |= {job: Reason.CAP_REFUSED for job in gpus if job in self._failed}
            new = {job: count for job, count in gpus.items() if job in known and self._wish.get(job) != count}
            first, self._asked = not self._asked, True
            self._wish |= new
        if new or first:
            self._hand.wake()
        return refused

    def emergency(self, on: bool) -> None:
        """Whether an emergency that may go below floors is in force: queues that the config allows are drained."""
        if on != self._drain and self._config.drain_in_emergency:
            self._drain = on
            self._hand.wake()

    def quiet(self, on: bool) -> None:
        """Whether only what is held by us is let go, and nothing else is written: told before `apply`."""
        if on is self._writes:
            self._writes, self._queues_at = not on, float("-inf")  # the queues' check goes on or off at once
            self._hand.wake()

    def notes(self) -> tuple[Note, ...]:
        """What a person should know: the server silent, words that can't be read, moves that don't work."""
        with self._lock:
            odd = self._picture.odd if self._picture is not None else ()
            told = [Note(Reason.HELD, job, f"job {job}: {why}", Severity.WARNING) for job, why in self._failed.items()]
            if self._queue_trouble:
                told.append(Note(Reason.HELD, "kubernetes", self._queue_trouble, Severity.WARNING))
            if self._trouble:
                told.append(Note(Reason.JOBS_LOST, "kubernetes", self._trouble, Severity.ALERT))
            return (*odd, *told)

    def release(self) -> tuple[Note, ...]:
        """Let everything go that is marked as ours, our check off the queues first, and end the hand; what failed.
        Reads the cluster itself, so that it needs no life before it."""
        self.close()
        told: list[Note] = []
        try:
            self._queues.detach()
            self._attached = False
        except AdapterError as error:
            told.append(Note(Reason.HELD, "kubernetes", f"a ClusterQueue still asks us: {error}"))
        try:
            held = self._held_now()
        except AdapterError as error:
            return (*told, Note(Reason.JOBS_LOST, "kubernetes", f"what is held there stays held: {error}"))
        check = self._config.admission_check
        moves = [(move, one) for one in held if (move := release_of(one, check)) is not None]
        failed = self._mover.each(moves, lambda move, one: release_of(one, check) == move)
        self._book({one.job.id: one.past.held or "waits for us" for one in held if one.job.id in failed})
        return (*told, *(Note(Reason.HELD, job, f"job {job} is still held: {why}") for job, why in failed.items()))

    def close(self) -> None:
        """End the threads; what is held stays held, and marked."""
        wait_s = 2 * self._config.timeout.total_seconds()
        self._hand.end(0.0)
        for mirror in self._mirrors():
            mirror.stop(wait_s)
        self._hand.end(wait_s)

    def held(self) -> Mapping[str, str]:
        """What we did to which job and queue, for people who ask what Gridpace holds. Raises AdapterError."""
        jobs = {one.job.id: one.past.held or "waits for our answer" for one in self._held_now()}
        return jobs | self._queues.held()

    # ---------------------------------------------------------------- the hand
    def _first(self) -> None:
        for mirror in self._mirrors():
            mirror.start()
        ends = monotonic() + self._config.timeout.total_seconds() + 1.0
        for mirror in self._mirrors():  # the first reading is waited for: a plan without the jobs would be wrong
            mirror.synced.wait(max(0.0, ends - monotonic()))
        self._look()

    def _mirrors(self) -> list[Mirror[Any]]:
        return [*self._jobs.values(), *self._workloads.values()]

    def _turn(self) -> None:
        self._look()
        self._ask_queues()
        self._move()

    def _broken(self, _: Exception) -> None:
        self._trouble = "kubernetes: failed; the log says more"

    def _read(self, item: Mapping[str, Any]) -> KubeJob | None:
        job, now = job_of(item, self._config.gpu_resources), self._clock.now()
        if job is None:
            meta = item["metadata"]
            self._ends.see_kubernetes(f"{meta['namespace']}.{meta['name']}", item.get("status") or {}, now)
            return None
        return self._since.seen(job, now)

    def _look(self) -> None:
        now, trouble = self._clock.now(), ""
        jobs: list[KubeJob] = []
        odd: list[Note] = []
        for mirror in self._jobs.values():
            items, strange, wrong = mirror.seen()
            jobs += items.values()
            trouble = trouble or wrong
            odd += [Note(Reason.HELD, n, f"job {n} is left alone: {w}", Severity.WARNING) for n, w in strange.items()]
        workloads: dict[str, Workload] = {}
        for mirror_w in self._workloads.values():
            found, _, wrong = mirror_w.seen()
            workloads |= {one.job_uid: one for one in found.values()}
            trouble = trouble or wrong
        if not all(mirror.synced.is_set() for mirror in self._mirrors()):
            self._trouble = trouble or "kubernetes: no answer yet"
            return
        picture = self._paced(jobs, workloads, odd, now)
        self._add_earlier(picture, {job.uid for job in jobs}, now)
        self._since.keep({job.uid for job in jobs})
        with self._lock:
            self._wish = {job: gpus for job, gpus in self._wish.items() if _same(job, self._picture, picture)}
            self._trouble, self._picture = trouble, picture
        self._mover.forget([*picture.jobs, *picture.left])
        known = (picture.jobs | picture.left).items()
        self._book({name: one.past.held for name, one in known if one.past.held in BACK})

    def _add_earlier(self, picture: _Picture, there: set[str], now: datetime) -> None:
        """What jobs that go on from checkpoints ran before."""
        again = [one for one in picture.jobs.values() if one.terms.terms.pause == "requeue"]
        self._runs.see((one.run(now) for one in again), there, now)
        for one in again:
            picture.jobs[one.job.id] = replace(one, earlier=self._runs.before(one.job.uid) or NOTHING)

    def _book(self, held: dict[str, str]) -> None:
        """A copy of the marks, for `gridpace doctor`, which asks the books alone; the marks are what counts."""
        if self._attached:
            held |= dict.fromkeys(self._config.cluster_queues, "asks our AdmissionCheck")
        try:
            if self._records is not None and held != self._booked:
                self._records.put(KIND, "kubernetes", {"jobs": held, "doubt": []})
            self._booked = held
        except Exception as error:  # noqa: BLE001 - whatever the store raises: a copy is missed, and written next time
            log.warning("kubernetes.not_booked", why=str(error))

    def _paced(
        self, jobs: Sequence[KubeJob], workloads: Mapping[str, Workload], odd: list[Note], now: datetime
    ) -> _Picture:
        picture = _Picture(now)
        for job in sorted(jobs, key=lambda one: (one.created, one.id)):
            if not job.gpus:
                continue
            paced, workload = None, workloads.get(job.uid)
            try:
                paced = self._one(job, workload)
            except TermsError as error:
                odd.append(Note(Reason.HELD, job.id, f"job {job.id} is left alone: {error}", Severity.WARNING, now))
            if paced is None:
                ours = Paced(job, NO_TERMS, workload if job.queue else None)
                if ours.past.held in BACK and not theirs(ours):
                    picture.left[job.id] = ours
                continue
            if not theirs(paced):
                picture.jobs[job.id] = paced
            elif paced.past.held in BACK:
                picture.taken.append(paced)
        picture.odd = tuple(odd[:20])
        return picture

    def _one(self, job: KubeJob, workload: Workload | None) -> Paced | None:
        """A job with its terms; None: it is not ours to touch. TermsError."""
        if job.odd:
            raise TermsError(job.odd)
        if job.queue and not self._kueue:
            return None  # Kueue's, and nobody told us of its queues
        wait = self._config.default_deadline
        default = Terms(job.created + wait) if wait is not None else None
        terms = kube_terms(job.words, job.created, job.limit, default)
        return Paced(job, terms, workload if job.queue else None) if terms is not None else None

    def _ask_queues(self) -> None:
        """Our check on the queues while we are in charge, off them where we only look; drained in an emergency."""
        if not self._kueue or not self._asked:
            return
        self._queue_trouble = "; ".join(wrong for step in (self._drained_as_told, self._checked) if (wrong := step()))

    def _drained_as_told(self) -> str:
        """What went wrong: "" nothing. One that is missing is tried again, and holds up neither the others nor the
        check."""
        told = self._drain  # once: an emergency may be called while the queues are written to
        if told == self._drained or not self._config.drain_in_emergency:
            return ""
        try:
            self._queues.drain(told)
        except AdapterError as error:
            return str(error)
        self._drained = told
        return ""

    def _checked(self) -> str:
        """The same for our check."""
        if monotonic() - self._queues_at <= QUEUES_EVERY_S:
            return self._check_trouble
        try:
            if self._writes:
                self._attached = True
                self._queues.attach(self._clock.now())
            else:
                self._queues.detach()
                self._attached = False
            self._check_trouble = ""
        except KubeLost as error:
            return str(error)
        except AdapterError as error:  # asked for again in its time: a queue that is missing stays so for a while
            self._check_trouble = str(error)
        self._queues_at = monotonic()
        return self._check_trouble

    def _move(self) -> None:
        """Bring every job to its wish: what stops goes first, so that power falls before it rises."""
        with self._lock:
            picture, wish, asked = self._picture, dict(self._wish), self._asked
        if picture is None or not asked:
            return  # nobody has planned yet: everything goes on as it is
        moves: list[tuple[str, Paced]] = [("yield", one) for one in picture.taken if self._writes]
        for name, paced in picture.left.items():
            move = release_of(paced, self._config.admission_check)
            if move is not None and self._mover.sent.get(name) != paced.version:
                moves.append((move, paced))
        for name, paced in picture.jobs.items():
            move = self._wanted(name, paced, wish)
            if move is not None and self._mover.sent.get(name) != paced.version:
                moves.append((move, paced))
        failed: dict[str, str] = {}
        for goes in (False, True):
            if not self._hand.ended:
                failed |= self._mover.each([one for one in moves if (one[0] in GOES) is goes], self._still)
        with self._lock:
            self._failed = failed  # what still fails is tried, and said, again

    def _still(self, move: str, paced: Paced) -> bool:
        """Whether it is still to be done to the job as it now is."""
        if paced.terms is NO_TERMS:
            return move == release_of(paced, self._config.admission_check)
        with self._lock:
            wish = dict(self._wish)
        return move in {"yield", self._wanted(paced.job.id, paced, wish)}

    def _wanted(self, name: str, paced: Paced, wish: Mapping[str, int]) -> str | None:
        if name not in wish and not paced.spent(self._clock.now()):
            return None  # not a word about it yet: it goes on as it is
        move = move_of(paced, wish.get(name, 0), self._clock.now(), self._config.admission_check)
        if not self._writes and (move in STOPS or move == "start"):
            return None
        return move

    def _held_now(self) -> list[Paced]:
        """Everything that is marked as ours, or waits for our answer, read now. AdapterError."""
        found: list[Paced] = []
        for namespace in self._config.namespaces:
            jobs = [job for item in self._api.list(JOBS, namespace)[0] if (job := _try(self._read, item)) is not None]
            workloads: dict[str, Workload] = {}
            if self._kueue:
                items = self._api.list(WORKLOADS, namespace)[0]
                workloads = {one.job_uid: one for item in items if (one := _try(workload_of, item)) is not None}
            for job in jobs:
                paced = Paced(job, NO_TERMS, workloads.get(job.uid) if job.queue else None)
                if not theirs(paced) and release_of(paced, self._config.admission_check) is not None:
                    found.append(paced)
        return found


def _same(job: str, before: _Picture | None, now: _Picture) -> bool:
    """Whether the job of that name is still the one that was wished for."""
    if job not in now.jobs or before is None or job not in before.jobs:
        return False
    return before.jobs[job].job.uid == now.jobs[job].job.uid


def _try(read: Callable[[Mapping[str, Any]], T | None], item: Mapping[str, Any]) -> T | None:
    try:
        return read(item)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None
