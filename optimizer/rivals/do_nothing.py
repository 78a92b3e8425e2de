"""Do nothing about money: full power, jobs as soon as they come, no answer to voluntary events.

Hard limits and firm events are still obeyed, by one cap for all: whoever ignores those is not a rival but a breach of
contract. The backtest's `no_control` is the site that does not even do this.
"""

from __future__ import annotations

from optimizer.domain import Plan, Problem
from optimizer.rivals.uniform_cap import all_alike
from optimizer.rivals.walk import Policy, follow


def do_nothing(problem: Problem, _last: Plan | None = None) -> Plan:
    """Full power, jobs as soon as they come, under hard limits and firm events."""
    return follow(Policy("do_nothing", all_alike, voluntary=False), problem)
