"""Who is late in an answer, and who is in question with them: columns for late work exist where they are needed."""

from __future__ import annotations

import numpy as np

from optimizer.highs import Answer
from optimizer.jobfacts import JobTable
from optimizer.model.arrays import Arrays
from optimizer.model.parts import Flags, Ints


def late_jobs(arrays: Arrays, answer: Answer) -> Ints:
    """Jobs that do late work in an answer."""
    late = arrays.families["late"]
    found: Ints = np.unique(late.keys[0][arrays.of("late", answer.point) > 1e-7])
    return found


def mates(table: JobTable, jobs: Ints) -> Ints:
    """These jobs and all that may run in one of their pools."""
    pools = np.unique(table.pair_pool[np.isin(table.pair_job, jobs)])
    return np.unique(np.append(jobs, table.pair_job[np.isin(table.pair_pool, pools)]))


def still_late(table: JobTable, had: Flags, late: Ints) -> Ints:
    """Jobs whose next plan begins with columns for late work: those that do some, and those in one of their pools that
    `had` such columns."""
    around = mates(table, late)
    return np.unique(np.append(late, around[had[around]]))


def missed_in(arrays: Arrays, answer: Answer) -> Ints:
    """Jobs without columns for late work that miss their deadline in an answer."""
    missed: Ints = arrays.families["missed"].keys[0][arrays.of("missed", answer.point) > 1e-7]
    return missed
