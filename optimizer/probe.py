"""At which price of the present interval a waiting job really starts: looked up by solving again, warm, at a few.

Why not from the duals alone: they say above which price a job surely waits. Below it several jobs may want the same
GPUs, and a cap that moves costs something too; who is first is a question for the solver. A probe changes one cost in a
model that is solved already, so it takes a few iterations.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from optimizer.answers import StartPrice
from optimizer.facts import Facts, Floats
from optimizer.faults import SolveError
from optimizer.highs import Answer, Highs
from optimizer.model.arrays import Arrays
from optimizer.model.parts import Ints
from optimizer.quotes import prices_of
from optimizer.starts import TOL, cost_now, prices_now, rates_now, starts_of

NUDGE = 1e-4
"""How far below a price, relative to it, the first probe looks; after one that started nothing the next looks WIDER."""

WIDER = 4.0


@dataclass(frozen=True)
class Budget:
    """At most so many probes, and seconds inside the solver, for one plan."""

    probes: int = 8
    seconds: float = 0.25


Basis = tuple[Ints, Ints]
"""Codes of columns and rows, see `Highs.start_from`."""

NO_PROBES = Budget(0, 0.0)


def probed(
    facts: Facts, confined: Arrays, homes: Ints, starts: dict[int, StartPrice], basis: Basis | None, budget: Budget
) -> dict[int, StartPrice]:
    """The start prices, with `at_per_mwh` where a probe saw the job start. `confined`: the arrays with every job in its
    pool and whole numbers fixed; `basis`: of their optimum, where it is known. What the budget doesn't reach stays
    unknown."""
    left, found = budget, dict(starts)
    sites = {facts.pools[facts.table.pair_pool[homes[job]]].site for job in starts}
    for site in sorted(sites):
        mine = {
            job: start
            for job, start in starts.items()
            if start.never_above_per_mwh is not None and facts.pools[facts.table.pair_pool[homes[job]]].site == site
        }
        if mine and left.probes > 0:
            left = _sweep(_Probe(facts, confined, homes, basis), site, mine, left)
            found.update(mine)
    return found


class _Probe:
    """The solved model, to be asked at other prices of the first interval."""

    def __init__(self, facts: Facts, arrays: Arrays, homes: Ints, basis: Basis | None) -> None:
        self.facts, self.arrays, self.homes = facts, arrays, homes
        self._solver = Highs(arrays, integers=False)
        if basis is not None:
            self._solver.start_from(*basis)

    def at(self, price: Floats, time_limit_s: float) -> tuple[Answer, Floats, dict[int, StartPrice]]:
        """Answer, rate of every job in the first interval, and start prices of those that still wait, at `price`
        [site]."""
        facts, arrays = self.facts, self.arrays
        bought = arrays.families["import"]
        now = np.flatnonzero(bought.keys[1] == 0)
        cost = arrays.cost.copy()
        cost[bought.start + now] = (cost_now(facts, price) * facts.hours[0])[bought.keys[0][now]]
        self._solver.write(replace(arrays, cost=cost))
        answer = self._solver.run(time_limit_s)
        prices = prices_of(facts, arrays, answer, self.homes)
        return answer, rates_now(facts, arrays, answer), starts_of(facts, arrays, answer, self.homes, prices, price)


def _sweep(probe: _Probe, site: int, mine: dict[int, StartPrice], left: Budget) -> Budget:
    """Lower one site's price step by step, each time to where the next waiting job might start; where there are more
    jobs than probes, some are passed over. Changes `mine`; returns what is left of the budget."""
    facts = probe.facts
    price = prices_now(facts)
    waiting, nudge = {job: start.never_above_per_mwh for job, start in mine.items()}, NUDGE
    while left.probes > 0 and left.seconds > 0:
        bounds = sorted((bound for bound in waiting.values() if bound is not None), reverse=True)
        if not bounds:
            break
        bound = bounds[len(bounds) // (left.probes + 1)]
        price[site] = min(bound, price[site]) - nudge * (1.0 + abs(bound))
        try:
            answer, rate, again = probe.at(price, left.seconds)
        except SolveError:
            return NO_PROBES
        left = Budget(left.probes - 1, left.seconds - answer.seconds)
        begun = [job for job in waiting if rate[job] > TOL * (1.0 + facts.table.rate[job])]
        nudge = NUDGE if begun else nudge * WIDER
        for job in begun:
            mine[job] = replace(mine[job], at_per_mwh=float(price[site]))
            del waiting[job]
        waiting = {job: again[job].never_above_per_mwh for job in waiting if job in again}
    return left


def confined(facts: Facts, arrays: Arrays, answer: Answer, homes: Ints) -> Arrays:
    """The arrays with every job in its pool and every whole number as it is."""
    low, high = arrays.low.copy(), arrays.high.copy()
    for family in ("x", "late"):
        columns = arrays.families[family]
        j, g, _ = columns.keys
        away = (homes[j] < 0) | (facts.table.pair_pool[np.maximum(homes[j], 0)] != g)
        high[columns.start + columns.all[away]] = 0.0
    whole = np.flatnonzero(arrays.integer > 0)
    low[whole] = high[whole] = np.round(answer.point[whole])
    return replace(arrays, low=low, high=high)
