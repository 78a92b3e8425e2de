"""Compares a warm plan's optimum with one from nothing: a warm start must never be believed for ever.

Why at all: open reports say that a hot start can end at a wrong vertex and call it optimal (HiGHS 3194, 3294). Why
between plans where that can be: a solve from nothing takes ten times as long as a warm plan, and whoever waits for one
has no use of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from optimizer.faults import SolveError
from optimizer.highs import Answer, Highs, solve_arrays
from optimizer.model.arrays import Arrays
from optimizer.reasons import Note, Reason, Severity

AGREE = 1e-6
"""Relative difference of objectives at which warm and cold disagree."""


SPARE_S = 60.0
"""Most seconds of a comparison between two plans."""


@dataclass(frozen=True)
class Due:
    """What is to be compared: arrays without whole columns, and the objective of their warm optimum."""

    arrays: Arrays
    objective: float


@dataclass
class Verify:
    """Every so many plans, the comparison of one; `apart`: between plans, when `spare` is called, not within one."""

    every: int
    apart: bool = False
    _plans: int = 0
    _due: Due | None = None
    _notes: list[Note] = field(default_factory=list)

    def said(self) -> tuple[Note, ...]:
        """What was found since this was asked last."""
        said, self._notes = tuple(self._notes), []
        return said

    def contradicted(self, arrays: Arrays, answer: Answer, time_limit_s: float) -> Answer | None:
        """A plan's answer is compared, where one is due and there is time: the optimum of a solve from nothing that
        says something else. `apart` it is only noted, and again with every plan until there was time."""
        self._plans += 1
        if self._due is None and self._plans % self.every:
            return None
        if self.apart:
            self._due = Due(arrays, answer.objective)
            return None
        try:
            cold = solve_arrays(arrays, time_limit_s)
        except SolveError:
            return None
        return cold if self._disagree(answer.objective, cold.objective, "it counts") else None

    def spare(self, wanted: Callable[[], bool]) -> bool:
        """Compare now what is due, and tell whether the warm answer was wrong. Given up as soon as `wanted` says that
        the next plan is asked for."""
        due = self._due
        if due is None:
            return False
        try:
            cold = Highs(due.arrays, integers=False).run_unless(wanted, SPARE_S)
        except (SolveError, MemoryError) as error:  # a second solver may be more than there is memory for
            self._due = None
            why = str(error) or "there is no memory for it"
            self._note(f"a solve from nothing, to compare the last plan with, failed: {why}")
            return False
        if cold is None:
            return False
        self._due = None
        return self._disagree(due.objective, cold.objective, "this plan begins from nothing")

    def _disagree(self, warm: float, cold: float, then: str) -> bool:
        """Whether two objectives are not those of the same optimum, which is noted."""
        wrong = abs(cold - warm) > AGREE * (1.0 + abs(cold))
        if wrong:
            self._note(f"a warm start ended at {warm:.9g}, a solve from nothing at {cold:.9g}; {then}")
        return wrong

    def _note(self, text: str) -> None:
        self._notes.append(Note(Reason.SOLVER_CRASH, "plan", text, Severity.WARNING))
