"""A linear program that is asked again and again with other numbers: the same solver, and the basis carried over.

Why apart from the session: the session also settles jobs, rounds and verifies; scenarios need only the optimum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optimizer.basis import Remembered, carried
from optimizer.classes import Classes
from optimizer.faults import SolveError
from optimizer.highs import Answer, Highs
from optimizer.model.arrays import Arrays


@dataclass
class Warm:
    """Solves arrays as linear programs, warm where it can."""

    _solver: Highs | None = None
    _last: Remembered | None = None

    def solve(self, classes: Classes, arrays: Arrays, time_limit_s: float) -> Answer:
        """The optimum. Raises SolveError when there is none in time; what is remembered is then forgotten."""
        if self._solver is not None and same_matrix(self._solver.arrays, arrays):
            self._solver.write(arrays)
        else:
            self._solver = Highs(arrays, integers=False)
            if self._last is not None:
                self._solver.start_from(*carried(self._last, classes, arrays))
        try:
            answer = self._solver.run(time_limit_s)
        except SolveError:
            self._solver = None
            raise
        columns, rows = self._solver.basis(answer.point)
        self._last = Remembered(arrays, classes, columns, rows)
        np.clip(answer.point, arrays.low, arrays.high, out=answer.point)
        return answer


def same_matrix(old: Arrays, new: Arrays) -> bool:
    """Whether only vectors differ."""
    if old.value is new.value and old.index is new.index and old.starts is new.starts:
        return True
    return (
        len(old.cost) == len(new.cost)
        and np.array_equal(old.starts, new.starts)
        and np.array_equal(old.index, new.index)
        and np.array_equal(old.value, new.value)
    )
