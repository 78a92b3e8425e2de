"""What every constraint family shares: columns and rows, declared once as arrays over their keys.

Why declared and not yet built: one declaration is read in two ways. `pyomo_model.py` makes the Pyomo model of it, which
is compiled when a plan is made from nothing and solved by Pyomo itself in the tests; `arrays.py` writes the very same
numbers straight into vectors in every later interval. A family is one function; nothing is said twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

import numpy as np
from numpy.typing import ArrayLike, NDArray

from optimizer.facts import Facts, Floats
from optimizer.weights import JobWeights, Weights

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
Keys = tuple[Ints, ...]
NO_INTS: Ints = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Columns:
    """A family of variables: one for each entry of `keys`, low <= x <= high, `cost` a unit in the objective. `axes`
    says what each key counts: "s" site, "g" pool, "t" interval, "j" job, "e" event, "k" segment, or another word."""

    name: str
    axes: tuple[str, ...]
    keys: Keys
    low: Floats
    high: Floats
    cost: Floats
    whole: bool
    start: int
    """Place of the first one among all columns."""

    def __len__(self) -> int:
        return len(self.low)

    @property
    def all(self) -> Ints:
        """Numbers 0, 1, ... of its columns inside the family."""
        return np.arange(len(self), dtype=np.int64)

    def find(self, shape: tuple[int, ...]) -> Ints:
        """Number inside the family by key, in an array of that shape (-1: there is none)."""
        places = np.full(shape, -1, dtype=np.int64)
        places[self.keys] = self.all
        return places


@dataclass(eq=False)
class Rows:
    """A family of rows: low <= sum of coefficient * column <= high; its terms come in blocks of equal length."""

    name: str
    axes: tuple[str, ...]
    keys: Keys
    low: Floats
    high: Floats
    start: int
    blocks: list[tuple[Ints, Columns, Ints, Floats]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.low)

    @property
    def all(self) -> Ints:
        """Numbers 0, 1, ... of its rows inside the family."""
        return np.arange(len(self), dtype=np.int64)

    def find(self, shape: tuple[int, ...]) -> Ints:
        """Number inside the family by key, in an array of that shape (-1: there is none)."""
        places = np.full(shape, -1, dtype=np.int64)
        places[self.keys] = self.all
        return places

    def add(self, at: ArrayLike, columns: Columns, members: ArrayLike, coefficient: ArrayLike) -> None:
        """Add coefficient * columns[members] to the rows `at` (numbers inside both families; arrays broadcast). Each
        pair of a row and a column is given once."""
        rows, cols = _keys((at, members))
        values = np.asarray(coefficient, dtype=np.float64)
        if not values.shape:
            values = np.full(rows.shape, values)
        if not rows.shape == cols.shape == values.shape:
            rows, cols, values = np.broadcast_arrays(rows, cols, values)
        if len(rows):
            self.blocks.append((rows, columns, cols, values))


@dataclass(eq=False)
class Model:
    """A plan's linear model, as declared: minimise constant + cost * columns, money over the horizon."""

    facts: Facts
    weights: tuple[Weights, ...]
    job_weights: JobWeights
    late: Flags
    """Jobs that have columns for work after their deadline."""
    families: dict[str, Columns] = field(default_factory=dict)
    row_families: dict[str, Rows] = field(default_factory=dict)
    constant: float = 0.0
    runs: tuple[Ints, Ints, Ints, Floats] = field(default_factory=lambda: (NO_INTS, NO_INTS, NO_INTS, np.zeros(0)))
    """What each start of an unbroken run brings: number of the start, pool, interval, rate in GPU equivalents."""
    columns_count: int = 0
    rows_count: int = 0

    def columns(
        self,
        name: str,
        axes: str,
        keys: Sequence[ArrayLike],
        *,
        low: ArrayLike = 0.0,
        high: ArrayLike = inf,
        cost: ArrayLike = 0.0,
        whole: bool = False,
    ) -> Columns:
        """Declare a family of variables, one for each entry of the key arrays; `axes` has a letter for each of them."""
        made = _keys(keys)
        count = len(made[0])
        bounds = (_filled(low, count), _filled(high, count), _filled(cost, count))
        family = Columns(name, tuple(axes), made, *bounds, whole, self.columns_count)
        self.families[name] = family
        self.columns_count += count
        return family

    def rows(
        self, name: str, axes: str, keys: Sequence[ArrayLike], *, low: ArrayLike = -inf, high: ArrayLike = inf
    ) -> Rows:
        """Declare a family of rows, one for each entry of the key arrays: an equation, or bounded on one side."""
        made = _keys(keys)
        count = len(made[0])
        family = Rows(name, tuple(axes), made, _filled(low, count), _filled(high, count), self.rows_count)
        self.row_families[name] = family
        self.rows_count += count
        return family

    def get(self, name: str) -> Columns:
        """A family that was declared before."""
        return self.families[name]


def _keys(keys: Sequence[ArrayLike]) -> Keys:
    """Key arrays as integers, all of one length."""
    return tuple(np.array(key, dtype=np.int64, ndmin=1, copy=None) for key in keys)


def _filled(value: ArrayLike, count: int) -> Floats:
    """A number or an array as an array of that length, of its own."""
    filled = np.empty(count)
    filled[:] = value
    return filled
