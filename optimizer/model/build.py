"""Puts the model together: every family of constraints, in the order in which they need each other.

Why in this order: jobs must exist before the pools can draw power for them, and the import before what limits it.
"""

from __future__ import annotations

import numpy as np

from optimizer.domain import Problem
from optimizer.facts import Facts, facts_of
from optimizer.model.blocks import add_starts
from optimizer.model.change import add_changes
from optimizer.model.jobs import add_rates, add_work
from optimizer.model.order import add_order
from optimizer.model.parking import add_parking
from optimizer.model.participation import add_participation
from optimizer.model.parts import Flags, Model
from optimizer.model.pauses import add_giving_way, add_pauses
from optimizer.model.pools import add_batch_work, add_breakable_floors, add_draw
from optimizer.model.reserve import add_reserve
from optimizer.model.site import add_demand_charges, add_events, add_import, add_limits, add_ramps
from optimizer.model.stock import add_stock
from optimizer.model.supply import add_batteries, add_export, add_generators
from optimizer.weights import job_weights, weights_of

JOB_FAMILIES = frozenset({"x", "late", "missed", "undone", "carried"})
"""Families with a column for every job: thousands of alike ones, written as arrays in a plan from nothing too."""


def declare(problem: Problem, facts: Facts | None = None, late: Flags | None = None) -> Model:
    """The model of a valid problem: minimise money over the horizon. Feasible for every valid problem: all that can be
    out of reach has a priced slack. `facts`: the problem's own, where a caller has relaxed them. `late` [job]: jobs
    with columns for work after their deadline (None: all); the others pay less than it costs for what they miss."""
    facts = facts_of(problem) if facts is None else facts
    weights = tuple(weights_of(facts, site) for site in range(len(problem.sites)))
    everyone = np.ones(len(facts.jobs), dtype=np.bool_)
    model = Model(facts, weights, job_weights(facts), everyone if late is None else late)
    for add in (
        add_draw,
        add_breakable_floors,
        add_rates,
        add_work,
        add_stock,
        add_starts,
        add_pauses,
        add_order,
        add_batch_work,
        add_import,
        add_parking,
        add_batteries,
        add_generators,
        add_export,
        add_reserve,
        add_limits,
        add_participation,
        add_events,
        add_giving_way,
        add_demand_charges,
        add_ramps,
        add_changes,
    ):
        add(model)
    return model
