"""A linear program that is asked again and again with other numbers: the same solver, and the basis carried over.

Why apart from the session: the session also settles jobs, rounds and verifies; scenarios need only the optimum.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from optimizer.basis import Remembered, carried
from optimizer.classes import Classes
from optimizer.faults import SolveError, SolveFault
from optimizer.highs import Answer, Highs
from optimizer.model.arrays import Arrays, same_matrix
from optimizer.steady import tried, worth_steadying


@dataclass
class Warm:
    """Solves arrays as linear programs, warm where it can."""

    _solver: Highs | None = None
    _last: Remembered | None = None

    @property
    def arrays(self) -> Arrays | None:
        """What was solved last: the next ones may lend its matrix (see `write_arrays`)."""
        return self._last.arrays if self._last is not None else None

    def solve(self, classes: Classes, arrays: Arrays, time_limit_s: float) -> Answer:
        """The optimum. Raises SolveError when there is none in time; the solver is then forgotten."""
        try:
            answer, spent = self._steadily(classes, arrays, time_limit_s)
            if answer is None and spent >= time_limit_s:
                raise SolveError(SolveFault.TIMEOUT, f"no usable plan within {time_limit_s:g} s")
            if answer is None:
                answer = self._plainly(classes, arrays, time_limit_s - spent)
                answer = replace(answer, seconds=answer.seconds + spent)
        except SolveError:
            self._solver = None
            raise
        np.clip(answer.point, arrays.low, arrays.high, out=answer.point)
        return answer

    def _steadily(self, classes: Classes, arrays: Arrays, time_limit_s: float) -> tuple[Answer | None, float]:
        """From the last basis by costs that favour what is as it was, and the seconds (None: not so)."""
        last = self._last
        if last is None or not worth_steadying(arrays):
            return None, 0.0
        alike = same_matrix(last.arrays, arrays)
        codes = (last.columns, last.rows) if alike else carried(last, classes, arrays)
        found = tried(arrays, classes.facts.hours, codes, self._solver if alike else None, time_limit_s)
        self._solver = found.solver
        if found.answer is not None:
            self._remember(classes, arrays, found.solver, found.answer)
        return found.answer, found.seconds

    def _plainly(self, classes: Classes, arrays: Arrays, time_limit_s: float) -> Answer:
        """At the costs as they are, from where the solver is or from the last basis."""
        if self._solver is not None and same_matrix(self._solver.arrays, arrays):
            self._solver.write(arrays)
        else:
            self._solver = Highs(arrays, integers=False)
            if self._last is not None:
                self._solver.start_from(*carried(self._last, classes, arrays))
        answer = self._solver.run(time_limit_s)
        self._remember(classes, arrays, self._solver, answer)
        return answer

    def _remember(self, classes: Classes, arrays: Arrays, solver: Highs, answer: Answer) -> None:
        self._last = Remembered(arrays, classes, *solver.basis(answer.point))
