"""Jobs that are alike, planned as one and handed back one by one; chosen by how many there are.

Why: a plan is solved in time that grows with its jobs, and a queue often holds hundreds of the same kind (the tasks of
an array, the chunks of a batch).

Exactly alike are jobs of one pool and one window that need the same share of their highest rate until their deadline,
at the same prices: nothing is lost by planning them as one. A job that is a gang, may not be interrupted, has a least
run or a cost of pausing, waits for others or is waited for, or may run in several pools, stays alone, and so does one
whose deadline is a promise.

Above `MOST_SINGLE` jobs, those that are nearly alike are planned as one too, on the safe side: a class has the hours
that all its members have, and the pace of the one that must run fastest, so that each member can take its part by the
work that it has left, and no promise is broken by it. How near is measured by what a job can spare, its slack (hours
until the deadline less hours of work): windows and hours of work differ by no more than a share of it, and a class
keeps a part of its tightest member's. So whoever has to hurry stays alone, and a class of the others loses a little of
its choice of hours. `docs/decisions/0009-many-jobs.md` has what that costs a day.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from optimizer.answers import StartPrice
from optimizer.assemble import Draft
from optimizer.facts import Facts, Floats
from optimizer.jobfacts import Jobs, JobTable
from optimizer.model.parts import Flags, Ints
from optimizer.once import once_for_jobs
from optimizer.reasons import Note, Reason, Severity
from optimizer.steps import steps_of

MOST_SINGLE = 2000
"""Up to so many jobs (classes of exactly alike ones counted once) each is planned by itself."""

MOST_CLASSES = 3000
"""Up to so many classes are few enough."""

LEVELS = ((0.5, 0.5), (1.0, 0.25), (2.0, 0.25))
"""How near is near, tried until classes are few enough: the part of a job's slack by which windows and hours
of work of a class may differ, and the part of its tightest member's slack that a class must keep."""

FINEST_H = 1.0 / 12.0
"""Who can spare no more than this stays alone."""

SAME_DIGITS = 11
"""Work left over highest rate is the same where its logarithm agrees to so many digits: rounding, and nothing else."""


@dataclass(frozen=True, eq=False)
class Classes:
    """The facts of a problem with one job for each class, named after its first member; the class `of` each job, and
    its `share` of the class's work, both [job]. `near`: whether jobs that are only nearly alike were put together."""

    whole: Facts
    facts: Facts
    of: Ints
    share: Floats
    near: bool = False

    def said(self) -> tuple[Note, ...]:
        """That jobs which are not exactly alike are planned as one, for a person to see."""
        if not self.near:
            return ()
        jobs, classes = len(self.of), len(self.facts.table)
        text = f"{jobs} jobs are planned as {classes}: those that are nearly alike together, on the safe side"
        return (Note(Reason.JOBS_GROUPED, "plan", text, Severity.INFO),)

    def members(self, classes: Iterable[int]) -> frozenset[str]:
        """Ids of the jobs of some classes."""
        chosen = np.isin(self.of, np.array(list(classes), dtype=np.int64))
        return frozenset(self.whole.table.jobs[n].id for n in np.flatnonzero(chosen).tolist())

    def split(self, draft: Draft) -> Draft:
        """The draft of the classes as one of their members."""
        if self.facts is self.whole:
            return draft
        worth = replace(draft.worth, starts=self._starts(draft.worth.starts))
        pools = tuple(np.array(draft.job_pool, dtype=np.int64)[self.of].tolist())
        return replace(draft, rates=draft.rates[self.of] * self.share[:, None], job_pool=pools, worth=worth)

    def _starts(self, starts: Mapping[str, StartPrice]) -> dict[str, StartPrice]:
        """Start prices of every member."""
        names = [self.facts.table.jobs[n].id for n in self.of.tolist()]
        return {job.id: starts[name] for job, name in zip(self.whole.table.jobs, names, strict=True) if name in starts}


Level = tuple[float, float]


def classes_of(facts: Facts, most: int = MOST_SINGLE, levels: tuple[Level, ...] | None = None) -> Classes:
    """Jobs that are exactly alike as one; above `most` of them also those that are nearly alike (see `LEVELS`); every
    other job as a class of its own."""
    if len(facts.table) <= most and _all_differ(facts):
        return Classes(facts, facts, np.arange(len(facts.table)), np.ones(len(facts.table)))
    free = plain(facts)
    leader = _leaders(_exact(facts, free), free)
    exact = leader
    if len(np.unique(leader)) > most:
        for share, kept in levels or LEVELS:
            leader = _near(facts, free, exact, share, kept)
            if len(np.unique(leader)) <= MOST_CLASSES:
                break
    group = _Groups(leader)
    if len(group.first) == len(leader):
        return Classes(facts, facts, group.of, np.ones(len(leader)))
    merged = _merged(facts.table, group)
    parts = facts.table.left / merged.left[group.of]
    return Classes(facts, replace(facts, jobs=Jobs(merged)), group.of, parts, leader is not exact)


@once_for_jobs
def _all_differ(facts: Facts) -> bool:
    """Whether no two jobs are exactly alike, even if moving their data cost nothing."""
    free = plain(facts)
    key = np.delete(_exact(facts, free), 1, axis=1)
    return bool((_leaders(key, free) == np.arange(len(free))).all())


def plain(facts: Facts) -> Flags:
    """Jobs [job] that can take any rate at any time in one pool, and have promised nothing."""
    table, steps = facts.table, steps_of(facts)
    single = np.bincount(table.pair_job, minlength=len(table)) == 1
    plain: Flags = table.preemptible & single & (table.rate > 0) & ~steps.stepped & ~table.firm
    plain[steps.order.ravel()] = False
    return plain


def _leaders(key: Floats, free: Flags) -> Ints:
    """The first job with the same key for each job [job]; `key` [free job, part]."""
    leader = np.arange(len(free))
    order = np.lexsort(key.T)
    same = np.all(key[order[1:]] == key[order[:-1]], axis=1)
    begin = np.flatnonzero(np.append(True, ~same)[: len(order)])
    mine = np.flatnonzero(free)[order]
    leader[mine] = np.repeat(mine[begin], np.diff(np.append(begin, len(order))))
    return leader


def _pair(facts: Facts, free: Flags) -> Ints:
    """The one pair of each of these jobs."""
    found: Ints = np.searchsorted(facts.table.pair_job, np.flatnonzero(free))
    return found


def _exact(facts: Facts, free: Flags) -> Floats:
    """What must be the same for jobs to be exactly alike [free job, part]."""
    table, pair = facts.table, _pair(facts, free)
    need = np.round(np.log(table.left[free] / table.rate[free]), SAME_DIGITS)
    return np.column_stack((
        table.pair_pool[pair], facts.move_per_gpu_h[pair], need, table.release_h[free], table.deadline_h[free],
        table.value_per_gpu_h[free], table.late_penalty[free], table.undone_penalty[free], table.priority[free],
    ))  # fmt: skip


# ---------------------------------------------------------------- nearly alike
def _near(facts: Facts, free: Flags, exact: Ints, share: float, kept: float) -> Ints:
    """Leaders [job] of classes of nearly alike jobs: by `share` of the slack, then by ever less of it for those whose
    class would keep too little. Jobs that are optional, or out of reach, stay as they are."""
    table = facts.table
    spare_h = table.on_time_h.sum(axis=1) + table.beyond_h - table.left / np.where(free, table.rate, 1.0)
    leader, left = exact.copy(), free & table.reachable & ~table.late_anyway
    while share * spare_h.max(initial=0.0, where=left) >= FINEST_H:
        left &= share * spare_h >= FINEST_H
        found = _leaders(_alike(facts, left, share * spare_h[left]), left)
        good = left & _keeps_slack(table, found, spare_h, kept)
        leader[good] = found[good]
        left &= ~good
        share /= 2.0
    return leader


def _alike(facts: Facts, free: Flags, room_h: Floats) -> Floats:
    """What must be the same for jobs to be nearly alike, on steps of `room_h` or less [free job, part]. Steps are
    powers of two of an hour, anchored to the clock, so that classes stay what they are from plan to plan."""
    table, pair = facts.table, _pair(facts, free)
    power = np.floor(np.log2(room_h))
    step = 2.0**power
    clock_h = facts.problem.grid.start.timestamp() / 3600.0
    release_h = table.release_h[free]
    return np.column_stack((
        table.pair_pool[pair], facts.move_per_gpu_h[pair], power,
        np.where(release_h > 0, np.ceil((clock_h + release_h) / step), 0.0),
        np.floor((clock_h + table.deadline_h[free]) / step),
        np.ceil(table.left[free] / table.rate[free] / step),
        np.round(2.0 * np.log2(table.undone_penalty[free] + np.maximum(0.0, table.value_per_gpu_h[free]))),
        np.round(2.0 * np.log2(table.late_penalty[free] + 1e-3)), table.priority[free],
    ))  # fmt: skip


def _keeps_slack(table: JobTable, leader: Ints, spare_h: Floats, kept: float) -> Flags:
    """Jobs [job] whose class keeps that part of its tightest member's slack."""
    group = _Groups(leader)
    open_h = group.least(table.deadline_h) - group.most(table.release_h)
    left_h = open_h - group.most(table.left / np.maximum(table.rate, 1e-12))
    keeps: Flags = (left_h >= kept * group.least(spare_h) - 1e-9)[group.of]
    return keeps


# ---------------------------------------------------------------- one table row a class
class _Groups:
    """Jobs by their leader: `first` is each group's leader, in order, and `of` the group of each job."""

    def __init__(self, leader: Ints) -> None:
        self.first, self.of = np.unique(leader, return_inverse=True)
        self._order = np.argsort(self.of, kind="stable")
        self._starts = np.searchsorted(self.of[self._order], np.arange(len(self.first)))

    def least(self, values: Floats) -> Floats:
        """Least of each group, along the first axis."""
        return np.minimum.reduceat(values[self._order], self._starts, axis=0)

    def most(self, values: Floats) -> Floats:
        """Most of each group, along the first axis."""
        return np.maximum.reduceat(values[self._order], self._starts, axis=0)

    def total(self, values: Floats) -> Floats:
        """Sum of each group."""
        return np.add.reduceat(values[self._order], self._starts)


def _merged(table: JobTable, group: _Groups) -> JobTable:
    """The table with one row for each group: work adds up, hours are those that all members have, the rate is that at
    which the member with most work for its rate keeps to its own, prices are means by work."""
    first, left, on_time_h = group.first, group.total(table.left), group.least(table.on_time_h)
    place = np.full(len(table), -1, dtype=np.int64)
    place[first] = np.arange(len(first))
    kept = place[table.pair_job] >= 0
    rows = {name: getattr(table, name)[first] for name in ("reachable", "fixed", "preemptible", "firm", "priority")}
    means = {name: group.total(getattr(table, name) * table.left) / left for name in PRICES}
    pairs = {name: getattr(table, name)[kept] for name in ("pair_pool", "pair_place", "pair_share")}
    return replace(
        table,
        jobs=tuple(table.jobs[n] for n in first.tolist()),
        **{**rows, **means, **pairs},
        left=left,
        rate=left * group.least(table.rate / table.left),
        on_time_h=on_time_h,
        late_h=group.least(table.on_time_h + table.late_h) - on_time_h,
        hours_late=group.most(table.hours_late),
        beyond_h=group.least(table.beyond_h),
        release_h=group.most(table.release_h),
        deadline_h=group.least(table.deadline_h),
        pace=group.most(table.pace),
        max_gpus=group.total(table.max_gpus),
        pair_job=place[table.pair_job[kept]],
    )


PRICES = ("value_per_gpu_h", "late_penalty", "undone_penalty")
