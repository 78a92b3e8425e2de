"""No battery charges and discharges in one interval, without a binary in the model.

Why at all: with a positive value of energy the linear model never does both, since it would lose by it. At a negative
value it could burn energy in the losses and be paid. Why not a binary: one for each battery and interval would make
every plan a whole-number problem for the sake of a few hours a year. Instead the answer is looked at; only where it
does both, the model is solved again with the one direction forbidden and then with the other: branch and bound on those
intervals alone, each step a change of bounds that starts warm. It ends with a proof, or after `MOST_SOLVES` with the
best plan found and the word that it is not proven.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import replace
from itertools import count

import numpy as np

from optimizer.facts import Floats
from optimizer.faults import SolveError
from optimizer.highs import Answer
from optimizer.model.arrays import Arrays

Solve = Callable[[Arrays], Answer]
MOST_SOLVES = 200
TOL_KW = 1e-6
GAP = 1e-6


def both_kw(arrays: Arrays, answer: Answer) -> Floats:
    """The lesser of charge and discharge in kW of every battery and interval: above 0 where an answer does both."""
    least: Floats = np.minimum(arrays.of("charge", answer.point), arrays.of("discharge", answer.point))
    return least


def goes_both_ways(arrays: Arrays, answer: Answer) -> bool:
    """Whether an answer charges and discharges a battery at once."""
    return bool(len(arrays.families["charge"])) and float(both_kw(arrays, answer).max()) > TOL_KW


def one_way(arrays: Arrays, answer: Answer, solve: Solve) -> Answer:
    """The best answer that never does both at once; `answer` itself where it does not. Raises SolveError only when not
    even the first dive is answered."""
    if not goes_both_ways(arrays, answer):
        return answer
    best = _dive(arrays, answer, solve)
    order = count()
    waiting = [(answer.objective, next(order), arrays.high, answer)]
    seconds, solves = best.seconds, 0
    while waiting:
        bound, _, high, at = heapq.heappop(waiting)
        if bound >= best.objective - GAP * (1.0 + abs(best.objective)):
            return replace(best, seconds=seconds)
        conflict = both_kw(arrays, at)
        if conflict.max() <= TOL_KW:
            best = at
            continue
        if solves >= MOST_SOLVES:
            break
        for family in ("charge", "discharge"):
            tried = replace(arrays, high=_without(arrays, high, family, int(np.argmax(conflict))))
            try:
                child = solve(tried)
            except SolveError:
                return replace(best, seconds=seconds, optimal=False)
            solves, seconds = solves + 1, seconds + child.seconds
            heapq.heappush(waiting, (child.objective, next(order), tried.high, child))
    return replace(best, seconds=seconds, optimal=best.optimal and not waiting)


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
