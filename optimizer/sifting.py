"""The optimum of a linear program that was solved before with other numbers, by a part of its columns at a time.

Why: from one interval to the next nearly all rates of jobs are zero and stay so, yet every iteration of the simplex
method prices all of them. HiGHS is given the columns that were not zero; what it finds is priced against all others
(one product of the matrix with the duals), and those that would pay are added, until none would: that is the optimum of
the whole, to the very tolerance of HiGHS. What was added stays for the next interval.

And why in two steps: the dual simplex method repairs new bounds, the primal one new costs. Given both at once the dual
one first sends every rate whose reduced cost changed its sign to its highest value, and takes it back one by one.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from optimizer.basis import Remembered
from optimizer.facts import Floats
from optimizer.highs import DUAL, PRIMAL, Answer, Highs, must_be_numbers
from optimizer.model.arrays import Arrays, same_matrix
from optimizer.model.parts import Flags, Ints

SIFTED = ("x", "late")
"""Families whose columns may be left out: that a job does not work in an interval is always allowed."""

LEAST_COLUMNS, LEAST_PER_ROW = 6000, 4
"""Programs with fewer such columns, or fewer for each row, are solved as they are."""

DEAR = 1e-7
"""Dual tolerance of HiGHS: a column whose reduced cost is no further below zero counts as optimal."""

MOST_ADDED = 3000
"""Most columns that are added in one round."""

MOST_SHARE = 0.75
"""With more of the columns than that, HiGHS is given a new part."""


def worth_sifting(last: Arrays, arrays: Arrays) -> bool:
    """Whether a program is the last one with other numbers, and has so many more columns than rows that a part of them
    is solved faster."""
    many = sum(len(arrays.families[name]) for name in SIFTED)
    wide = many >= LEAST_COLUMNS and many >= LEAST_PER_ROW * len(arrays.row_low) and not arrays.integer.any()
    return wide and same_matrix(last, arrays)


class Sifted:
    """A linear program of which HiGHS holds a part of the columns; the others are zero."""

    def __init__(self, last: Remembered, hours: Floats) -> None:
        """Take a solved program in; `hours` of its intervals."""
        self.arrays = arrays = last.arrays
        self._matrix = arrays.matrix
        self._hours = np.ones(len(arrays.cost))
        self._out: Flags = np.zeros(len(arrays.cost), dtype=np.bool_)
        for name in SIFTED:
            family = arrays.families[name]
            mine = slice(family.start, family.start + len(family))
            self._hours[mine] = hours[family.keys[2]]  # a reduced cost over them is money per GPU-hour: comparable
            self._out[mine] = (last.columns[mine] == 0) & (arrays.low[mine] == 0.0)
        self._held: Ints = np.flatnonzero(~self._out)
        self._solver = Highs(self._part(self._held), integers=False)
        self._solver.start_from(last.columns[self._held], last.rows)
        self._before_s = 0.0

    @property
    def seconds(self) -> float:
        """Seconds inside HiGHS of the last run, whether it has found something or not."""
        return self._solver.clock_s() - self._before_s

    @property
    def share(self) -> float:
        """Share of the columns that HiGHS holds."""
        return len(self._held) / len(self.arrays.cost)

    def run(self, arrays: Arrays, time_limit_s: float) -> Answer:
        """The optimum of arrays with the very same matrix. Raises SolveError where there is none in time."""
        self._before_s = self._solver.clock_s()
        seconds = self._begun(arrays, time_limit_s)
        while True:
            seconds += self._solver.solve(time_limit_s - seconds)
            reduced: Floats = arrays.cost - self._matrix.T @ self._solver.row_duals()
            wanted = np.flatnonzero(self._out & (reduced < -DEAR))
            if not len(wanted):
                break
            self._add(wanted, reduced)
        part, point = self._solver.answer(seconds), np.zeros(len(arrays.cost))
        point[self._held], reduced[self._held] = part.point, part.reduced
        return replace(part, point=point, reduced=reduced)

    def basis(self, answer: Answer) -> tuple[Ints, Ints]:
        """Codes of the basis of the last run, for columns and rows (see `Highs.start_from`)."""
        held, rows = self._solver.basis(answer.point[self._held])
        columns = np.zeros(len(self.arrays.cost), dtype=np.int64)
        columns[self._held] = held
        return columns, rows

    def _begun(self, arrays: Arrays, time_limit_s: float) -> float:
        """Take over the numbers of arrays; seconds that were spent on repairing their bounds at the old costs."""
        must_be_numbers(arrays)
        held_up = np.flatnonzero(self._out & ((arrays.low > 0.0) | (arrays.high < 0.0)))
        if len(held_up):  # they can't be zero; taken with the old numbers, as those that HiGHS has
            self._take(held_up)
        seconds, old = 0.0, self.arrays
        self.arrays = arrays
        part = self._part(self._held, self._solver.arrays)
        self._solver.option("simplex_strategy", DUAL)
        if not np.array_equal(old.cost, arrays.cost):
            self._solver.write(replace(part, cost=old.cost[self._held]))
            seconds = self._solver.solve(time_limit_s)
            self._solver.option("simplex_strategy", PRIMAL)
        self._solver.write(part)
        return seconds

    def _add(self, wanted: Ints, reduced: Floats) -> None:
        """Give HiGHS the columns that would pay; of too many those that would pay most."""
        if len(wanted) > MOST_ADDED:
            worth = reduced[wanted] / self._hours[wanted]
            wanted = wanted[np.argpartition(worth, MOST_ADDED)[:MOST_ADDED]]
        self._take(wanted)
        self._solver.option("simplex_strategy", PRIMAL)

    def _take(self, columns: Ints) -> None:
        """Let HiGHS hold these columns too."""
        self._out[columns] = False
        self._held = np.append(self._held, columns)
        self._solver.add_columns(self._part(columns), self._part(self._held))

    def _part(self, columns: Ints, like: Arrays | None = None) -> Arrays:
        """The program with these columns alone; `like`: arrays that have their matrix already."""
        whole = self.arrays
        if like is None:
            cut = self._matrix[:, columns]
            matrix = (cut.indptr.astype(np.int32), cut.indices.astype(np.int32), cut.data)
        else:
            matrix = (like.starts, like.index, like.value)
        return replace(
            whole, cost=whole.cost[columns], low=whole.low[columns], high=whole.high[columns],
            starts=matrix[0], index=matrix[1], value=matrix[2], integer=whole.integer[columns], families={},
            terms=None,
        )  # fmt: skip
