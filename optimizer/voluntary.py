"""What taking part in a voluntary event is worth: the plan with it against the plan without it.

Why by solving again: an event that pays 120 may cost 45 in tokens that are not made and work that moves into dearer
hours. Only the other answer, with everything else free to follow, says so; warm it takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from optimizer.answers import EventPlan
from optimizer.domain import GridEvent
from optimizer.facts import LEAST_GAIN, Facts, Floats
from optimizer.faults import SolveError, SolveFault
from optimizer.highs import Answer
from optimizer.model.arrays import Arrays

TOL_KW = 1e-3


def answers_of(facts: Facts, arrays: Arrays, answer: Answer, solve: Callable[[Arrays], Answer]) -> dict[str, EventPlan]:
    """The answer to every voluntary event that waits for one, by id. `arrays` have every whole column fixed."""
    take = arrays.families["take"]
    chosen = arrays.of("take", answer.point)
    found = {}
    for place, (number, share) in enumerate(zip(take.keys[0].tolist(), chosen.tolist(), strict=True)):
        event, taken = facts.problem.events[number], share > 0.5
        try:
            other = solve(turned(arrays, take.start + place, 0.0 if taken else 1.0))
        except SolveError as error:  # no time left: the answer stands, its worth is not known
            firm = error.kind is SolveFault.INFEASIBLE and not taken
            found[event.id] = _out_of_reach(facts, event, number) if firm else EventPlan(taken)
            continue
        inside = answer if taken else other
        over = _over_kw(arrays, inside, number)
        pays = _pays(facts, event, number, over)
        gain = (other.objective - answer.objective) * (1.0 if taken else -1.0) + LEAST_GAIN
        short_kw = float(over.max(initial=0.0))
        found[event.id] = EventPlan(taken, pays, pays - gain, short_kw if short_kw > TOL_KW else 0.0)
    return found


def _out_of_reach(facts: Facts, event: GridEvent, number: int) -> EventPlan:
    """A firm event that can't be kept throughout."""
    site = facts.site_index[event.site]
    least_kw = facts.least_import_kw[site] - facts.supply.most_output_kw[site]
    short_kw = float((least_kw - np.maximum(0.0, facts.event_kw[number])).max())
    return EventPlan(False, _pays(facts, event, number, np.zeros(0)), None, short_kw if short_kw > TOL_KW else 0.0)


def turned(arrays: Arrays, column: int, value: float) -> Arrays:
    """Arrays with one answer given the other way."""
    low, high = arrays.low.copy(), arrays.high.copy()
    low[column] = high[column] = value
    return replace(arrays, low=low, high=high)


def _over_kw(arrays: Arrays, answer: Answer, event: int) -> Floats:
    """Import above an event's cap [interval of the grid]."""
    over = arrays.families["over_event"]
    values = np.zeros(int(over.keys[1].max(initial=0)) + 1)
    mine = over.keys[0] == event
    values[over.keys[1][mine]] = arrays.of("over_event", answer.point)[mine]
    return values


def _pays(facts: Facts, event: GridEvent, number: int, over_kw: Floats) -> float:
    """Its credit for what is promised, less credit and penalty for what is above the cap."""
    missed = float(over_kw @ facts.hours[: len(over_kw)])
    return event.credit_per_kwh * float(facts.promised_kwh[number]) - missed * (
        event.credit_per_kwh + event.penalty_per_kwh
    )
