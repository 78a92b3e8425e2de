"""Jobs that wait and run in Slurm: a grant becomes release or resume, its end a later start, hold, suspend or requeue.

Why a hand of its own: a call takes tens of milliseconds and may hang, and the loop that asks comes every second. So it
reads and writes in a thread; the loop sees the last picture and leaves its wish. Nothing is held without a record that
says so: what is held is let go when Gridpace stops, and what somebody else let go or held is left to them.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from datetime import datetime

import structlog

from adapters.context import AdapterContext
from adapters.jobs.ends import Ends
from adapters.jobs.hand import Hand
from adapters.jobs.slurm_cli import Slurm
from adapters.jobs.slurm_config import SlurmConfig
from adapters.jobs.slurm_mover import Mover, Wish
from adapters.jobs.slurm_nodes import Node
from adapters.jobs.slurm_picture import Picture, Reader, batch_job
from adapters.jobs.slurm_read import jobs_of
from adapters.jobs.slurm_rest import SlurmRest
from adapters.ports import AdapterError
from optimizer.domain import BatchJob
from optimizer.reasons import Note, Reason, Severity

log = structlog.get_logger("gridpace.slurm")


class SlurmJobs:
    """`JobSystem`, `WorkKeeper`, `Quietable`, `StartTeller`, `EndTeller` and `Drainable` over Slurm. `keeps_state`: a
    suspended job loses nothing; one that is requeued begins again. `extras["writes"]` of the context: False where it
    begins quiet."""

    Config = SlurmConfig
    keeps_state = True

    def __init__(self, config: SlurmConfig, context: AdapterContext) -> None:
        self._config, self._clock = config, context.clock
        conf = context.path(config.conf) if config.conf else None
        timeout_s = config.timeout.total_seconds()
        self._slurm = Slurm(conf, timeout_s, context.permit)
        self._lacks = ""
        if config.rest is not None:
            self._slurm = rest = SlurmRest(config.rest, context, conf, timeout_s)
            self._lacks = rest.lacks(config.rungs)
        self._lock = threading.RLock()
        self._wish: dict[str, int] = {}
        self._starts: Mapping[str, datetime] = {}
        self._asked, self._writes, self._drain = False, bool(context.extras.get("writes", True)), False
        self._picture: Picture | None = None
        self._nodes: Sequence[Node] = ()
        self._trouble = ""
        self._mover = Mover(self._slurm, config, context.records, self._clock)
        self._reader, self._ends = Reader(config, self._mover.book, self._mover.runs), Ends()
        self._hand = Hand("slurm", config.refresh.total_seconds(), self._turn, self._broken)

    # ---------------------------------------------------------------- the loops
    def snapshot(self) -> Sequence[BatchJob]:
        """Jobs that may be paced, as last read, with their progress up to now. Raises AdapterError before the first
        reading worked."""
        self._hand.begin(self._look)
        with self._lock:
            picture, wish = self._picture, self._wish
        if picture is None:
            raise AdapterError(f"slurm: {self._trouble or 'not read yet'}")
        now, pools = self._clock.now(), self._config.partitions
        return [
            batch_job(job, terms, pools[job.partition], picture, wish.get(name, 0), now)
            for name, (job, terms) in picture.jobs.items()
        ]

    def apply(self, gpus: Mapping[str, int]) -> Mapping[str, Reason]:
        """Leave the wish; the hand carries it out. Names jobs that are gone, and those that can't be moved."""
        failed = self._mover.failed
        with self._lock:
            known = self._picture.jobs if self._picture is not None else {}
            refused = {job: Reason.WORK_DONE for job in gpus if job not in known}
            refused |= {job: Reason.CAP_REFUSED for job in gpus if job in failed}
            wish = self._wish | {job: count for job, count in gpus.items() if job in known}
            new, self._wish, self._asked = wish != self._wish or not self._asked, wish, True
        if new:
            self._hand.wake()
        return refused

    def quiet(self, on: bool) -> None:
        """Whether nothing is held but what is let go now: told before `apply`."""
        if on is self._writes:
            self._writes = not on
            self._hand.wake()

    def expect(self, starts: Mapping[str, datetime]) -> None:
        """When the plan lets jobs start, for the rung `defer`."""
        self._starts = starts

    def emergency(self, on: bool) -> None:
        """Whether an emergency that may go below floors is in force, for the rung `drain`."""
        if on is not self._drain and "drain" in self._config.rungs:
            self._drain = on
            self._hand.wake()

    def ended(self, job: str) -> tuple[bool, datetime] | None:
        """See EndTeller; one that is not known is asked for with the next look."""
        return self._ends.wanted(job)

    def everything(self) -> Sequence[BatchJob]:
        """The jobs that may be paced, newest first. Raises AdapterError before the first reading worked."""
        return list(reversed(self.snapshot()))

    def notes(self) -> tuple[Note, ...]:
        """What a person should know: Slurm silent, comments that can't be read, jobs that somebody else moved."""
        failed = self._mover.failed.items()
        with self._lock:
            odd = (*self._picture.odd, *self._picture.lacking) if self._picture is not None else ()
            told = [Note(Reason.HELD, job, f"slurm: {job}: {why}", Severity.WARNING) for job, why in failed]
            if self._lacks:
                told.append(Note(Reason.HELD, "slurm", f"slurm: {self._lacks}", Severity.WARNING))
            if self._trouble:
                told.append(Note(Reason.JOBS_LOST, "slurm", f"slurm: {self._trouble}", Severity.ALERT))
            return (*odd, *told)

    def release(self) -> tuple[Note, ...]:
        """Let everything go that we hold or suspended, and end the hand; what did not work."""
        self.close()
        self._look()
        failed = self._mover.release(self._picture if not self._trouble else None)
        return tuple(
            Note(Reason.HELD, job, f"{job} is still held: {why}", Severity.ALERT) for job, why in failed.items()
        )

    def close(self) -> None:
        """End the hand; what is held stays held, and in the books."""
        self._hand.end(2 * self._config.timeout.total_seconds())

    def held(self) -> Mapping[str, str]:
        """What we did to which job, for people who ask what Gridpace holds."""
        return self._mover.held()

    # ---------------------------------------------------------------- the hand
    def _turn(self) -> None:
        self._look()
        with self._lock:
            picture, nodes, asked = self._picture, self._nodes, self._asked
            wish = Wish(dict(self._wish), self._starts, self._writes, self._drain)
        if picture is not None and asked:  # before anybody has planned everything goes on as it is
            self._mover.carry_out(picture, nodes, wish)

    def _broken(self, _: Exception) -> None:
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
        picture = self._reader.picture(found, strange, now)
        nodes = self._slurm.nodes()  # not under the lock: it may hang, and the fast loop asks meanwhile
        tiered = [name for name, (_, terms) in picture.jobs.items() if terms.tier is not None]
        self._ends.ask_slurm(tiered, picture.seen, self._slurm)
        with self._lock:
            self._wish = {job: gpus for job, gpus in self._wish.items() if job in picture.jobs}
            self._mover.book.settle({job: picture.stopped(job) for job in picture.seen}, now)
            self._reader.seat(picture, nodes, self._wish)
            self._trouble, self._picture, self._nodes = "", picture, nodes
