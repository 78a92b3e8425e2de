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
        """Values of a family by key, where they are not zero."""
        found = self.place.get(family, {})
        columns = np.fromiter(found.values(), np.int64, len(found))
        values = np.where(columns >= 0, solution[columns], 0.0)
        keys, used = list(found), np.flatnonzero(values).tolist()
        return {keys[number]: value for number, value in zip(used, values[used].tolist(), strict=True)}


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
    place = {
        family: {key: column_of.get(id(variable), -1) for key, variable in members.items()}
        for family, members in build.families.items()
        if family in build.bounds
    }
    low, high, integer = _bounds(build, place, len(form.columns))
    matrix = form.A
    return Arrays(
        cost=np.asarray(form.c.todense(), dtype=np.float64).ravel(),
        offset=float(form.c_offset[0]),
        low=low,
        high=high,
        row_low=np.where(kinds <= 0, rhs, -INF),
        row_high=np.where(kinds >= 0, rhs, INF),
        starts=np.asarray(matrix.indptr, dtype=np.int32),
        index=np.asarray(matrix.indices, dtype=np.int32),
        value=np.asarray(matrix.data, dtype=np.float64),
        integer=integer,
        place=place,
        balance=np.array([rows[number] for number in range(len(rows))], dtype=np.int64),
    )


def _bounds(build: Build, place: dict[str, dict[Any, int]], count: int) -> tuple[Floats, Floats, NDArray[np.int32]]:
    """Lower and upper bound of every column, and whether it is whole."""
    low, high, integer = np.zeros(count), np.full(count, INF), np.zeros(count, dtype=np.int32)
    for family, bounds in build.bounds.items():
        columns = np.fromiter(place[family].values(), np.int64, len(place[family]))
        used = columns >= 0
        low[columns[used]], high[columns[used]] = bounds.low[used], bounds.high[used]
        integer[columns[used]] = bounds.whole
    return low, high, integer
