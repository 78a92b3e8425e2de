"""No battery charges and discharges in one interval, without a binary in the model.

Why at all: with a positive value of energy the linear model never does both, since it would lose by it. At a negative
value it could burn energy in the losses and be paid. Why not a binary: one for each battery and interval would make
every plan a whole-number problem for the sake of a few hours a year. Instead the answer is looked at; only where it
does both, the model is solved again with the one direction forbidden and then with the other: branch and bound on those
intervals alone, each step a change of bounds that starts warm. That proves a few such intervals in milliseconds. Where
they are many, a mixed-integer solve takes over, with a binary for each battery and interval after all and the best plan
so far as its start; what it has not proven when its time is up is the best plan found, and said to be.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count

import numpy as np
from scipy import sparse

from optimizer.facts import Floats
from optimizer.faults import SolveError
from optimizer.highs import Answer, Highs
from optimizer.model.arrays import Arrays
from optimizer.model.parts import Ints
from optimizer.search import searched

Solve = Callable[[Arrays], Answer]
MOST_SOLVES = 40
TOL_KW = 1e-6
GAP = 1e-6


@dataclass(frozen=True, eq=False)
class OneWay:
    """An answer with no battery that does both at once, and a bound that no such answer goes below."""

    answer: Answer
    bound: float

    @property
    def gap(self) -> float:
        """How far it may be from the best, relative to the objective."""
        return max(0.0, self.answer.objective - self.bound) / (1.0 + abs(self.answer.objective))


def both_kw(arrays: Arrays, answer: Answer) -> Floats:
    """The lesser of charge and discharge in kW of every battery and interval: above 0 where an answer does both."""
    least: Floats = np.minimum(arrays.of("charge", answer.point), arrays.of("discharge", answer.point))
    return least


def goes_both_ways(arrays: Arrays, answer: Answer) -> bool:
    """Whether an answer charges and discharges a battery at once."""
    return bool(len(arrays.families["charge"])) and float(both_kw(arrays, answer).max()) > TOL_KW


def one_way(arrays: Arrays, answer: Answer, solve: Solve, search_s: float) -> OneWay:
    """The best answer that never does both at once; `answer` itself where it does not. `search_s`: seconds that a
    mixed-integer search may take. Raises SolveError only when not even the first dive is answered."""
    if not goes_both_ways(arrays, answer):
        return OneWay(answer, answer.objective)
    found = _branched(arrays, answer, solve)
    if found.answer.optimal or search_s < 0.01:
        return found
    return _searched(arrays, found, solve, search_s)


def _branched(arrays: Arrays, answer: Answer, solve: Solve) -> OneWay:
    """By branch and bound, with so many solves at most."""
    best = _dive(arrays, answer, solve)
    order = count()
    waiting = [(answer.objective, next(order), arrays.high, answer)]
    seconds, solves = best.seconds, 0
    while waiting:
        bound, _, high, at = heapq.heappop(waiting)
        if bound >= best.objective - GAP * (1.0 + abs(best.objective)):
            return OneWay(replace(best, seconds=seconds), bound)
        conflict = both_kw(arrays, at)
        if conflict.max() <= TOL_KW:
            best = at
            continue
        if solves >= MOST_SOLVES:
            return OneWay(replace(best, seconds=seconds, optimal=False), bound)
        for family in ("charge", "discharge"):
            tried = replace(arrays, high=_without(arrays, high, family, int(np.argmax(conflict))))
            try:
                child = solve(tried)
            except SolveError:
                return OneWay(replace(best, seconds=seconds, optimal=False), bound)
            solves, seconds = solves + 1, seconds + child.seconds
            heapq.heappush(waiting, (child.objective, next(order), tried.high, child))
    return OneWay(replace(best, seconds=seconds), best.objective)


def _searched(arrays: Arrays, found: OneWay, solve: Solve, search_s: float) -> OneWay:
    """By a mixed-integer solve from the best answer so far; its directions are then solved for once more, for duals."""
    best = found.answer
    solver = Highs(_with_directions(arrays))
    solver.option("mip_rel_gap", GAP)
    start = np.append(best.point, _charges(arrays, best.point))
    try:
        mixed, bound = searched(solver, start, search_s, GAP * (1.0 + abs(best.objective)))
        spent, bound = best.seconds + mixed.seconds, max(found.bound, bound)
        again = solve(replace(arrays, high=_directed(arrays, mixed.point[: len(arrays.cost)])))
    except SolveError:
        return found
    better = again if again.objective < best.objective else best
    proven = better.objective <= bound + 2 * GAP * (1.0 + abs(better.objective))
    return OneWay(replace(better, seconds=spent + again.seconds, optimal=proven), bound)


def _with_directions(arrays: Arrays) -> Arrays:
    """The arrays with a binary for each battery and interval, behind their columns: 1 where it may charge, 0 where it
    may discharge. charge <= most * binary; discharge <= most * (1 - binary)."""
    first, other = arrays.families["charge"], arrays.families["discharge"]
    number, columns, rows = len(first), len(arrays.cost), len(arrays.row_low)
    most = [np.maximum(0.0, arrays.of(name, arrays.high)) for name in ("charge", "discharge")]
    here = np.arange(number)
    at = np.concatenate([rows + here, rows + here, rows + number + here, rows + number + here])
    of = np.concatenate([first.start + here, columns + here, other.start + here, columns + here])
    value = np.concatenate([np.ones(number), -most[0], np.ones(number), most[1]])
    more = sparse.csc_matrix((value, (at, of)), shape=(rows + 2 * number, columns + number))
    whole = arrays.matrix.copy()
    whole.resize(more.shape)
    matrix = (whole + more).tocsc()
    matrix.sort_indices()
    free = np.full(2 * number, -np.inf)
    return replace(
        arrays,
        cost=np.append(arrays.cost, np.zeros(number)),
        low=np.append(arrays.low, np.zeros(number)),
        high=np.append(arrays.high, np.ones(number)),
        row_low=np.append(arrays.row_low, free),
        row_high=np.concatenate([arrays.row_high, np.zeros(number), most[1]]),
        starts=matrix.indptr.astype(np.int32),
        index=matrix.indices.astype(np.int32),
        value=matrix.data,
        integer=np.append(np.zeros(columns, dtype=np.int32), np.ones(number, dtype=np.int32)),
        terms=None,
    )


def _charges(arrays: Arrays, point: Floats) -> Floats:
    """1 where a point charges more than it discharges, else 0 [battery and interval]."""
    charges: Floats = (arrays.of("charge", point) > arrays.of("discharge", point)).astype(np.float64)
    return charges


def _directed(arrays: Arrays, point: Floats) -> Floats:
    """Upper bounds with the lesser direction of a point shut everywhere."""
    shut, charges = arrays.high.copy(), _charges(arrays, point) > 0
    for family, closed in (("charge", ~charges), ("discharge", charges)):
        columns: Ints = arrays.families[family].start + np.flatnonzero(closed)
        shut[columns] = np.maximum(arrays.low[columns], 0.0)
    return shut


def _dive(arrays: Arrays, answer: Answer, solve: Solve) -> Answer:
    """Forbid the lesser direction wherever both are used, until none is: a plan to compare the others with."""
    tried, seconds = arrays, answer.seconds
    while (conflict := both_kw(arrays, answer)).max() > TOL_KW:
        charging = arrays.of("charge", answer.point) >= arrays.of("discharge", answer.point)
        high = tried.high
        for number in np.flatnonzero(conflict > TOL_KW).tolist():
            high = _without(arrays, high, "discharge" if charging[number] else "charge", number)
        tried = replace(arrays, high=high)
        answer = solve(tried)
        seconds += answer.seconds
    return replace(answer, seconds=seconds)


def _without(arrays: Arrays, high: Floats, family: str, number: int) -> Floats:
    """Upper bounds with one column of a family shut."""
    shut = high.copy()
    shut[arrays.families[family].start + number] = 0.0
    return shut
