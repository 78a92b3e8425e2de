"""Whole numbers, found by rounding a linear program that is warm, and improved by a mixed-integer solve while time is
left.

Why not the mixed-integer solver alone: with a whole decision for every job and interval it has found nothing worth
obeying after a minute, while rounding the relaxed optimum one step at a time is within a few percent of the bound in
about a second. The rounded plan is then handed to it as its start, so that whatever it answers is never worse. Where
whole columns are many, it searches only among those that rounding had to move.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from optimizer.facts import Floats
from optimizer.faults import SolveError, SolveFault
from optimizer.highs import GAP, Answer, Highs
from optimizer.model.arrays import Arrays
from optimizer.model.parts import Ints
from optimizer.reasons import Note, Reason, Severity
from optimizer.search import searched

WHOLE = 1e-6
"""How far from a whole number a value may be and still be one."""

FEW = 3
"""Up to so many decisions of yes or no are all tried."""

MOST_SEARCHED = 2000
"""Up to so many whole columns the search covers all of them; above it, only those that rounding had to move."""

LAST_S = 0.1
"""Seconds that the linear program after the search may take where no more are left; it takes milliseconds."""

Run = Callable[[Arrays, float], Answer]
"""Solves arrays of one matrix as a linear program, warm, within some seconds."""


PENALTIES = (
    "over_limit",
    "over_event",
    "over_ramp",
    "short",
    "undone",
    "given_up",
    "late",
    "missed",
    "skipped",
    "start",
    "cut",
)
"""Families whose money is a price of what gives, or has such prices in it."""

RESOLVED = 1e-9
"""Relative to the whole objective: finer than that, it is rounding."""


def at_stake(arrays: Arrays, answer: Answer) -> float:
    """Money that an answer moves: without the value of all work (the objective's constant) and the prices of what
    gives.

    Why: measured against an event that nothing can meet, at thousands a kilowatt, a thousandth of a percent is more
    than a day's energy.
    """
    money = np.abs(arrays.cost * answer.point)
    for family in PENALTIES:
        arrays.of(family, money)[:] = 0.0
    return float(money.sum())


def tolerance(arrays: Arrays, answer: Answer) -> float:
    """Money by which an answer may be off the optimum and still be called it."""
    return max(GAP * (1.0 + at_stake(arrays, answer)), RESOLVED * abs(answer.objective))


@dataclass(frozen=True, eq=False)
class Whole:
    """Arrays with every whole column fixed, the optimum of what remains (its duals are those of the plan), a bound that
    no plan of the model goes below, and the money by which the two may differ."""

    arrays: Arrays
    answer: Answer
    bound: float
    tolerance: float
    search_s: float = 0.0
    """Seconds of the search alone."""

    @property
    def proven(self) -> bool:
        """Whether the answer is the optimum, to the gap at which a search may stop."""
        return self.answer.objective <= self.bound + self.tolerance

    @property
    def gap(self) -> float:
        """How far the answer may be from the optimum, relative to the money that is moved."""
        return GAP * max(0.0, self.answer.objective - self.bound) / self.tolerance


def whole_numbers(arrays: Arrays, relaxed: Answer, run: Run, time_limit_s: float, improve_s: float) -> Whole:
    """The best point with whole numbers that rounding and a search of at most `improve_s` find.

    `relaxed` is the optimum of `arrays` as a linear program. Raises SolveError when not even rounding ends in time.
    """
    few = _each_way(arrays, run, time_limit_s)
    if few is not None:
        return few
    best = rounded(arrays, relaxed, run, time_limit_s)
    found = Whole(_fixed(arrays, best), best, relaxed.objective, tolerance(arrays, relaxed))
    left_s = time_limit_s - best.seconds
    search_s = min(improve_s, left_s)
    return found if found.proven or search_s < 0.01 else _improved(arrays, relaxed, found, run, (search_s, left_s))


def incumbent_note(gap: float) -> Note:
    """That a plan's whole numbers, or the ways of its batteries, may not be the best."""
    text = f"its whole numbers, or which way its batteries go, are not proven best: at most {gap:.2%} from the best"
    return Note(Reason.SOLVER_INCUMBENT, "plan", text, Severity.INFO)


def _within(run: Run, seconds: float, arrays: Arrays) -> Answer:
    return run(arrays, seconds)


def _each_way(arrays: Arrays, run: Run, time_limit_s: float) -> Whole | None:
    """The optimum by trying every way, where whole decisions are few and yes or no; None where they are not.

    Why: warm, each way takes milliseconds, while a search proves a single decision with a weak relaxation in seconds.
    """
    loose = np.flatnonzero((arrays.integer > 0) & (arrays.high > arrays.low))
    if not 0 < len(loose) <= FEW or np.any(arrays.high[loose] - arrays.low[loose] != 1.0):
        return None
    best: tuple[Arrays, Answer] | None = None
    spent = 0.0
    for way in range(2 ** len(loose)):
        low, high = arrays.low.copy(), arrays.high.copy()
        low[loose] = high[loose] = arrays.low[loose] + (way >> np.arange(len(loose)) & 1)
        if spent >= time_limit_s:
            raise SolveError(SolveFault.TIMEOUT, "no time to try every whole number")
        left_s = time_limit_s - spent
        made = _tried(replace(arrays, low=low, high=high), partial(_within, run, left_s))
        spent += made[1].seconds if made is not None else 0.0
        if made is not None and (best is None or made[1].objective < best[1].objective):
            best = made
    if best is None:
        raise SolveError(SolveFault.INFEASIBLE, "no way to decide leaves a plan")
    return Whole(best[0], replace(best[1], seconds=spent), best[1].objective, tolerance(arrays, best[1]))


# ---------------------------------------------------------------- rounding
@dataclass(frozen=True, eq=False)
class _Step:
    """A step of rounding: the arrays and the answer after it, and the columns that it fixed up (none: one was rounded
    down)."""

    arrays: Arrays
    answer: Answer
    up: Ints


def rounded(arrays: Arrays, relaxed: Answer, run: Run, time_limit_s: float) -> Answer:
    """Round the relaxed optimum step by step: fix what is nearest to happening, solve again, until all is whole.

    What turns out impossible, or costs more than leaving it, is rounded down instead. Where neither is possible, what
    was fixed up before is taken back, the last first, and stays down from then on: so it ends. Raises SolveError
    (timeout; infeasible where not even nothing of all is possible).
    """
    whole, spent = np.flatnonzero(arrays.integer > 0), 0.0
    dearer = 10 * tolerance(arrays, relaxed)
    path, down = [_Step(arrays, relaxed, whole[:0])], np.full(len(arrays.cost), np.inf)

    def timed(made: Arrays) -> Answer:
        nonlocal spent
        if spent >= time_limit_s:
            raise SolveError(SolveFault.TIMEOUT, "no time to round the plan to whole numbers")
        found = run(made, time_limit_s - spent)
        spent += found.seconds
        return found

    while True:
        at = path[-1]
        loose = whole[_fraction(at.answer.point[whole]) > WHOLE]
        if len(loose):
            step = _step(at.arrays, at.answer, loose, whole, (timed, dearer))
            path = [*path, step] if step is not None else _taken_back(path, down, timed)
            continue
        last = _tried(_fixed(at.arrays, at.answer), timed)
        if last is not None:
            return replace(last[1], seconds=spent)
        path = _taken_back(path, down, timed)


def _taken_back(path: list[_Step], down: Floats, run: Callable[[Arrays], Answer]) -> list[_Step]:
    """The path without its last columns that were fixed up, which are down from now on (`down`: upper bounds of such
    columns, changed in place)."""
    while len(path) > 1:
        *path, last = path
        if not len(last.up):
            continue
        down[last.up] = last.arrays.low[last.up] - 1.0
        before = path[-1].arrays
        tried = _tried(replace(before, high=np.maximum(before.low, np.minimum(before.high, down))), run)
        if tried is not None:
            return [*path, _Step(*tried, last.up[:0])]
    arrays = path[0].arrays
    nothing = _tried(replace(arrays, high=np.where(arrays.integer > 0, arrays.low, arrays.high)), run)
    if nothing is None:
        raise SolveError(SolveFault.INFEASIBLE, "a whole number can be neither rounded up nor down")
    return [_Step(*nothing, path[0].up)]


def _step(
    arrays: Arrays, answer: Answer, loose: Ints, whole: Ints, how: tuple[Callable[[Arrays], Answer], float]
) -> _Step | None:
    """Fix some of the loose columns: the likely ones together, else the likeliest alone, up or down; None where neither
    is possible. `how`: what solves, and what a step may cost before the other way is looked at too."""
    run, most = how[0], answer.objective + how[1]
    value = answer.point[loose] - np.floor(answer.point[loose])
    order = np.argsort(-value, kind="stable")
    likely = loose[order[: max(1, len(order) // 4)]]
    likely = likely[answer.point[likely] - np.floor(answer.point[likely]) >= 0.5]
    kept = whole[(answer.point[whole] > 0.5) & (_fraction(answer.point[whole]) <= WHOLE)]
    if len(likely) > 1:
        tried = _tried(_bounded(arrays, answer, likely, kept, up=True), run)
        if tried is not None and tried[1].objective <= most:
            return _Step(*tried, likely)
    first = loose[order[:1]]
    up = _tried(_bounded(arrays, answer, first, kept, up=True), run)
    if up is not None and up[1].objective <= most:
        return _Step(*up, first)
    down = _tried(_bounded(arrays, answer, first, kept[:0], up=False), run)
    if up is None or (down is not None and down[1].objective < up[1].objective):
        return _Step(*down, first[:0]) if down is not None else None
    return _Step(*up, first)


def _bounded(arrays: Arrays, answer: Answer, columns: Ints, kept: Ints, *, up: bool) -> Arrays:
    """Arrays with columns fixed up, or kept from going above their whole part; `kept` stay where they are."""
    low, high = arrays.low.copy(), arrays.high.copy()
    low[kept] = high[kept] = np.round(answer.point[kept])
    if up:
        low[columns] = high[columns] = np.ceil(answer.point[columns])
    else:
        high[columns] = np.floor(answer.point[columns])
    return replace(arrays, low=low, high=high)


def _tried(arrays: Arrays, run: Callable[[Arrays], Answer]) -> tuple[Arrays, Answer] | None:
    """Solve; None when it is impossible."""
    try:
        return arrays, run(arrays)
    except SolveError as error:
        if error.kind is not SolveFault.INFEASIBLE:
            raise
        return None


def _fixed(arrays: Arrays, answer: Answer) -> Arrays:
    """Arrays with every whole column fixed where the answer has it."""
    whole = np.flatnonzero(arrays.integer > 0)
    low, high = arrays.low.copy(), arrays.high.copy()
    low[whole] = high[whole] = np.round(answer.point[whole])
    return replace(arrays, low=low, high=high)


def _fraction(values: Floats) -> Floats:
    return np.abs(values - np.round(values))


# ---------------------------------------------------------------- the search
def _improved(arrays: Arrays, relaxed: Answer, found: Whole, run: Run, times: tuple[float, float]) -> Whole:
    """Search from the rounded plan on: over all whole columns where they are few, else over those that rounding moved
    away from the relaxed optimum. `times`: seconds for the search, and for it and all that comes after."""
    all_of_it = int(arrays.integer.sum()) <= MOST_SEARCHED
    asked = arrays if all_of_it else _agreed(arrays, relaxed, found.answer)
    solver = Highs(asked)
    solver.option("mip_rel_gap", RESOLVED)
    solver.option("mip_abs_gap", found.tolerance)
    search_s, before_s = times[0], found.answer.seconds
    try:
        mixed, bound = searched(solver, found.answer.point, search_s, found.tolerance)
        search_s = mixed.seconds
        bound = max(found.bound, bound) if all_of_it else found.bound
        fixed = _fixed(arrays, mixed)
        answer = run(fixed, max(LAST_S, times[1] - search_s))
    except SolveError:
        return replace(found, answer=replace(found.answer, seconds=before_s + search_s), search_s=search_s)
    spent = before_s + search_s + answer.seconds
    if answer.objective < found.answer.objective:
        return Whole(fixed, replace(answer, seconds=spent), bound, found.tolerance, search_s)
    return replace(found, bound=bound, answer=replace(found.answer, seconds=spent), search_s=search_s)


def _agreed(arrays: Arrays, relaxed: Answer, rounded_: Answer) -> Arrays:
    """Arrays with every whole column fixed whose relaxed value was whole and is still the same after rounding."""
    same = (arrays.integer > 0) & (np.abs(relaxed.point - rounded_.point) <= WHOLE)
    value = np.round(rounded_.point)
    return replace(arrays, low=np.where(same, value, arrays.low), high=np.where(same, value, arrays.high))
