"""Jobs that are alike, planned as one and handed back one by one.

Why exactly alike: a plan is solved in time that grows with its jobs, and a queue often holds hundreds of the same kind
(the tasks of an array, the chunks of a batch). Looser groups lose little of one plan's objective and much of a day's:
they hide the job that has to hurry.

Rule: jobs of one pool and one window that need the same share of their highest rate until their deadline, at the same
prices. A class may do at any moment what its members may do together, and each member gets its part of the class's work
by the work that it has left. A job that is a gang, may not be interrupted, has a least run or a cost of pausing, waits
for others or is waited for, or may run in several pools, stays alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from optimizer.answers import StartPrice
from optimizer.assemble import Draft
from optimizer.facts import Facts, Floats
from optimizer.jobfacts import Jobs, JobTable
from optimizer.model.parts import Flags, Ints
from optimizer.steps import steps_of

SAME_DIGITS = 11
"""Work left over highest rate is the same where its logarithm agrees to so many digits: rounding, and nothing else."""


@dataclass(frozen=True, eq=False)
class Classes:
    """The facts of a problem with one job for each class, named after its first member; the class `of` each job, and
    its `share` of the class's work, both [job]."""

    facts: Facts
    of: Ints
    share: Floats

    def split(self, whole: Facts, draft: Draft) -> Draft:
        """The draft of the classes as one of the jobs of `whole`, the facts that they were made from."""
        if self.facts is whole:
            return draft
        worth = replace(draft.worth, starts=self._starts(whole, draft.worth.starts))
        pools = tuple(np.array(draft.job_pool, dtype=np.int64)[self.of].tolist())
        return replace(draft, rates=draft.rates[self.of] * self.share[:, None], job_pool=pools, worth=worth)

    def _starts(self, whole: Facts, starts: Mapping[str, StartPrice]) -> dict[str, StartPrice]:
        """Start prices of every member."""
        names = [self.facts.table.jobs[n].id for n in self.of.tolist()]
        return {job.id: starts[name] for job, name in zip(whole.table.jobs, names, strict=True) if name in starts}


def classes_of(facts: Facts) -> Classes:
    """Jobs that are exactly alike as one; every other job as a class of its own."""
    first, of = _alike(facts)
    table = facts.table
    if len(first) == len(table):
        return Classes(facts, of, np.ones(len(of)))
    merged = _merged(table, of, first)
    return Classes(replace(facts, jobs=Jobs(merged)), of, table.left / merged.left[of])


def _alike(facts: Facts) -> tuple[Ints, Ints]:
    """The first member of each class, in order, and the class of each job."""
    table, everyone = facts.table, np.arange(len(facts.table))
    free = _plain(facts)
    if not free.any():
        return everyone, everyone
    pair = np.searchsorted(table.pair_job, everyone[free])
    need = np.round(np.log(table.left[free] / table.rate[free]), SAME_DIGITS)
    key = np.column_stack((
        table.pair_pool[pair], facts.move_per_gpu_h[pair], need, table.release_h[free], table.deadline_h[free],
        table.value_per_gpu_h[free], table.late_penalty[free], table.undone_penalty[free], table.priority[free],
    ))  # fmt: skip
    _, begin, kind = np.unique(key, axis=0, return_index=True, return_inverse=True)
    leader = everyone.copy()
    leader[free] = everyone[free][begin][kind.reshape(-1)]
    return np.unique(leader, return_inverse=True)


def _plain(facts: Facts) -> Flags:
    """Jobs [job] that can take any rate at any time in one pool."""
    table, steps = facts.table, steps_of(facts)
    single = np.bincount(table.pair_job, minlength=len(table)) == 1
    plain: Flags = table.preemptible & single & (table.rate > 0) & ~steps.stepped
    plain[steps.order.ravel()] = False
    return plain


def _merged(table: JobTable, of: Ints, first: Ints) -> JobTable:
    """The table with one row for each class."""

    def total(values: Floats) -> Floats:
        return np.asarray(np.bincount(of, values, minlength=len(first)), dtype=np.float64)

    place = np.full(len(table), -1, dtype=np.int64)
    place[first] = np.arange(len(first))
    kept = place[table.pair_job] >= 0
    slowest = np.full(len(first), np.inf)
    np.minimum.at(slowest, of, table.rate / table.left)
    rows = {name: getattr(table, name)[first] for name in BY_JOB}
    pairs = {name: getattr(table, name)[kept] for name in ("pair_pool", "pair_place", "pair_share")}
    return replace(
        table,
        jobs=tuple(table.jobs[n] for n in first.tolist()),
        **{**rows, **pairs},
        left=total(table.left),
        rate=total(table.left) * slowest,
        max_gpus=total(table.max_gpus),
        pair_job=place[table.pair_job[kept]],
    )


BY_JOB = (
    "on_time_h", "late_h", "hours_late", "beyond_h", "release_h", "deadline_h", "pace", "reachable", "fixed",
    "preemptible", "value_per_gpu_h", "late_penalty", "undone_penalty", "priority",
)  # fmt: skip
"""Fields of a table with a row for each job that is the same for all members of a class."""
