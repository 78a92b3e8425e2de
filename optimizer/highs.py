"""HiGHS, with everything said aloud: options that it refuses, time that runs out, points that it does not have.

Why so strict: HiGHS ignores an unknown option, counts its time limit over the life of its object, returns no usable
point when a linear program runs out of time, and says "Not Set" when two objects of a process differ in their threads.
So every option's answer is checked, each run gets its own time on top of what its object has used, threads are always
1, and anything but an optimum (or, with integers, an incumbent) is a `SolveError`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import highspy
import numpy as np
from numpy.typing import NDArray

from optimizer.facts import Floats
from optimizer.faults import SolveError, SolveFault
from optimizer.model.arrays import Arrays
from optimizer.model.parts import Ints

GAP = 1e-4
"""Relative gap at which a mixed-integer solve may stop."""

OPTIMAL = highspy.HighsModelStatus.kOptimal
TIME_LIMIT = highspy.HighsModelStatus.kTimeLimit
INTERRUPTED = highspy.HighsModelStatus.kInterrupt
ASK_EVERY = 32
"""Iterations of the simplex method between two questions whether to stop: less than 10 ms."""

UNDISTURBED = "dual_simplex_cost_perturbation_multiplier"
"""What HiGHS calls the size of the disturbance of all costs with which its dual simplex method begins."""

DUAL, PRIMAL = 1, 4
"""What HiGHS calls its simplex methods (`simplex_strategy`)."""

BAD = {highspy.HighsModelStatus.kInfeasible, highspy.HighsModelStatus.kUnboundedOrInfeasible}

SAID = (OPTIMAL, TIME_LIMIT, INTERRUPTED, *BAD)
"""What a linear program may end with; all else says that the simplex has lost its way."""


@dataclass(frozen=True)
class Answer:
    """A point, the duals of rows and columns (from the linear program with the integers fixed), whether it is proven
    optimal, the seconds inside HiGHS, and how many simplex iterations they were."""

    point: Floats
    duals: Floats
    reduced: Floats
    objective: float
    optimal: bool
    seconds: float
    iterations: int = 0


class Highs:
    """One HiGHS object that holds one model."""

    def __init__(self, arrays: Arrays, *, integers: bool = True) -> None:
        """Take the arrays in; without `integers` every column is continuous. Raises SolveError when refused."""
        must_be_numbers(arrays)
        self._solver: Any = _Silent()
        self.arrays = arrays
        self._bounded = False
        for name, value in {"threads": 1, "random_seed": 0, "mip_rel_gap": GAP, "mip_abs_gap": 1e-9}.items():
            self.option(name, value)
        self.mixed = integers and bool(arrays.integer.any())
        must(
            self._solver.passModel(
                len(arrays.cost), len(arrays.row_low), len(arrays.value), int(highspy.MatrixFormat.kColwise),
                int(highspy.ObjSense.kMinimize), arrays.offset, arrays.cost, arrays.low, arrays.high, arrays.row_low,
                arrays.row_high, arrays.starts, arrays.index, arrays.value,
                arrays.integer if self.mixed else np.zeros_like(arrays.integer),
            ),
            "model",
        )  # fmt: skip

    def option(self, name: str, value: Any) -> None:
        """Set an option. Raises SolveError when HiGHS doesn't know it or refuses the value."""
        must(self._solver.setOptionValue(name, value), f"option {name}={value!r}")

    def write(self, arrays: Arrays) -> None:
        """Take over the vectors of arrays with the very same matrix. Raises SolveError when refused."""
        must_be_numbers(arrays)
        old = self.arrays
        priced = _changed((old.cost, arrays.cost))
        must(self._solver.changeColsCost(len(priced), priced, arrays.cost[priced]), "costs")
        everywhere = np.arange(len(arrays.cost), dtype=np.int32)
        wide = everywhere if self._bounded else _changed((old.low, arrays.low), (old.high, arrays.high))
        self._bounded = False
        must(self._solver.changeColsBounds(len(wide), wide, arrays.low[wide], arrays.high[wide]), "column bounds")
        rows = _changed((old.row_low, arrays.row_low), (old.row_high, arrays.row_high))
        must(self._solver.changeRowsBounds(len(rows), rows, arrays.row_low[rows], arrays.row_high[rows]), "row bounds")
        must(self._solver.changeObjectiveOffset(arrays.offset), "offset")
        self.arrays = arrays

    def add_columns(self, more: Arrays, arrays: Arrays) -> None:
        """Add these columns behind those it has, each at its lower bound; `arrays` is the whole then."""
        must_be_numbers(more)
        must(
            self._solver.addCols(
                len(more.cost), more.cost, more.low, more.high, len(more.value), more.starts, more.index, more.value
            ),
            "columns",
        )
        self.arrays = arrays

    def bound(self, columns: Ints, low: Floats, high: Floats) -> None:
        """Change the bounds of some columns."""
        self._bounded = True
        must(self._solver.changeColsBounds(len(columns), columns.astype(np.int32), low, high), "column bounds")

    def start_from(self, column_codes: Ints, row_codes: Ints) -> None:
        """Take a basis over: 0 at the lower bound, 1 basic, 2 at the upper bound. It need not be a basis of this model;
        HiGHS mends what is missing. One that it refuses is left out: the run then starts from nothing."""
        basis = highspy.HighsBasis()
        basis.valid = True
        basis.alien = True
        basis.col_status = STATUS[column_codes].tolist()
        basis.row_status = STATUS[row_codes].tolist()
        self._solver.setBasis(basis)

    def start_at(self, point: Floats) -> None:
        """Give the search a point to start from; a feasible one is never left for a worse one."""
        start = highspy.HighsSolution()
        start.col_value = point.tolist()
        start.value_valid = True
        must(self._solver.setSolution(start), "starting point")

    def bound_found(self) -> float:
        """The bound that a mixed-integer solve has proven: no point of the model costs less."""
        return float(self._solver.getInfo().mip_dual_bound)

    def forget(self) -> None:
        """Forget basis and point: the next run starts from nothing."""
        self._solver.clearSolver()

    def run(self, time_limit_s: float) -> Answer:
        """Solve. Raises SolveError when there is no usable point within the time."""
        return self.answer(self.solve(time_limit_s))

    def run_unless(self, wanted: Callable[[], bool], time_limit_s: float) -> Answer | None:
        """Solve as a linear program, but give it up (None) within some iterations of `wanted` saying so. Raises
        SolveError when there is no optimum within the time."""
        self._solver.stop_when(wanted)
        before = self.clock_s()
        status = self._tried(before + max(1e-3, float(time_limit_s)))
        if status == INTERRUPTED:
            return None
        if status != OPTIMAL:
            raise self._failure(status, time_limit_s)
        return self.answer(self.clock_s() - before)

    def clock_s(self) -> float:
        """Seconds inside HiGHS over the life of this object."""
        return float(self._solver.getRunTime())

    def solve(self, time_limit_s: float) -> float:
        """Solve, and leave the answer unread; the seconds. Raises SolveError when there is no usable point within the
        time."""
        before = self.clock_s()
        status = self._tried(before + max(1e-3, float(time_limit_s)))
        incumbent = self.mixed and self._solver.getInfo().primal_solution_status == 2 and status == TIME_LIMIT
        if status != OPTIMAL and not incumbent:
            failure = self._failure(status, time_limit_s)
            failure.seconds = self.clock_s() - before
            raise failure
        return self.clock_s() - before

    def _tried(self, ends_s: float) -> Any:
        """Run until the object's clock is there, and how it ended. From some bases the simplex loses its way and says
        "Unknown": then once more from nothing. Prices that lie far apart can make what undoes the presolve lose it too
        ("Not Set"): then without a presolve. Or one method finds no step with duals so large ("Solve error"): then by
        the other one. All of them share the time: what is lost when it is over is out of time."""
        method = self._solver.getOptionValue("simplex_strategy")[1]
        self.option("time_limit", ends_s)
        self._solver.run()
        others = (("simplex_strategy", method), ("presolve", "off"), ("simplex_strategy", PRIMAL + DUAL - method))
        for name, value in others:
            if not self._lost():
                break
            if self.clock_s() >= ends_s:
                return TIME_LIMIT
            self.forget()
            with self._with(name, value):
                self._solver.run()
        return self._solver.getModelStatus()

    def _lost(self) -> bool:
        """Whether a linear program has neither an optimum nor a reason to have none."""
        return not self.mixed and self._solver.getModelStatus() not in SAID

    def attempt(self, most: int, time_limit_s: float) -> tuple[float, int | None]:
        """Solve by the dual simplex method at the very costs that are given, in so many iterations and so much time at
        most; the seconds and the iterations (None: it is not solved by then)."""
        with self._with("simplex_iteration_limit", most), self._with(UNDISTURBED, 0.0):
            seconds = self._timed(time_limit_s)
        solved = self._solver.getModelStatus() == OPTIMAL
        return seconds, int(self._solver.getInfo().simplex_iteration_count) if solved else None

    def priced(self, arrays: Arrays, seconds: float) -> Answer | None:
        """The point that the last solve ended at, with the duals of its basis at the costs of these arrays, whose
        matrix is the same: y with y B = the costs of the basic columns. None where HiGHS has no factors of its
        basis any more."""
        _, basic = self._solver.getBasicVariables()
        costs = np.where(basic >= 0, arrays.cost[np.maximum(basic, 0)], 0.0)
        status, duals = self._solver.getBasisTransposeSolve(costs)
        if status != highspy.HighsStatus.kOk:
            return None
        duals = np.array(duals, dtype=np.float64)
        point = _array(self._solver.getSolution().col_value)
        reduced: Floats = arrays.cost - duals @ arrays.matrix
        # No dot product: of so many numbers OpenBLAS makes it with threads that then wait for more at full speed.
        return Answer(point, duals, reduced, arrays.offset + float((arrays.cost * point).sum()), True, seconds)

    def finish(self, time_limit_s: float) -> float:
        """Go on from the point that it has by the primal simplex method; the seconds. Raises SolveError as `solve`."""
        with self._with("simplex_strategy", PRIMAL):
            return self.solve(time_limit_s)

    @contextmanager
    def _with(self, name: str, value: Any) -> Iterator[None]:
        """An option for a while."""
        _, before = self._solver.getOptionValue(name)
        self.option(name, value)
        try:
            yield
        finally:
            self.option(name, before)

    def _timed(self, time_limit_s: float) -> float:
        """Run once, for so long at most; the seconds."""
        before = self.clock_s()
        self.option("time_limit", before + max(1e-3, float(time_limit_s)))
        self._solver.run()
        return self.clock_s() - before

    def row_duals(self) -> Floats:
        """Duals of the rows alone, of the last solve."""
        return _array(self._solver.getSolution().row_dual)

    def answer(self, seconds: float) -> Answer:
        """What the last solve found; it took these seconds."""
        solution, info = self._solver.getSolution(), self._solver.getInfo()
        return Answer(
            _array(solution.col_value),
            _array(solution.row_dual),
            _array(solution.col_dual),
            float(info.objective_function_value),
            self._solver.getModelStatus() == OPTIMAL,
            seconds,
            int(info.simplex_iteration_count),
        )

    def basis(self, point: Floats) -> tuple[Ints, Ints]:
        """Codes of the basis of the last run, for columns and rows (see `start_from`); `point` is its point."""
        arrays = self.arrays
        _, basic = self._solver.getBasicVariables()
        columns = _nonbasic(point, arrays.low, arrays.high)
        rows = _nonbasic(arrays.matrix @ point, arrays.row_low, arrays.row_high)
        columns[basic[basic >= 0]] = 1
        rows[-1 - basic[basic < 0]] = 1
        return columns, rows

    def _failure(self, status: Any, time_limit_s: float) -> SolveError:
        """The typed error for a model status."""
        if status == TIME_LIMIT:
            return SolveError(SolveFault.TIMEOUT, f"no usable plan within {time_limit_s:g} s")
        text = f"HiGHS says: {self._solver.modelStatusToString(status)}"
        return SolveError(SolveFault.INFEASIBLE if status in BAD else SolveFault.FAILED, text)


STATUS = np.array(
    [highspy.HighsBasisStatus.kLower, highspy.HighsBasisStatus.kBasic, highspy.HighsBasisStatus.kUpper], dtype=object
)


def _array(numbers: list[float]) -> Floats:
    """HiGHS hands its vectors out as lists: this is the fastest way back."""
    return np.fromiter(numbers, np.float64, len(numbers))


def _nonbasic(values: Floats, low: Floats, high: Floats) -> Ints:
    """0 at the lower bound, 2 at the upper."""
    return np.where(np.abs(values - high) < np.abs(values - low), 2, 0)


class _Silent(highspy.Highs):  # type: ignore[misc]
    """HiGHS without its banner, which the class prints to stdout when it makes its callbacks: none are used here."""

    def __init__(self) -> None:
        super(highspy.Highs, self).__init__()
        must(self.setOptionValue("output_flag", False), "option output_flag")

    def stop_when(self, wanted: Callable[[], bool]) -> None:
        """Ask in every so many simplex iterations whether to stop."""
        turns = count()

        def asked(_kind: int, _message: str, _told: Any, answer: Any, _data: object) -> None:
            if next(turns) % ASK_EVERY == 0 and wanted():
                answer.user_interrupt = True

        kind = highspy.cb.HighsCallbackType.kCallbackSimplexInterrupt
        must(super(highspy.Highs, self).setCallback(asked, None), "callback")
        must(self.startCallback(kind), "callback")


def must_be_numbers(arrays: Arrays) -> None:
    """Raise SolveError for a model with something that is no number, and name its place: HiGHS takes it without a word,
    and may then never come back."""
    for what, values, families in (
        ("cost", arrays.cost, arrays.families), ("lower bound", arrays.low, arrays.families),
        ("upper bound", arrays.high, arrays.families), ("lower side", arrays.row_low, arrays.row_families),
        ("upper side", arrays.row_high, arrays.row_families), ("coefficient", arrays.value, {}),
    ):  # fmt: skip
        bad = ~np.isfinite(values) if what in {"cost", "coefficient"} else np.isnan(values)
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            names = [name for name, part in families.items() if part.start <= first < part.start + len(part)]
            raise SolveError(SolveFault.FAILED, f"the model's {what} {'/'.join(names) or first} is no number")
    if not np.isfinite(arrays.offset):
        raise SolveError(SolveFault.FAILED, "the model's constant is no number")


def _changed(*pairs: tuple[Floats, Floats]) -> NDArray[np.int32]:
    """Places at which any pair of vectors differs: of tens of thousands, an interval's news changes hundreds."""
    differs = np.any([old != new for old, new in pairs], axis=0)
    return np.flatnonzero(differs).astype(np.int32)


def must(status: Any, what: str) -> None:
    """Raise SolveError when HiGHS refused something (it says so by status alone)."""
    if status == highspy.HighsStatus.kError:
        raise SolveError(SolveFault.FAILED, f"HiGHS refused the {what}")


def solve_arrays(arrays: Arrays, time_limit_s: float, gap: float = GAP) -> Answer:
    """Solve arrays from nothing; with integers, to this relative gap, duals come from a second solve with those
    fixed."""
    solver = Highs(arrays)
    solver.option("mip_rel_gap", gap)
    answer = solver.run(time_limit_s)
    return fixed_answer(arrays, answer, time_limit_s) if solver.mixed else _inside(arrays, answer)


def fixed_answer(arrays: Arrays, mixed: Answer, time_limit_s: float) -> Answer:
    """The linear program with the integers of an answer fixed: its point and its duals."""
    whole = np.flatnonzero(arrays.integer > 0)
    solver = Highs(arrays, integers=False)
    values = np.round(mixed.point[whole])
    solver.bound(whole, values, values)
    answer = solver.run(max(1.0, time_limit_s))
    seconds = mixed.seconds + answer.seconds
    inside = _inside(arrays, answer)
    return Answer(
        inside.point, answer.duals, answer.reduced, answer.objective, mixed.optimal, seconds, answer.iterations
    )


def _inside(arrays: Arrays, answer: Answer) -> Answer:
    """The answer with its point clipped into the bounds: the solver keeps them to a tolerance."""
    np.clip(answer.point, arrays.low, arrays.high, out=answer.point)
    return answer
