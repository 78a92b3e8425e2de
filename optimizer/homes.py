"""Jobs held to one pool each: bounds under which none works anywhere but at its home."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from optimizer.facts import Facts, Floats
from optimizer.model.arrays import Arrays
from optimizer.model.parts import Ints


def confined_to(facts: Facts, arrays: Arrays, homes: Ints) -> Arrays:
    """Arrays with every job shut out of all pools but its home, the number of a pair of a job and a pool [job] (-1:
    free)."""
    high = at_home(facts, arrays, homes)
    return replace(arrays, low=np.minimum(arrays.low, high), high=high)


def at_home(facts: Facts, arrays: Arrays, homes: Ints) -> Floats:
    """The upper bounds of these arrays."""
    high = arrays.high.copy()
    for family in ("x", "late"):
        columns = arrays.families[family]
        j, g, _ = columns.keys
        home = homes[j]
        away = (home >= 0) & (facts.table.pair_pool[np.maximum(home, 0)] != g)
        high[columns.start + columns.all[away]] = 0.0
    return high
