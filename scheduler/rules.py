"""A rule of thumb in the planner's place: for a site that wants nothing more, and for rivals in a backtest.

Why under the same ladder: a rule's plan is checked like the optimum's, and where it fails the next rung answers. No
child process is needed, because a rule is a few arrays long.
"""

from __future__ import annotations

from datetime import timedelta

from optimizer.domain import Plan, Problem
from optimizer.ladder import answer
from optimizer.rivals import RIVALS
from scheduler.engine import Planner
from scheduler.planner import InlinePlanner

OPTIMUM = "optimum"


class RulePlanner:
    """`Planner` over one of optimizer.rivals.RIVALS; KeyError for an unknown name."""

    def __init__(self, name: str) -> None:
        self._rule = RIVALS[name]

    def plan(self, problem: Problem, last_plan: Plan | None = None) -> Plan:
        """The rule's plan, by the ladder."""
        return answer(problem, last_plan, lambda asked: self._rule(asked, last_plan))

    def close(self) -> None:
        """Nothing is kept running."""


def inline_planner(name: str, time_limit: timedelta) -> Planner:
    """The planner of that name in this process."""
    return InlinePlanner(time_limit.total_seconds()) if name == OPTIMUM else RulePlanner(name)
