"""What a failed solve is called, apart from the solver itself.

Why apart: the daemon must know these words before its first turn, and the solver's own imports take seconds; they
happen in the planner's child process while the daemon is already in charge.
"""

from __future__ import annotations

from enum import StrEnum


class SolveFault(StrEnum):
    """What went wrong in a solve."""

    TIMEOUT = "timeout"
    INFEASIBLE = "infeasible"
    FAILED = "failed"


class SolveError(Exception):
    """No usable plan came out of the solver; `kind` says of what sort the failure is, and after how many seconds inside
    it (0: not known)."""

    def __init__(self, kind: SolveFault, text: str, seconds: float = 0.0) -> None:
        super().__init__(text)
        self.kind, self.seconds = kind, seconds

    def __reduce__(self) -> tuple[type[SolveError], tuple[SolveFault, str, float]]:
        return SolveError, (self.kind, str(self), self.seconds)
