"""Rules of thumb behind the planner's own port: what Gridpace is compared with, and what may run in its place.

Why they keep every promise: a rival that breaks a limit is cheap and proves nothing. All of them obey hard limits and
firm events, floors and runs without a break, pass the same checker and are priced by the same arithmetic; they differ
in what they do about money. None of them knows more than the problem that the optimum is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from optimizer.domain import Plan, Problem, Rung
from optimizer.fallback import greedy_plan
from optimizer.reasons import Reason
from optimizer.rivals.do_nothing import do_nothing
from optimizer.rivals.price_threshold import price_threshold
from optimizer.rivals.rule import cheapest_remaining
from optimizer.rivals.tiered import fair_tiered, greedy_tiered
from optimizer.rivals.uniform_cap import uniform_cap
from optimizer.rivals.walk import rule_note

Rule = Callable[[Problem, Plan | None], Plan]
"""A planner without a solver: a problem and the last plan (None: there is none) to a plan that the checker accepts."""


def greedy(problem: Problem, _last: Plan | None = None) -> Plan:
    """The rung of the ladder that answers without a solver: merit order, jobs in their cheapest hours."""
    made = greedy_plan(problem)
    others = tuple(note for note in made.notes if note.code is not Reason.GREEDY_PLAN)
    return replace(made, rung=Rung.RULE, notes=(rule_note("greedy"), *others))


RIVALS: Mapping[str, Rule] = {
    "do_nothing": do_nothing,
    "price_threshold": price_threshold,
    "cheapest_remaining": cheapest_remaining,
    "uniform_cap": uniform_cap,
    "fair_tiered": fair_tiered,
    "greedy_tiered": greedy_tiered,
    "greedy": greedy,
}
"""Every rule by its name, from the simplest on."""
