"""The seconds of the solver that one rung of a plan may take, in all its linear programs together.

Why one purse: a plan is a chain of solves (speeds, whole numbers, one pool a job, batteries, the answer to each event),
and a chain in which each link minds its own limit takes a multiple of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from optimizer.faults import SolveError, SolveFault
from optimizer.highs import Answer

LAST_S = 0.5
"""So many seconds more than its time may the last small programs of a rung take together, to finish what it has."""


@dataclass
class Purse:
    """Seconds that a rung has, and those that it has spent, in solves that failed too."""

    limit_s: float = inf
    spent_s: float = 0.0

    @property
    def left_s(self) -> float:
        """Seconds that are left for work that could be left out."""
        return max(0.0, self.limit_s - self.spent_s)

    def paid(self, asked_s: float, solve: Callable[[float], Answer]) -> Answer:
        """What `solve` finds within the seconds asked for, or as many as there are. Raises SolveError (timeout) where
        there are none."""
        granted = min(asked_s, self.limit_s + LAST_S - self.spent_s)
        if granted <= 0:
            raise SolveError(SolveFault.TIMEOUT, f"no usable plan within {self.limit_s:g} s")
        try:
            answer = solve(granted)
        except SolveError as error:
            self.spent_s += granted if error.kind is SolveFault.TIMEOUT else error.seconds
            raise
        self.spent_s += answer.seconds
        return answer
