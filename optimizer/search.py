"""A mixed-integer search that goes on from a plan which is known, and is not stopped by what HiGHS takes it for.

Why not HiGHS alone: its presolve moves columns whose cost others cancel, and then counts the start that it was given at
less than it costs. All that lies between the two is thrown away as no better, the start comes back as the optimum, and
the bound is below every plan. So what it says is compared with what its point costs.
"""

from __future__ import annotations

from dataclasses import replace

from optimizer.facts import Floats
from optimizer.faults import SolveError
from optimizer.highs import Answer, Highs

LEAST_S = 0.01
"""Seconds in which no search finds anything."""


def searched(solver: Highs, start: Floats, seconds: float, money: float) -> tuple[Answer, float]:
    """The best point that a search of at most `seconds` finds from a start on, and a bound that no point of the model
    costs less than; its objective is what it costs.

    Where HiGHS says by more than `money` less than that, the rest of the time is a search without a start. Raises
    SolveError where there is no point.
    """
    solver.start_at(start)
    said = solver.run(seconds)
    found, bound = _costed(solver, said), solver.bound_found()
    left_s = seconds - found.seconds
    if found.objective <= said.objective + money or left_s < LEAST_S:
        return found, bound
    solver.forget()
    try:
        again = _costed(solver, solver.run(left_s))
    except SolveError:  # what is known is a point all the same
        return replace(found, optimal=False, seconds=seconds), bound
    best = again if again.objective < found.objective else found
    spent = found.seconds + again.seconds
    return replace(best, optimal=again.optimal, seconds=spent), max(bound, solver.bound_found())


def _costed(solver: Highs, answer: Answer) -> Answer:
    """The answer with what its point costs in place of what HiGHS says that it does."""
    arrays = solver.arrays
    return replace(answer, objective=arrays.offset + float((arrays.cost * answer.point).sum()))
