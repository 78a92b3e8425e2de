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
until the deadline less hours of work): who joins a class differs from what it is by then by no more than a share of it,
and a class keeps a part of its tightest member's. So whoever has to hurry loses little of its choice of hours; who
could wait long may lose most of it, and no deadline. `docs/decisions/0009-many-jobs.md` has what that costs a day.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from optimizer.alike import Groups, leaders, near, pair_of
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

LEVELS = ((0.35, 0.85), (0.7, 0.8), (1.5, 0.75))
"""How near is near, tried until classes are few enough: by what part of its slack the windows and work of who
joins a class may differ from the class's own by then, and what part of its tightest member's slack one must keep."""

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
    leader = leaders(_exact(facts, free), free)
    exact = leader
    if len(np.unique(leader)) > most:
        for share, kept in levels or LEVELS:
            leader = near(facts, free, exact, share, kept)
            if len(np.unique(leader)) <= MOST_CLASSES:
                break
    group = Groups(leader)
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
    return bool((leaders(key, free) == np.arange(len(free))).all())


def plain(facts: Facts) -> Flags:
    """Jobs [job] that can take any rate at any time in one pool, and have promised nothing."""
    table, steps = facts.table, steps_of(facts)
    single = np.bincount(table.pair_job, minlength=len(table)) == 1
    plain: Flags = table.preemptible & single & (table.rate > 0) & ~steps.stepped & ~table.firm
    plain[steps.order.ravel()] = False
    return plain


def _exact(facts: Facts, free: Flags) -> Floats:
    """What must be the same for jobs to be exactly alike [free job, part]."""
    table, pair = facts.table, pair_of(facts, free)
    need = np.round(np.log(table.left[free] / table.rate[free]), SAME_DIGITS)
    return np.column_stack((
        table.pair_pool[pair], facts.move_per_gpu_h[pair], need, table.release_h[free], table.deadline_h[free],
        table.value_per_gpu_h[free], table.late_penalty[free], table.undone_penalty[free], table.priority[free],
    ))  # fmt: skip


def _merged(table: JobTable, group: Groups) -> JobTable:
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
