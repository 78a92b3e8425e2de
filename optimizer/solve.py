"""Solves one problem from nothing: Pyomo, HiGHS, plan. A daemon keeps a `Session` instead."""

from __future__ import annotations

from optimizer.domain import Plan, Problem
from optimizer.faults import SolveError, SolveFault
from optimizer.highs import Answer, solve_arrays
from optimizer.session import Session

__all__ = ["Answer", "SolveError", "SolveFault", "solve_arrays", "solve_problem"]


def solve_problem(problem: Problem, *, time_limit_s: float = 10.0) -> Plan:
    """The best plan for a problem. The same problem gives the same plan.

    Raises ProblemError for a broken problem, SolveError when HiGHS gives no usable point in `time_limit_s`.
    """
    return Session().plan(problem, time_limit_s)
