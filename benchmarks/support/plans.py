"""Times one plan in two ways: the whole of it as the daemon makes it, and HiGHS alone on the very same arrays.

Why HiGHS alone: it is what no modelling layer can beat. Everything above it (build, compile, read, check) is ours.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import highspy
import numpy as np

import optimizer.highs
from optimizer.check import check_plan
from optimizer.classes import LEVELS, MOST_SINGLE, classes_of
from optimizer.domain import Plan, Problem, Rung
from optimizer.facts import Floats, facts_of
from optimizer.faults import SolveError, SolveFault
from optimizer.model.arrays import Arrays, write_arrays
from optimizer.model.build import declare
from optimizer.reasons import Note
from optimizer.session import Session
from optimizer.tankhours import in_hours
from optimizer.tanks import tanks_of
from scheduler.planner import InlinePlanner

T = TypeVar("T")
PATIENCE_S = 300.0
KEPT = ("_compiled", "_last", "_verify", "_late", "_speeds")
"""What of a session goes on in another process."""


@dataclass(frozen=True)
class Whole:
    """CPU seconds of a whole plan, and of that the time inside HiGHS."""

    total_s: float
    solve_s: float

    @property
    def other_s(self) -> float:
        """All that is not the solve."""
        return self.total_s - self.solve_s


class Planned:
    """A planner as the daemon's child holds it, whose plans are timed one by one. `most_single`: above so many jobs
    those that are nearly alike are planned as one. `notes` are those of the last plan."""

    def __init__(self, most_single: int = MOST_SINGLE) -> None:
        self._session = Session(most_single=most_single)
        self._planner = InlinePlanner(PATIENCE_S, self._session.plan)
        self.notes: tuple[Note, ...] = ()

    def plan(self, problem: Problem) -> Plan:
        """The optimum. RuntimeError when something else answered: a fallback would be fast and prove nothing."""
        plan = self._planner.plan(problem)
        if plan.rung is not Rung.OPTIMUM:
            raise RuntimeError(f"the plan is {plan.rung}, not the optimum: {[note.text for note in plan.notes][:3]}")
        self.notes = plan.notes
        return plan

    def timed(self, problem: Problem) -> Whole:
        """Build, write or compile, transfer, solve, read and check."""
        with _solver_clock() as inside:
            total_s, _ = timed(lambda: self.plan(problem))
        return Whole(total_s, sum(inside))

    def __getstate__(self) -> dict[str, Any]:
        """What makes the next plan what it would have been: all but the solver itself, whose basis is kept."""
        return {"most_single": self._session.most_single, **{name: getattr(self._session, name) for name in KEPT}}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        self.__init__(kept["most_single"])  # type: ignore[misc]
        for name in KEPT:
            setattr(self._session, name, kept[name])

    @property
    def arrays(self) -> Arrays:
        """The arrays that the last plan solved."""
        last = self._session._last  # the product needs no such question
        assert last is not None
        return last.arrays


@dataclass(frozen=True)
class Hasty:
    """A planner that has no time for single jobs: always the coarsest classes, or always tanks of work."""

    rung: Rung

    def plan(self, problem: Problem) -> Plan:
        """The plan of that rung, checked. RuntimeError where it breaks a promise."""
        facts = facts_of(problem)
        rows = in_hours(tanks_of(facts)) if self.rung is Rung.EMERGENCY else classes_of(facts, 0, LEVELS[-1:])
        if len(rows.facts.table) == len(facts.table):
            return Session(_compiled=True).plan(problem, PATIENCE_S)  # nothing to put together
        late = SolveError(SolveFault.TIMEOUT, "there was no time")
        plan = Session(_compiled=True)._hastily(
            rows, self.rung, late, PATIENCE_S
        )  # the product asks when time is short
        broken = check_plan(problem, plan)
        if broken:
            raise RuntimeError(f"the plan of the rung {self.rung} breaks a promise: {broken[0]}")
        return plan

    def timed(self, problem: Problem) -> Whole:
        """The same, timed."""
        with _solver_clock() as inside:
            total_s, _ = timed(lambda: self.plan(problem))
        return Whole(total_s, sum(inside))


def whole_plan(problem: Problem) -> Whole:
    """A whole plan from nothing."""
    return Planned().timed(problem)


@contextmanager
def _solver_clock() -> Iterator[list[float]]:
    """CPU seconds of every run of HiGHS inside."""
    spent: list[float] = []
    plain = optimizer.highs._Silent.run

    def run(solver: Any) -> Any:
        started = time.process_time()
        try:
            return plain(solver)
        finally:
            spent.append(time.process_time() - started)

    optimizer.highs._Silent.run = run
    try:
        yield spent
    finally:
        optimizer.highs._Silent.run = plain


def arrays_of(problem: Problem) -> Arrays:
    """The linear program of a problem as arrays."""
    return write_arrays(declare(problem))


def highs_alone(arrays: Arrays) -> float:
    """Seconds of HiGHS from cold on these arrays with one thread: pass, solve, read the point."""
    solver = _Silent()
    for option, value in (("output_flag", False), ("threads", 1), ("random_seed", 0), ("time_limit", PATIENCE_S)):
        if solver.setOptionValue(option, value) == highspy.HighsStatus.kError:
            raise RuntimeError(f"HiGHS refused the option {option}")
    seconds, _ = timed(lambda: _solve(solver, arrays))
    if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        raise RuntimeError(f"HiGHS alone says: {solver.modelStatusToString(solver.getModelStatus())}")
    return seconds


class _Silent(highspy.Highs):  # type: ignore[misc]
    """HiGHS without its banner, which the class prints when it makes its callbacks: none are used here."""

    def __init__(self) -> None:
        super(highspy.Highs, self).__init__()


def _solve(solver: _Silent, arrays: Arrays) -> Floats:
    solver.passModel(
        len(arrays.cost), len(arrays.row_low), len(arrays.value),
        int(highspy.MatrixFormat.kColwise), int(highspy.ObjSense.kMinimize),
        arrays.offset, arrays.cost, arrays.low, arrays.high, arrays.row_low, arrays.row_high,
        arrays.starts, arrays.index, arrays.value, arrays.integer,
    )  # fmt: skip
    solver.run()
    point: Floats = np.array(solver.getSolution().col_value)
    return point


def timed(call: Callable[[], T]) -> tuple[float, T]:
    """CPU seconds of a call and its result, without the cyclic collector (as in the daemon's child). All of it is one
    thread's work, so on an idle machine these are wall seconds; on a shared one the neighbours' are left out."""
    with _collector_off():
        started = time.process_time()
        result = call()
        return time.process_time() - started, result


@contextmanager
def _collector_off() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
