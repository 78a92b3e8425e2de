"""The declared model as the arrays that HiGHS takes: columns and rows in the order of their declaration.

Why written here too, and not only compiled from Pyomo: in every interval the numbers change and the structure moves by
one step; writing vectors takes milliseconds. A test holds both to the same last bit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from optimizer.facts import Floats
from optimizer.model.parts import Columns, Ints, Model, Rows

Entries = tuple[Ints, Ints, Floats]


@dataclass(frozen=True, eq=False)
class Arrays:
    """min offset + cost x, row_low <= A x <= row_high, low <= x <= high; A by columns. `families` and `row_families`
    say which family has which place."""

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
    families: dict[str, Columns]
    row_families: dict[str, Rows]
    runs: tuple[Ints, Ints, Ints, Floats]
    """What each start of an unbroken run brings: number of the start, pool, interval, rate."""
    terms: Entries | None = None
    """The matrix as it was written: row, column and value of every term."""

    @cached_property
    def matrix(self) -> sparse.csc_matrix:
        """A [row, column]."""
        shape = (len(self.row_low), len(self.cost))
        return sparse.csc_matrix((self.value, self.index, self.starts), shape=shape)

    def at_costs(self, cost: Floats) -> Arrays:
        """The same program at other costs, with the very same matrix."""
        return _lending(self, replace(self, cost=cost))

    def of(self, family: str, solution: Floats) -> Floats:
        """The part of a solution that belongs to a family, in the order of its keys."""
        columns = self.families.get(family)
        return solution[columns.start : columns.start + len(columns)] if columns is not None else np.zeros(0)

    def of_rows(self, family: str, duals: Floats) -> Floats:
        """The part of the rows' duals that belongs to a family."""
        rows = self.row_families.get(family)
        return duals[rows.start : rows.start + len(rows)] if rows is not None else np.zeros(0)


def write_arrays(model: Model, before: Arrays | None = None) -> Arrays:
    """The arrays of a declared model; those that were written before lend their matrix where it is the same."""
    return with_matrix(model, entries(model.row_families.values()), before)


def entries(families: Iterable[Rows], keep: frozenset[str] | None = None) -> Entries:
    """Row, column and value of every term of the row families; with `keep` only terms in those column families."""
    rows, columns, values = [], [], []
    for family in families:
        for at, of, members, coefficients in family.blocks:
            if keep is None or of.name in keep:
                rows.append(at + family.start)
                columns.append(members + of.start)
                values.append(coefficients)
    if not rows:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0)
    return np.concatenate(rows), np.concatenate(columns), np.concatenate(values)


def with_matrix(model: Model, terms: Entries, before: Arrays | None = None) -> Arrays:
    """Arrays with these terms and the model's own numbers."""
    known = _as_before(model, terms, before)
    starts, index, value = known or _compressed(model, terms)
    families, row_families = list(model.families.values()), list(model.row_families.values())
    made = Arrays(
        cost=_joined([family.cost for family in families]),
        offset=model.constant,
        low=_joined([family.low for family in families]),
        high=_joined([family.high for family in families]),
        row_low=_joined([family.low for family in row_families]),
        row_high=_joined([family.high for family in row_families]),
        starts=starts,
        index=index,
        value=value,
        integer=np.concatenate([np.full(len(family), family.whole, dtype=np.int32) for family in families]),
        families=dict(model.families),
        row_families=dict(model.row_families),
        runs=model.runs,
        terms=terms,
    )
    return _lending(before, made) if known and before is not None else made


def _lending(before: Arrays, made: Arrays) -> Arrays:
    """Arrays with the matrix of others, which has the same terms."""
    made.__dict__["matrix"] = before.matrix
    return made


Matrix = tuple[NDArray[np.int32], NDArray[np.int32], Floats]


def _as_before(model: Model, terms: Entries, before: Arrays | None) -> Matrix | None:
    """The matrix that was written before, where it has the same terms."""
    if before is None or before.terms is None:
        return None
    same = (model.rows_count, model.columns_count) == (len(before.row_low), len(before.cost))
    if same and all(np.array_equal(old, new) for old, new in zip(before.terms, terms, strict=True)):
        return before.starts, before.index, before.value
    return None


def _compressed(model: Model, terms: Entries) -> Matrix:
    """The terms by columns, without zeros."""
    rows, columns, values = terms
    matrix = sparse.csc_matrix((values, (rows, columns)), shape=(model.rows_count, model.columns_count))
    matrix.eliminate_zeros()
    matrix.sort_indices()
    return matrix.indptr.astype(np.int32), matrix.indices.astype(np.int32), matrix.data


def _joined(parts: list[Floats]) -> Floats:
    return np.concatenate(parts) if parts else np.zeros(0)


def same_matrix(old: Arrays, new: Arrays) -> bool:
    """Whether only vectors differ."""
    if old.value is new.value and old.index is new.index and old.starts is new.starts:
        return True
    return (
        len(old.cost) == len(new.cost)
        and np.array_equal(old.starts, new.starts)
        and np.array_equal(old.index, new.index)
        and np.array_equal(old.value, new.value)
    )
