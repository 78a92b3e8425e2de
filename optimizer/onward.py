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

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from optimizer.alike import pair_of
from optimizer.answers import StartPrice
from optimizer.assemble import Draft
from optimizer.classes import plain
from optimizer.facts import Facts, Floats
from optimizer.model.parts import Flags, Ints

LEAST_GPU_H = 1e-9
"""Less work than that is rounding."""

MOST_AT_ONCE = 64
"""A running job looks at so many others that wait. Who finds nobody among them stops, as the plan had it: a plan that
is as good, in less time."""


def going_on(facts: Facts, draft: Draft) -> Draft:
    """The draft with running jobs before others like them in the interval about to run."""
    runs = np.array([job.gpus > 0 for job in facts.table.jobs], dtype=np.bool_)  # those that just begin, too
    if not runs.any():
        return draft
    books, takers = _Books.of(facts, draft), dict[int, int]()
    for mine in _same_worth(facts, draft, runs):
        stopped, begun = mine[runs[mine]], mine[~runs[mine] & (books.work[mine, 0] > LEAST_GPU_H)]
        takers |= _trades(books, stopped, begun)
    if not takers:
        return draft
    worth = replace(draft.worth, starts=_starts(facts, draft.worth.starts, books, takers))
    return replace(draft, rates=books.work[:, :-1] / facts.hours, worth=worth)


@dataclass(frozen=True, eq=False)
class _Books:
    """What each job does and what more it could do in time, in GPU-hours [job, interval], after the horizon last."""

    work: Floats
    room: Floats

    @classmethod
    def of(cls, facts: Facts, draft: Draft) -> _Books:
        """As the draft has it; no more than a job's GPUs do at the speed of its pool."""
        table, work = facts.table, draft.rates * facts.hours
        homes = np.array(draft.job_pool, dtype=np.int64)
        most = table.rate[:, None] * np.column_stack((table.on_time_h * _speeds(facts, draft)[homes], table.beyond_h))
        work = np.column_stack((work, np.maximum(0.0, table.left - work.sum(axis=1))))
        return cls(work, np.maximum(0.0, most - work))

    def trade(self, to: int, others: Ints) -> Ints:
        """One job takes over what others do now, the first of those that can have as much of its own later work for it,
        each the same part in all intervals; these."""
        takes = min(float(self.room[to, 0]), float(self.work[to, 1:].sum()))
        if takes <= LEAST_GPU_H:
            return others[:0]
        later = np.diff(np.minimum(np.cumsum(self.work[to, 1:]), takes), prepend=0.0)
        some = 1 + np.flatnonzero(later > LEAST_GPU_H)
        part = np.minimum(1.0, self.work[others, 0] / takes)
        can = (later[some - 1] * part[:, None] <= self.room[np.ix_(others, some)] + LEAST_GPU_H).all(axis=1)
        others, part = others[can], part[can]
        part = np.minimum(part, 1.0 - np.cumsum(part) + part)
        others, part = others[part > LEAST_GPU_H], part[part > LEAST_GPU_H]
        if len(others):
            self._move(np.array([to]), -part.sum() * later[None, :], part.sum(keepdims=True) * takes)
            self._move(others, part[:, None] * later, -part * takes)
        return others

    def _move(self, jobs: Ints, later: Floats, now: Floats) -> None:
        """More work (or less) of some jobs; what is left of nothing is nothing."""
        change = np.column_stack((now, later))
        work = np.maximum(0.0, self.work[jobs] + change)
        work[:, 0] = np.where(work[:, 0] > LEAST_GPU_H, work[:, 0], 0.0)
        self.work[jobs] = work
        self.room[jobs] -= change


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


def _trades(books: _Books, stopped: Ints, begun: Ints) -> dict[int, int]:
    """Trade until all who run go on, or nobody else begins: by those who wait instead, who goes on. Who has least left
    to do goes on first."""
    takers: dict[int, int] = {}
    able = (books.room[stopped, 0] > LEAST_GPU_H) & (books.work[stopped, 1:].max(axis=1) > LEAST_GPU_H)
    stopped = stopped[able]
    for to in stopped[np.argsort(books.work[stopped].sum(axis=1), kind="stable")].tolist():
        if not len(begun):
            break
        takers |= dict.fromkeys(books.trade(to, begun[:MOST_AT_ONCE]).tolist(), to)
        spent = books.work[begun[:MOST_AT_ONCE], 0] <= LEAST_GPU_H
        begun = np.concatenate((begun[:MOST_AT_ONCE][~spent], begun[MOST_AT_ONCE:]))
    return takers


def _same_worth(facts: Facts, draft: Draft, runs: Flags) -> Iterator[Ints]:
    """Jobs of one pool and with the same prices, some of which run."""
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


def _starts(
    facts: Facts, before: Mapping[str, StartPrice], books: _Books, takers: Mapping[int, int]
) -> dict[str, StartPrice]:
    """Start prices of those that wait now: who gave all of its work for now starts at the price at which the other one
    would have."""
    ids, starts = facts.table.ids, dict(before)
    for by, to in takers.items():
        if books.work[by, 0] <= LEAST_GPU_H and ids[to] in before:
            starts[ids[by]] = before[ids[to]]
    for to in set(takers.values()):
        if books.work[to, 0] > LEAST_GPU_H:
            starts.pop(ids[to], None)
    return starts
