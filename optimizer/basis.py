"""Carries the last basis over to a model whose intervals, jobs and events have moved on.

Why by what a column is and not where it stands: an hour later most columns are still the same job in the same block of
time. Blocks are anchored to the clock, so a block of the new grid lies inside one of the old grid. What has no
counterpart starts at its lower bound, a row without one starts slack.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optimizer.model.arrays import Arrays
from optimizer.model.parts import Columns, Ints, Rows
from optimizer.tanks import Grouped


@dataclass(frozen=True, eq=False)
class Remembered:
    """A solved model: its arrays, what its keys mean, and the codes of its basis."""

    arrays: Arrays
    classes: Grouped
    columns: Ints
    rows: Ints


def carried(old: Remembered, classes: Grouped, arrays: Arrays) -> tuple[Ints, Ints]:
    """Codes of a start for `arrays`, columns and rows (0 lower, 1 basic, 2 upper)."""
    moved = _moved(old.classes, classes)
    columns = np.zeros(len(arrays.cost), dtype=np.int64)
    for name, family in arrays.families.items():
        _carry(family, old.arrays.families.get(name), moved, old.columns, columns)
    rows = np.ones(len(arrays.row_low), dtype=np.int64)
    for name, group in arrays.row_families.items():
        _carry(group, old.arrays.row_families.get(name), moved, old.rows, rows)
    return columns, rows


def _moved(old: Grouped, new: Grouped) -> dict[str, Ints]:
    """For each letter of keys: what a new key was in the old model (-1: nothing)."""
    before, problem = old.whole.problem, new.whole.problem
    starts = np.array([moment.timestamp() for moment in before.grid.edges])
    edges = np.array([moment.timestamp() for moment in problem.grid.edges])
    middles = (edges[1:] + edges[:-1]) / 2
    block = np.searchsorted(starts, middles, side="right") - 1
    return {
        "t": np.where(block < len(before.grid), block, -1),
        "s": _names([site.id for site in before.sites], [site.id for site in problem.sites]),
        "g": _names([item.pool.id for item in before.pools], [item.pool.id for item in problem.pools]),
        "j": _classes(old, new),
        "e": _names([event.id for event in before.events], [event.id for event in problem.events]),
    }


def _names(old: list[str], new: list[str]) -> Ints:
    place = {name: number for number, name in enumerate(old)}
    return np.array([place.get(name, -1) for name in new], dtype=np.int64)


def _classes(old: Grouped, new: Grouped) -> Ints:
    """The old class of the first member of each new one."""
    was = _names([job.id for job in old.whole.table.jobs], [job.id for job in new.facts.table.jobs])
    return np.where(was >= 0, np.append(old.of, -1)[was], -1)


def _carry(
    family: Columns | Rows, before: Columns | Rows | None, moved: dict[str, Ints], codes: Ints, into: Ints
) -> None:
    """Fill the codes of one family."""
    if before is None or not len(before) or not len(family) or before.axes != family.axes:
        return
    keys = [moved[axis][key] if axis in moved else key for axis, key in zip(family.axes, family.keys, strict=True)]
    sizes = [int(max(a.max(initial=0), b.max(initial=0))) + 1 for a, b in zip(keys, before.keys, strict=True)]
    known = np.all([key >= 0 for key in keys], axis=0)
    found = _lookup(_flat(before.keys, sizes), _flat([np.maximum(key, 0) for key in keys], sizes))
    used = known & (found >= 0)
    part = into[family.start : family.start + len(family)]
    part[used] = codes[before.start + found[used]]


def _flat(keys: tuple[Ints, ...] | list[Ints], sizes: list[int]) -> Ints:
    """One number for each combination of keys."""
    flat = np.zeros(len(keys[0]), dtype=np.int64)
    for key, size in zip(keys, sizes, strict=True):
        flat = flat * size + key
    return flat


def _lookup(old: Ints, new: Ints) -> Ints:
    """Place of each new number among the old ones (-1: none)."""
    order = np.argsort(old, kind="stable")
    place = np.minimum(np.searchsorted(old[order], new), len(old) - 1)
    found = order[place]
    return np.where(old[found] == new, found, -1)
