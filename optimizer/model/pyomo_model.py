"""The declared model in Pyomo, and its compiled form.

Why both: Pyomo is where a person reads, prints, exports and debugs the model, and where another solver can be asked;
its standard-form compiler turns it into arrays without another layer between. A plan that is made from nothing goes
this way (all but the columns of single jobs, which are thousands of alike ones); later intervals write the same numbers
straight into the arrays.
"""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np
import pyomo.environ as pyo
from pyomo.core.expr.numeric_expr import LinearExpression
from pyomo.repn.plugins.standard_form import LinearStandardFormCompiler

from optimizer.model.arrays import Arrays, Entries, entries, with_matrix
from optimizer.model.parts import Columns, Model, Rows


def pyomo_model(model: Model, skip: frozenset[str] = frozenset()) -> Any:
    """The ConcreteModel: a Var for each family, a Constraint for each row family, the objective `cost`. `skip`:
    families of columns to leave out, with their terms and with rows that have no others."""
    made = pyo.ConcreteModel()
    members: dict[str, list[Any]] = {}
    for family in model.families.values():
        if family.name not in skip:
            members[family.name] = _variables(made, family)
    for rows in model.row_families.values():
        _constraints(made, rows, members)
    priced = [
        (cost, variable)
        for name, variables in members.items()
        for cost, variable in zip(model.families[name].cost.tolist(), variables, strict=True)
    ]
    made.cost = pyo.Objective(expr=_linear(priced, model.constant))
    return made


def _variables(made: Any, family: Columns) -> list[Any]:
    """Add the variables of a family with their bounds."""
    bounds = list(zip(family.low.tolist(), family.high.tolist(), strict=True))
    var = pyo.Var(
        range(len(family)),
        domain=pyo.Integers if family.whole else pyo.Reals,
        bounds=lambda _, n: (
            bounds[n][0] if bounds[n][0] > -inf else None,
            bounds[n][1] if bounds[n][1] < inf else None,
        ),
    )
    made.add_component(family.name, var)
    return list(var.values())


def _constraints(made: Any, rows: Rows, members: dict[str, list[Any]]) -> None:
    """Add the constraints of a row family; rows without a term are left out."""
    terms: list[list[tuple[float, Any]]] = [[] for _ in range(len(rows))]
    for at, columns, numbers, values in rows.blocks:
        variables = members.get(columns.name)
        if variables is not None:
            for row, number, value in zip(at.tolist(), numbers.tolist(), values.tolist(), strict=True):
                terms[row].append((value, variables[number]))
    low, high = rows.low.tolist(), rows.high.tolist()

    def rule(_: Any, row: int) -> tuple[float | None, Any, float | None]:
        return (low[row] if low[row] > -inf else None, _linear(terms[row]), high[row] if high[row] < inf else None)

    made.add_component(rows.name, pyo.Constraint([row for row, found in enumerate(terms) if found], rule=rule))


def _linear(terms: list[tuple[float, Any]], constant: float = 0.0) -> Any:
    return LinearExpression(
        constant=constant, linear_coefs=[term[0] for term in terms], linear_vars=[term[1] for term in terms]
    )


def compile_model(model: Model, skip: frozenset[str] = frozenset()) -> Arrays:
    """The arrays of a model by way of Pyomo and its standard-form compiler. Terms of the families in `skip` are
    written."""
    made = pyomo_model(model, skip)
    form = LinearStandardFormCompiler().write(made, mixed_form=True)
    column_of = {
        id(variable): model.families[name].start + number
        for name in model.families
        if name not in skip
        for number, variable in made.component(name).items()
    }
    row_of = {
        id(data): rows.start + number for rows in model.row_families.values() for number, data in _data(made, rows.name)
    }
    columns = np.array([column_of[id(variable)] for variable in form.columns], dtype=np.int64)
    rows = np.array([row_of[id(entry.constraint)] for entry in form.rows], dtype=np.int64)
    matrix = form.A.tocoo()
    found: Entries = (rows[matrix.row], columns[matrix.col], np.asarray(matrix.data, dtype=np.float64))
    written = entries(model.row_families.values(), skip)
    joined = tuple(np.concatenate(pair) for pair in zip(found, written, strict=True))
    return with_matrix(model, (joined[0], joined[1], joined[2]))


def _data(made: Any, name: str) -> list[tuple[int, Any]]:
    component = made.component(name)
    return list(component.items()) if component is not None else []
