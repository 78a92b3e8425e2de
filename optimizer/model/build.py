"""Puts the model together: every family of constraints, then the objective.

Why in this order: jobs must exist before the pools can draw power for them, and the import before what limits it.
"""

from __future__ import annotations

import pyomo.environ as pyo
from pyomo.core.expr.numeric_expr import LinearExpression

from optimizer.domain import Problem
from optimizer.facts import Facts, facts_of
from optimizer.model.blocks import add_starts
from optimizer.model.change import add_changes
from optimizer.model.jobs import add_rates, add_work
from optimizer.model.parts import Build
from optimizer.model.pools import add_batch_work, add_breakable_floors, add_draw, add_value
from optimizer.model.site import add_demand_charges, add_events, add_import, add_limits, add_ramps
from optimizer.weights import job_weights, weights_of


def build_model(problem: Problem, facts: Facts | None = None) -> Build:
    """The model of a valid problem: minimise money over the horizon. Feasible for every valid problem: all that can be
    out of reach has a priced slack. `facts`: the problem's own, where a caller has relaxed them."""
    facts = facts_of(problem) if facts is None else facts
    weights = tuple(weights_of(facts, site) for site in range(len(problem.sites)))
    build = Build(pyo.ConcreteModel(), facts, weights, job_weights(facts))
    for add in (
        add_draw,
        add_value,
        add_breakable_floors,
        add_rates,
        add_work,
        add_starts,
        add_batch_work,
        add_import,
        add_limits,
        add_events,
        add_demand_charges,
        add_ramps,
        add_changes,
    ):
        add(build)
    terms = build.cost
    build.model.cost = pyo.Objective(
        expr=LinearExpression(
            constant=build.constant, linear_coefs=[t[0] for t in terms], linear_vars=[t[1] for t in terms]
        )
    )
    return build
