"""The model as arrays: compiled once from Pyomo, solved by HiGHS without another layer between.

Why: passing a Pyomo model to a solver the usual way costs more than solving it, and captures the process's standard
streams. Reading results back as one array costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyomo.repn.plugins.standard_form import LinearStandardFormCompiler

from optimizer.facts import Floats
from optimizer.model.parts import Build

INF = float("inf")


@dataclass(frozen=True)
class Arrays:
    """min offset + cost x, row_low <= A x <= row_high, low <= x <= high; A by columns. `place` finds a family's columns
    (-1: the variable plays no part), `balance` the row of each (site, interval)."""

    cost: Floats
    offset: float
    low: Floats
    high: Floats
    row_low: Floats
    row_high: Floats
    starts: NDArray[np.int32]
    index: NDArray[np.int32]
    value: Floats
    integer: NDArray[np.int32]
    place: dict[str, dict[Any, int]]
    balance: NDArray[np.int64]

    def take(self, family: str, solution: Floats) -> dict[Any, float]:
        """Values of a family by key; a variable that plays no part is 0."""
        found = self.place.get(family, {})
        return {key: float(solution[column]) if column >= 0 else 0.0 for key, column in found.items()}


def compile_model(build: Build) -> Arrays:
    """Compile a built model; rows and columns keep Pyomo's order, which depends on the problem alone."""
    form = LinearStandardFormCompiler().write(build.model, mixed_form=True)
    column_of = {id(variable): number for number, variable in enumerate(form.columns)}
    kinds = np.array([entry.bound_type for entry in form.rows], dtype=np.int32)
    rhs = np.asarray(form.rhs, dtype=np.float64)
    balance_of = {id(data): number for number, data in enumerate(build.model.balance.values())}
    rows = {
        balance_of[id(entry.constraint)]: n for n, entry in enumerate(form.rows) if id(entry.constraint) in balance_of
    }
    bounds = [(variable.lb, variable.ub) for variable in form.columns]
    matrix = form.A
    return Arrays(
        cost=np.asarray(form.c.todense(), dtype=np.float64).ravel(),
        offset=float(form.c_offset[0]),
        low=np.array([-INF if low is None else low for low, _ in bounds], dtype=np.float64),
        high=np.array([INF if high is None else high for _, high in bounds], dtype=np.float64),
        row_low=np.where(kinds <= 0, rhs, -INF),
        row_high=np.where(kinds >= 0, rhs, INF),
        starts=np.asarray(matrix.indptr, dtype=np.int32),
        index=np.asarray(matrix.indices, dtype=np.int32),
        value=np.asarray(matrix.data, dtype=np.float64),
        integer=np.array([variable.is_integer() or variable.is_binary() for variable in form.columns], dtype=np.int32),
        place={
            family: {key: column_of.get(id(variable), -1) for key, variable in members.items()}
            for family, members in build.families.items()
            if family != "run"
        },
        balance=np.array([rows[number] for number in range(len(rows))], dtype=np.int64),
    )
