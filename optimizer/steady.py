"""The optimum from the last basis, by costs at which that basis is the one optimum: what is as good as before stays.

Why: many plans cost the same (the price is one for a whole hour, and jobs may trade places), and against such ties
HiGHS disturbs all costs by chance before its dual simplex method begins. Each run then ends at another one of them:
from the last basis it makes ten times the steps that the news asks for, half of them sideways. Here the costs are
disturbed on purpose instead, a little in favour of where each rate is: the method neither stalls nor strays. What it
finds is priced at the true costs, and counts where its duals prove it the optimum (see `PROVEN`); else the primal
method goes on from there at the true costs, to the last step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from optimizer.facts import Floats
from optimizer.highs import Answer, Highs
from optimizer.model.arrays import Arrays, same_matrix
from optimizer.model.parts import Ints

STEADIED = ("x", "late")
"""Families whose costs are disturbed: rates of jobs."""

LEAST_COLUMNS = 6000
"""Programs with fewer such columns are solved at their own costs: it takes no time."""

STAY_PER_GPU_H = 1e-5
"""Money per GPU-hour in favour of a rate that stays at its bound, times 0.5 to 1.5: by chance, so that nothing ties. As
much as an hour's waiting costs (`facts.WAITING_PER_GPU_H_H`), and a hundredth of what a USD/MWh changes."""

PROVEN = 1e-6
"""Largest relative difference between what a point costs and what its duals prove that every point costs at least. The
point itself is better than the proof: on the reference problem a billionth from the optimum."""

NOISE = 1e-9
"""A reduced cost no larger is zero: money per unit of a column without a bound."""

STEPS_PER_ROW = 3
"""After so many iterations for each row it is no small step any more, or the method stalls."""

MOST_TIME = 0.5
"""Of the time there is, so much may go by until then: the other ways need the rest."""


@dataclass(frozen=True)
class Tried:
    """The solver as it was left, and seconds inside HiGHS; no answer: it took too many steps, or too much of the time.

    Its costs are the true ones only where the primal method had to go on at them: left as they were disturbed, nearly
    all of them stay as they are in the next interval too."""

    solver: Highs
    seconds: float
    answer: Answer | None = None


def worth_steadying(arrays: Arrays) -> bool:
    """Whether it is a large linear program of jobs' rates."""
    many = sum(len(arrays.families[name]) for name in _steadied(arrays))
    return many >= LEAST_COLUMNS and not arrays.integer.any()


def _steadied(arrays: Arrays) -> list[str]:
    """Those of these families that it has: where scenarios are weighed in one model, each has its own."""
    return [name for name in STEADIED if name in arrays.families]


def tried(arrays: Arrays, hours: Floats, codes: tuple[Ints, Ints], held: Highs | None, time_limit_s: float) -> Tried:
    """Solve arrays from a basis (see `Highs.start_from`), with `hours` of their intervals. `held`: a solver that has
    this very basis. Raises SolveError (TIMEOUT) where time runs out after its steps were few enough."""
    leaning = arrays.at_costs(arrays.cost + _leaning(arrays, hours, codes[0]))
    if held is not None and same_matrix(held.arrays, arrays):
        solver = held
        solver.write(leaning)
    else:
        solver = Highs(leaning, integers=False)
        solver.start_from(*codes)
    seconds, steps = solver.attempt(STEPS_PER_ROW * len(arrays.row_low), MOST_TIME * time_limit_s)
    if steps is None:
        return Tried(solver, seconds)
    answer = solver.priced(arrays, seconds)
    if answer is not None and proven(arrays, answer):
        answer = replace(answer, iterations=steps)
    else:
        solver.write(arrays)
        seconds += solver.finish(time_limit_s - seconds)
        answer = solver.answer(seconds)
        answer = replace(answer, iterations=answer.iterations + steps)
    return Tried(solver, seconds, answer)


def proven(arrays: Arrays, answer: Answer) -> bool:
    """Whether the duals of an answer prove its point the optimum."""
    gap = answer.objective - least(arrays, answer.duals, answer.reduced)
    return abs(gap) <= PROVEN * (1.0 + abs(answer.objective))


def _leaning(arrays: Arrays, hours: Floats, codes: Ints) -> Floats:
    """What is added to the costs: at the lower bound a rate costs more, at the upper one less; none is added to basic
    ones."""
    added, chance = np.zeros(len(arrays.cost)), np.random.default_rng(0)
    for name in _steadied(arrays):
        family = arrays.families[name]
        mine = slice(family.start, family.start + len(family))
        lean = STAY_PER_GPU_H * (0.5 + chance.random(len(family)))
        added[mine] = lean * (1.0 - codes[mine]) * hours[family.keys[2]]  # codes: 0 lower, 1 basic, 2 upper
    return added


def least(arrays: Arrays, duals: Floats, reduced: Floats | None = None) -> float:
    """What every point costs at least, by these duals of the rows: the bound of weak duality, minus infinity where they
    prove nothing. `reduced`: the costs less what the duals make of them, where that is known."""
    reduced = arrays.cost - duals @ arrays.matrix if reduced is None else reduced
    columns = _cheapest(reduced, arrays.low, arrays.high)
    return float(arrays.offset + columns.sum() + _cheapest(duals, arrays.row_low, arrays.row_high).sum())


def _cheapest(price: Floats, low: Floats, high: Floats) -> Floats:
    """Least of price * value over low <= value <= high."""
    at = np.where(price > 0, low, high)
    free = np.isinf(at)
    if not free.any():
        return price * at
    at[free] = 0.0
    worth = price * at
    worth[free & ~(np.abs(price) <= NOISE)] = -np.inf
    return worth
