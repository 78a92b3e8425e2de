"""Jobs that are nearly alike, put together so that each of them keeps most of what it can spare.

Why in two steps: jobs in one cell of a grid of windows and hours of work are found at once, however many there are, and
stay together from plan to plan, but neighbours on both sides of a line are not. So the classes of cells then join each
other, tightest first, each where most is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from optimizer.facts import Facts, Floats
from optimizer.jobfacts import JobTable
from optimizer.model.parts import Flags, Ints

FINEST_H = 1.0 / 12.0
"""Who can spare no more than this stays alone."""


class Groups:
    """Jobs by their leader: `first` is each group's leader, in order, and `of` the group of each job."""

    def __init__(self, leader: Ints) -> None:
        self.first, self.of = np.unique(leader, return_inverse=True)
        self._order = np.argsort(self.of, kind="stable")
        self._starts = np.searchsorted(self.of[self._order], np.arange(len(self.first)))

    def least(self, values: Floats) -> Floats:
        """Least of each group, along the first axis."""
        return np.minimum.reduceat(values[self._order], self._starts, axis=0)

    def most(self, values: Floats) -> Floats:
        """Most of each group, along the first axis."""
        return np.maximum.reduceat(values[self._order], self._starts, axis=0)

    def total(self, values: Floats) -> Floats:
        """Sum of each group."""
        return np.add.reduceat(values[self._order], self._starts)


def pair_of(facts: Facts, free: Flags) -> Ints:
    """The one pair of each of these jobs."""
    found: Ints = np.searchsorted(facts.table.pair_job, np.flatnonzero(free))
    return found


def leaders(key: Floats, free: Flags) -> Ints:
    """The first job with the same key for each job [job]; `key` [free job, part]."""
    leader = np.arange(len(free))
    order = np.lexsort(key.T)
    same = np.all(key[order[1:]] == key[order[:-1]], axis=1)
    begin = np.flatnonzero(np.append(True, ~same)[: len(order)])
    mine = np.flatnonzero(free)[order]
    leader[mine] = np.repeat(mine[begin], np.diff(np.append(begin, len(order))))
    return leader


def near(facts: Facts, free: Flags, exact: Ints, share: float, kept: float) -> Ints:
    """Leaders [job] of classes of nearly alike jobs: who joins differs from what the class is by then by no more than
    `share` of the slack, and each class keeps the part `kept` of its tightest member's. Jobs that are optional, or out
    of reach, stay as they are."""
    table = facts.table
    spare_h = table.on_time_h.sum(axis=1) + table.beyond_h - table.left / np.where(free, table.rate, 1.0)
    free = free & table.reachable & ~table.late_anyway
    return _joined(facts, _in_cells(facts, free, exact, spare_h, share, kept), free, spare_h, share, kept)


# ---------------------------------------------------------------- cells of a grid
def _in_cells(facts: Facts, left: Flags, exact: Ints, spare_h: Floats, share: float, kept: float) -> Ints:
    """Leaders [job] of the classes of cells: by `share` of the slack, then by ever less of it for those whose class
    would keep too little."""
    leader = exact.copy()
    while share * spare_h.max(initial=0.0, where=left) >= FINEST_H:
        left = left & (share * spare_h >= FINEST_H)
        found = leaders(_cells(facts, left, share * spare_h[left]), left)
        good = left & _keeps_slack(facts.table, found, spare_h, kept)
        leader[good] = found[good]
        left = left & ~good
        share /= 2.0
    return leader


def _cells(facts: Facts, free: Flags, room_h: Floats) -> Floats:
    """What must be the same for jobs to be in one cell, on steps of `room_h` or less [free job, part]. Steps are powers
    of two of an hour, anchored to the clock, so that classes stay what they are from plan to plan."""
    table = facts.table
    power = np.floor(np.log2(room_h))
    step = 2.0**power
    clock_h = facts.problem.grid.start.timestamp() / 3600.0
    release_h = table.release_h[free]
    return np.column_stack((
        power,
        np.where(release_h > 0, np.ceil((clock_h + release_h) / step), 0.0),
        np.floor((clock_h + table.deadline_h[free]) / step),
        np.ceil(table.left[free] / table.rate[free] / step),
        _worth(facts, free),
    ))  # fmt: skip


def _worth(facts: Facts, free: Flags) -> Floats:
    """What else must be the same: pool, cost of moving, priority, and worth to within a fifth [free job, part]."""
    table, pair = facts.table, pair_of(facts, free)
    return np.column_stack((
        table.pair_pool[pair], facts.move_per_gpu_h[pair], table.priority[free],
        np.round(2.0 * np.log2(table.undone_penalty[free] + np.maximum(0.0, table.value_per_gpu_h[free]))),
        np.round(2.0 * np.log2(table.late_penalty[free] + 1e-3)),
    ))  # fmt: skip


def _keeps_slack(table: JobTable, leader: Ints, spare_h: Floats, kept: float) -> Flags:
    """Jobs [job] whose class keeps that part of its tightest member's slack."""
    group = Groups(leader)
    open_h = group.least(table.deadline_h) - group.most(table.release_h)
    left_h = open_h - group.most(table.left / np.maximum(table.rate, 1e-12))
    keeps: Flags = (left_h >= kept * group.least(spare_h) - 1e-9)[group.of]
    return keeps


# ---------------------------------------------------------------- neighbours
def _joined(facts: Facts, leader: Ints, free: Flags, spare_h: Floats, share: float, kept: float) -> Ints:
    """Leaders [job] of these classes, joined where that keeps enough."""
    table, group = facts.table, Groups(leader)
    work_h = table.left / np.maximum(table.rate, 1e-12)
    hours = np.stack((np.maximum(0.0, group.most(table.release_h)), -group.least(table.deadline_h), group.most(work_h)))
    slack_h, into = group.least(spare_h), np.arange(len(group.first))
    may = free[group.first] & (share * slack_h >= FINEST_H)
    chosen = np.zeros(len(free), dtype=np.bool_)
    chosen[group.first[may]] = True
    places = np.flatnonzero(may)
    _, kind = np.unique(_worth(facts, chosen), axis=0, return_inverse=True)
    into[places] = places[_packed(hours[:, places], slack_h[places], kind.ravel(), share, kept)]
    return _first_members(group.first[into[group.of]])


def _packed(hours: Floats, slack_h: Floats, kind: Ints, share: float, kept: float) -> Ints:
    """For each of these classes, the tightest of those that it is planned with [class]: tightest first, it joins the
    nearest of its `kind`, or begins one of its own; all kinds at the same time. `hours` [(release, -deadline, work),
    class]: what is larger leaves less to choose.

    One that joins gives up hours of its own, no more than `share` of the slack of the first; who is there gives up
    others, so that they keep `kept` of it.
    """
    into = np.arange(len(kind))
    begun = Begun.none(int(kind.max(initial=-1)) + 1)
    for mine in _turns(slack_h, kind):
        begun = begun.room(len(mine))
        rows, width = np.arange(len(mine)), int(begun.made.max(initial=0)) + 1
        there, asked = begun.held[:, rows, :width], hours[:, mine, None]
        apart_h = there - asked
        may = apart_h.max(axis=0) <= begun.most[rows, :width]
        may &= np.maximum(there, asked).sum(axis=0) <= begun.least[rows, :width]
        near_h = np.where(may, np.abs(apart_h).sum(axis=0), np.inf)
        best = near_h.argmin(axis=1)
        joins = may[rows, best]
        slot = np.where(joins, best, begun.made)
        into[mine] = begun.first[rows, slot] = np.where(joins, begun.first[rows, slot], mine)
        held = np.where(joins, np.maximum(begun.held[:, rows, slot], hours[:, mine]), hours[:, mine])
        begun.held[:, rows, slot] = held
        begun.most[rows, slot] = np.where(joins, begun.most[rows, slot], share * slack_h[mine])
        begun.least[rows, slot] = np.where(joins, begun.least[rows, slot], -kept * slack_h[mine])
        begun.made[rows] += ~joins
    return into


@dataclass(frozen=True, eq=False)
class Begun:
    """Classes that were begun, of each kind in the order in which they were: hours that they hold [part, kind, slot],
    the most that one may differ and the least that must be left [kind, slot], their first members [kind, slot], and how
    many there are [kind]. Its slots grow as they fill and kinds that have no more go, so that all of it is never more
    than some numbers for each class, however unlike in size kinds are."""

    held: Floats
    most: Floats
    least: Floats
    first: Ints
    made: Ints

    @classmethod
    def none(cls, kinds: int) -> Begun:
        """Nothing begun, of so many kinds."""
        empty = np.zeros((kinds, 0))
        return cls(np.zeros((3, kinds, 0)), empty, empty, empty.astype(np.int64), np.zeros(kinds, dtype=np.int64))

    def room(self, kinds: int) -> Begun:
        """The first so many kinds, with a slot for one more of each."""
        made, slots = self.made[:kinds], self.most.shape[1]
        more = max(4, slots) if int(made.max(initial=0)) >= slots else 0
        if not more:
            return self if kinds == len(self.made) else self._map(lambda part, _: part[..., :kinds, :], made)
        return self._map(lambda part, fill: _wider(part[..., :kinds, :], more, fill), made)

    def _map(self, change: Callable[[Any, float], Any], made: Ints) -> Begun:
        parts = (change(self.held, np.inf), change(self.most, -np.inf), change(self.least, -np.inf))
        return Begun(*parts, change(self.first, 0), made)


def _wider(part: Any, more: int, fill: float) -> Any:
    """With so many slots more, filled with this."""
    return np.concatenate((part, np.full((*part.shape[:-1], more), fill, dtype=part.dtype)), axis=-1)


def _turns(slack_h: Floats, kind: Ints) -> list[Ints]:
    """Classes in the order of their slack, in each turn one of each kind that has so many. Kinds with most come
    first."""
    count = np.bincount(kind)
    rank = np.argsort(np.argsort(-count, kind="stable"), kind="stable")
    order = np.lexsort((slack_h, kind))
    begin = np.cumsum(count) - count
    turn = np.arange(len(kind)) - begin[kind[order]]
    ranked = order[np.lexsort((rank[kind[order]], turn))]
    return np.split(ranked, np.cumsum(np.bincount(turn))[:-1])


def _first_members(leader: Ints) -> Ints:
    """The same classes, each led by its first member."""
    _, first, of = np.unique(leader, return_index=True, return_inverse=True)
    led: Ints = first[of]
    return led
