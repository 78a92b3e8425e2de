"""What every constraint family shares: the model under construction, and lean ways to add variables and rows.

Why not Pyomo's rules: a rule per row and operator overloading cost several times what the rows themselves do; here a
row is a `LinearExpression` with its bounds, and a family of rows is one indexed constraint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

import numpy as np
import pyomo.environ as pyo
from pyomo.core.expr.numeric_expr import LinearExpression

from optimizer.facts import Facts, Floats
from optimizer.weights import JobWeights, Weights

Row = tuple[float | None, Any, float | None]
Term = tuple[float, Any]


@dataclass(frozen=True)
class Bounds:
    """Bounds of a family's variables in their order, as Pyomo has them: asking each one back costs more than a row."""

    low: Floats
    high: Floats
    whole: bool


@dataclass
class Build:
    """A model under construction: Pyomo's model, the facts, the weights per site and job, the variables by family and
    key with their bounds, the segments per pool and interval, the objective's terms (money, to be minimised) with their
    constant."""

    model: Any
    facts: Facts
    weights: tuple[Weights, ...]
    job_weights: tuple[JobWeights, ...]
    families: dict[str, dict[Any, Any]] = field(default_factory=dict)
    bounds: dict[str, Bounds] = field(default_factory=dict)
    segments: dict[tuple[int, int], list[tuple[Any, float]]] = field(default_factory=dict)
    cost: list[Term] = field(default_factory=list)
    constant: float = 0.0

    def get(self, family: str, key: Any) -> Any | None:
        """A variable, or None where the family has none for that key."""
        return self.families.get(family, {}).get(key)


def variables(
    build: Build,
    family: str,
    keys: Sequence[Any],
    upper: Sequence[float | None] | None = None,
    lower: Sequence[float] | None = None,
    binary: bool = False,
) -> dict[Any, Any]:
    """Add a family of non-negative variables, one a key, with bounds; return them by key."""
    domain = pyo.Binary if binary else pyo.NonNegativeReals
    var = pyo.Var(range(len(keys)), domain=domain)
    build.model.add_component(family, var)
    members = list(var.values())
    for number, top in enumerate(upper or ()):
        if top is not None:
            members[number].setub(top)
    for number, bottom in enumerate(lower or ()):
        if bottom > 0:
            members[number].setlb(bottom)
    build.families[family] = dict(zip(keys, members, strict=True))
    tops = [None] * len(keys) if upper is None else upper
    low = np.array(lower, dtype=np.float64).clip(min=0.0) if lower is not None else np.zeros(len(keys))
    high = np.array([inf if top is None else top for top in tops], dtype=np.float64)
    build.bounds[family] = Bounds(low, np.minimum(high, 1.0) if binary else high, binary)
    return build.families[family]


def row(low: float | None, terms: Sequence[Term], high: float | None) -> Row:
    """One row: low <= sum of coefficient * variable <= high (None: open; equal ends: an equation)."""
    expression = LinearExpression(
        constant=0.0, linear_coefs=[term[0] for term in terms], linear_vars=[term[1] for term in terms]
    )
    return (low, expression, high)


def rows(build: Build, name: str, members: Sequence[Row]) -> None:
    """Add a family of rows under one name."""
    if members:
        build.model.add_component(name, pyo.Constraint(range(len(members)), rule=lambda _, number: members[number]))
