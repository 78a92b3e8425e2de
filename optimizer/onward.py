"""Who runs goes on, where it makes no difference to the plan who does.

Why: among jobs that are worth the same, the solver is free to choose, and chooses anew in every plan. Each choice of
another job stops one that runs, which costs its owner minutes that no plan knows of (a pod to be deleted, an image to
be loaded, a checkpoint to be read), and a queue of short jobs would never get one of them done.

How: work in the interval about to run is exchanged. A job that runs takes it from one that waits, and gives as much of
its own later work for it, in the same intervals of the same pool; so every pool does the same work at the same time,
draws the same, and every job does as much as before. Only between jobs with the same prices and no rules of their own,
and only into hours in which the other may work in time; the bill can't tell the difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from optimizer.alike import pair_of
from optimizer.answers import StartPrice
from optimizer.assemble import Draft
from optimizer.classes import plain
from optimizer.domain import JobState
from optimizer.facts import Facts, Floats
from optimizer.model.parts import Flags, Ints

LEAST_GPU_H = 1e-9
"""Less work than that is rounding."""


def going_on(facts: Facts, draft: Draft) -> Draft:
    """The draft with running jobs before others like them in the interval about to run."""
    runs = np.array([job.state is JobState.RUNNING and job.gpus > 0 for job in facts.table.jobs], dtype=np.bool_)
    if not runs.any():
        return draft
    books = _Books.of(facts, draft)
    starts = dict(draft.worth.starts)
    for mine in _same_worth(facts, draft, runs):
        stopped, begun = mine[runs[mine]], mine[~runs[mine] & (books.work[mine, 0] > LEAST_GPU_H)]
        stopped = stopped[(books.room[stopped, 0] > LEAST_GPU_H) & (books.work[stopped, 1:].max(axis=1) > LEAST_GPU_H)]
        for to, by in _trades(books, stopped, begun):
            _tell(starts, facts.table.ids[to], facts.table.ids[by])
    if not books.traded:
        return draft
    return replace(draft, rates=books.work[:, :-1] / facts.hours, worth=replace(draft.worth, starts=starts))


@dataclass
class _Books:
    """What each job does and what more it could do in time, in GPU-hours [job, interval], after the horizon last."""

    work: Floats
    room: Floats
    traded: bool = False

    @classmethod
    def of(cls, facts: Facts, draft: Draft) -> _Books:
        """As the draft has it; no more than a job's GPUs do at the speed of its pool."""
        table, work = facts.table, draft.rates * facts.hours
        homes = np.array(draft.job_pool, dtype=np.int64)
        most = table.rate[:, None] * np.column_stack((table.on_time_h * _speeds(facts, draft)[homes], table.beyond_h))
        work = np.column_stack((work, np.maximum(0.0, table.left - work.sum(axis=1))))
        return cls(work, np.maximum(0.0, most - work))

    def trade(self, to: int, by: int) -> bool:
        """One job takes over from another now what it can, for as much of its own later work; whether it was any."""
        wish = min(float(self.room[to, 0]), float(self.work[by, 0]))
        swap = np.minimum(self.work[to], self.room[by])
        swap[0] = 0.0
        back = np.diff(np.minimum(np.cumsum(swap), wish), prepend=0.0)
        back[0] = -back.sum()
        self.work[to] -= back
        self.room[to] += back
        self.work[by] += back
        self.room[by] -= back
        done = bool(back[0] < 0)
        self.traded |= done
        return done


def _speeds(facts: Facts, draft: Draft) -> Floats:
    """How fast GPUs with work are at least, over their best [pool, interval]: as fast as the plan holds its jobs to,
    and as all of the pool's must be for the work planned."""
    homes, found = np.array(draft.job_pool, dtype=np.int64), np.ones((len(facts.pools), facts.count))
    for pool in facts.pools:
        if pool.batch:
            most = np.maximum(1e-12, pool.working * pool.top_throughput)
            needed = draft.rates[homes == pool.index].sum(axis=0) / most
            found[pool.index] = np.maximum(pool.speed_share, np.minimum(1.0, needed))
    return found


def _trades(books: _Books, stopped: Ints, begun: Ints) -> Iterator[tuple[int, int]]:
    """Trade until all who run go on, or nobody else begins: pairs of who goes on and who waits instead. Who has least
    left to do goes on first."""
    left = books.work[stopped].sum(axis=1)
    for to in stopped[np.argsort(left, kind="stable")].tolist():
        others = begun[books.work[begun, 0] > LEAST_GPU_H]
        if not len(others):
            return
        swap = np.minimum(books.work[to, 1:], books.room[others, 1:]).sum(axis=1)
        for by in others[swap > LEAST_GPU_H].tolist():
            if books.room[to, 0] <= LEAST_GPU_H:
                break
            if books.trade(to, by):
                yield to, by


def _same_worth(facts: Facts, draft: Draft, runs: Flags) -> Iterator[Ints]:
    """Jobs of one pool and with the same prices, some of which run and do not do all they could."""
    table, free = facts.table, plain(facts) & (np.array(draft.job_pool, dtype=np.int64) >= 0)
    mine = np.flatnonzero(free)
    if not runs[mine].any():
        return
    pair = pair_of(facts, free)
    names = ("value_per_gpu_h", "late_penalty", "undone_penalty", "priority")
    key = np.column_stack((
        table.pair_pool[pair], facts.move_per_gpu_h[pair], *(getattr(table, name)[mine] for name in names)
    ))  # fmt: skip
    _, of = np.unique(key, axis=0, return_inverse=True)
    of = of.reshape(-1)
    for number in np.unique(of[runs[mine]]).tolist():
        yield mine[of == number]


def _tell(starts: dict[str, StartPrice], goes_on: str, waits: str) -> None:
    """Who waits instead starts at the price at which the other would have."""
    price = starts.pop(goes_on, None)
    if price is not None:
        starts.setdefault(waits, price)
