"""How fast the GPUs of a batch pool run: all with work share one cap, and no job is planned faster than that.

Why chosen around the solve: power is work times what a unit of it takes at the pool's speed, a product of two things
that a plan decides. With the speed of each interval given, the plan is linear, and true on the cards. The first solve
takes the lowest speeds at which every job can keep its deadline (`facts.py`), or those of the last plan; its duals say
where another speed would pay, and the solve is repeated with those.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from optimizer.curves import is_concave, throughput_of_knee
from optimizer.facts import Facts, Floats
from optimizer.model.parts import Flags, Ints
from optimizer.poolfacts import SPEED_STEP, PoolFacts
from optimizer.timegrid import TimeGrid

if TYPE_CHECKING:  # the rules need speeds as well, and no solver
    from optimizer.highs import Answer
    from optimizer.model.arrays import Arrays

STEPS = (0.04, 0.1, 0.2, 0.4, 1.0)
"""By how much a speed is moved, up or down; of these the one that pays most."""

LEAST_GAIN = 0.002
"""Gain over the cost of the batch pools' power above idle from which on another solve is worth its time."""

REST = 6
"""So many plans pass until speeds are looked for again, when looking did not pay."""

OTHER_WORK, MORE_HOPE = 0.1, 2.0
"""But it is another problem where the work left is more or less by that share, or where other speeds should gain so
many times what they should have gained then."""

MOST_LOOKS, LOOK_SHARE = 2, 0.5
"""So many times a plan looks for speeds of its pools that pay more, each time within that share of the time left."""

WORTH_OF_MISSED = 0.1
"""Where higher speeds should gain less of what missed deadlines cost, it is not speed that is missing."""

Solve = Callable[[Facts], "tuple[Arrays, Answer]"]


def fastest(facts: Facts, rates: Floats, pools: Ints) -> Floats:
    """Throughput that the fastest job needs of each of its GPUs [pool, interval]: its rate [job, interval] over its
    GPUs while it is open; `pools`: each job's (-1: none). Runs without a break have one speed, and don't count."""
    table = facts.table
    found = np.zeros((len(facts.pools), facts.count))
    open_ = np.minimum(1.0, (table.on_time_h + table.late_h) / facts.hours)
    for pool in (pool for pool in facts.pools if pool.speed is not None):
        mine = np.flatnonzero((pools == pool.index) & table.preemptible)
        gpus = _gpus(facts, pool)[mine, None] * open_[mine]
        each = np.divide(rates[mine], gpus, out=np.zeros(gpus.shape), where=gpus > 1e-12)
        found[pool.index] = np.minimum(each.max(axis=0, initial=0.0), pool.top_throughput)
    return found


def speed_for(facts: Facts, number: int, g: int, t: int) -> float:
    """Throughput that a job needs of each of its GPUs in pool g and interval t for a GPU equivalent."""
    pool, table = facts.pools[g], facts.table
    gpus = max(min(float(table.max_gpus[number]), pool.pool.count), float(table.rate[number]) / pool.top_throughput[0])
    open_ = min(1.0, float(table.on_time_h[number, t] + table.late_h[number, t]) / float(facts.hours[t]))
    return 1.0 / (gpus * open_) if gpus * open_ > 1e-12 else 0.0


def _gpus(facts: Facts, pool: PoolFacts) -> Floats:
    """GPUs that a job can use in a pool [job]; a rate that another pool sets may need more than it asks for."""
    table = facts.table
    found: Floats = np.maximum(np.minimum(table.max_gpus, pool.pool.count), table.rate / pool.hulls[0].top_throughput)
    return found


def with_speeds(facts: Facts, speeds: Floats) -> Facts:
    """The facts with batch pools at these speeds [pool, interval] (0: as they are)."""
    return replace(facts, pools=tuple(_at(pool, speeds[pool.index]) for pool in facts.pools))


def _at(pool: PoolFacts, speed: Floats) -> PoolFacts:
    if pool.speed is None or not (speed > 0).any():
        return pool
    alone = pool.alone if pool.alone is not None else np.zeros(len(speed), dtype=np.bool_)
    return pool.at_speed(np.where(speed > 0, speed, pool.speed), alone)


def _apart(pool: PoolFacts) -> PoolFacts:
    """The pool with its lone jobs alone, whose draw is read off the hull; where cards do less than that says, a lone
    job keeps a speed, as one among others does."""
    if pool.speed is None or pool.lone_gpus is None or not is_concave(pool.curve):
        return pool
    return pool.at_speed(pool.speed, pool.lone_gpus > 0)


def beside_late(paced: Facts, facts: Facts, late: Flags) -> Facts:
    """The facts with no job alone in a pool where others [job] may do work after their deadline; `paced`: as they were
    before anybody was alone."""
    table = facts.table
    others = np.flatnonzero(late & table.reachable & ~table.late_anyway)
    shared = frozenset(table.pair_pool[np.isin(table.pair_job, others)].tolist())
    pools = tuple(_shared(paced.pools[pool.index], pool) if pool.index in shared else pool for pool in facts.pools)
    return replace(facts, pools=pools) if shared and _held(facts) else facts


def _shared(paced: PoolFacts, pool: PoolFacts) -> PoolFacts:
    if pool.speed is None or pool.alone is None or not pool.alone.any():
        return pool
    return paced.at_speed(pool.speed, np.zeros_like(pool.alone))


def _held(facts: Facts) -> bool:
    """Whether any pool's jobs are held to its one cap."""
    return any(pool.speed is not None for pool in facts.pools)


def _has_runs(facts: Facts, pool: PoolFacts) -> bool:
    """Whether a pool may have runs without a break."""
    return not bool(facts.table.preemptible[facts.table.of_pool(pool.index)].all())


@dataclass
class Speeds:
    """Speeds that paid in the last plan, by pool and time."""

    _grid: TimeGrid | None = None
    _least: dict[str, Floats] = field(default_factory=dict)
    _rest: int = 0
    _looked: tuple[float, float] = (0.0, 0.0)
    """When looking last did not pay: GPU-hours of work left, and the gain by the duals over the cost of LEAST_GAIN."""

    def begin(self, paced: Facts) -> Facts:
        """The facts with the last plan's speeds where they are known, and with lone jobs alone."""
        if not _held(paced):
            return paced
        apart, known = replace(paced, pools=tuple(_apart(pool) for pool in paced.pools)), self._grid
        speeds = np.zeros((len(paced.pools), paced.count))
        if known is not None:
            times = paced.problem.grid.starts
            at = [known.index(start) if known.start <= start < known.end else -1 for start in times]
            for pool in paced.pools:
                if pool.pool.id in self._least:
                    speeds[pool.index] = np.append(self._least[pool.pool.id], 0.0)[at]
                    if pool.speed is not None and _has_runs(paced, pool):  # their rate is no choice of the plan
                        speeds[pool.index] = np.maximum(speeds[pool.index], pool.speed)
        return with_speeds(apart, speeds)

    def look(self, facts: Facts, arrays: Arrays, answer: Answer, time_limit_s: float) -> Facts | None:
        """The facts with other speeds that should pay by an answer's duals; None: none do, or looking rests. The first
        plan, made from nothing at the speeds of the tightest jobs, looks for others where as much time is left as its
        solve took; but whoever misses a deadline for want of speed gets it at once."""
        if facts.table.stock is not None or not _held(facts):
            return None
        speeds, faster, saved, spent = better_speeds(facts, arrays, answer)
        missed = _missed_cost(arrays, answer)
        if missed > 0:
            return with_speeds(facts, speeds) if faster >= WORTH_OF_MISSED * missed else None
        hope = (faster + saved) / max(spent, 1e-12)
        work_h = float(facts.table.left.sum())
        self._rest = max(0, self._rest - 1) if self._alike(work_h, hope) else 0
        if self._rest or (self._grid is None and answer.seconds > time_limit_s):
            return None
        self._looked = work_h, max(LEAST_GAIN, hope)
        if hope <= LEAST_GAIN:
            self._rest = REST
            return None
        return with_speeds(facts, speeds)

    def _alike(self, work_h: float, hope: float) -> bool:
        """Whether it is the problem still at which looking did not pay."""
        before_h, before = self._looked
        return abs(work_h - before_h) <= OTHER_WORK * before_h and hope <= MORE_HOPE * before

    def better(self, found: Answer, before: Answer) -> bool:
        """Whether an answer at other speeds gained enough over the one before; if not, looking rests."""
        paid = found.objective < before.objective - 1e-9 * (1.0 + abs(before.objective))
        self._rest = 0 if paid else REST
        return paid

    def keep(self, facts: Facts) -> None:
        """Remember the speeds of these facts; those of tanks say nothing of single jobs."""
        if facts.table.stock is not None:
            return
        self._grid = facts.problem.grid
        self._least = {pool.pool.id: pool.speed for pool in facts.pools if pool.speed is not None}


def better_speeds(facts: Facts, arrays: Arrays, answer: Answer) -> tuple[Floats, float, float, float]:
    """Speeds [pool, interval] that pay by the duals of an answer, what higher and what lower ones should gain in all,
    and what the power of the batch pools above idle costs now. Where no higher speed pays, what the fastest job uses is
    enough.

    Gain of a speed s' over s: sum over the jobs at their bound of -reduced cost * their GPUs * (s' - s); cost: price of
    power * work, the jobs' further work too, * (power for a unit of it at s' - at s).
    """
    least, faster, slower, spent = np.zeros((len(facts.pools), facts.count)), 0.0, 0.0, 0.0
    worth, more, fast = _wished(facts, arrays, answer)
    per_kw = arrays.of_rows("balance", answer.duals).reshape(facts.other_kw.shape) * facts.pue
    work = _work(facts, arrays, answer)
    for pool in facts.pools:
        if pool.speed is None or pool.alone is None:
            continue
        g, now, top = pool.index, pool.speed, pool.hulls[0].top_throughput
        knee = throughput_of_knee(pool.curve)
        spent += float(np.abs(per_kw[pool.site] * work[g] * pool.kw_at(now)).sum())
        best, chosen = np.zeros(facts.count), now.copy()
        for step in STEPS:
            speed = np.minimum(now + step, top)
            done = np.maximum(0.0, work[g] + more[g] * (speed - now))
            full = done / pool.pool.count
            kw = done * (pool.kw_at(np.maximum(speed, full)) - pool.kw_at(np.maximum(now, full)))
            gain = worth[g] * (speed - now) - per_kw[pool.site] * kw
            pays = (gain > best + 1e-9) & ~pool.alone
            best, chosen = np.where(pays, gain, best), np.where(pays, speed, chosen)
        used = np.minimum(now, np.maximum(knee, np.ceil(fast[g] / SPEED_STEP - 1e-6) * SPEED_STEP))
        saved = per_kw[pool.site] * work[g] * (pool.kw_at(now) - pool.kw_at(used))
        down = (best <= 0) & (saved > 0) & ~pool.alone
        faster, slower = faster + float(best.sum()), slower + float(saved[down].sum())
        least[g] = np.where(down, used, chosen)
    return least, faster, slower, spent


def _missed_cost(arrays: Arrays, answer: Answer) -> float:
    """What it costs at least that jobs miss their deadlines, or do a part of their work never."""
    total = 0.0
    for family in ("missed", "undone"):
        work = arrays.of(family, answer.point)
        total += float(np.where(work > 1e-7, work, 0.0) @ np.maximum(0.0, arrays.of(family, arrays.cost)))
    return total


def _wished(facts: Facts, arrays: Arrays, answer: Answer) -> tuple[Floats, Floats, Floats]:
    """Money, and work in GPU equivalents, that the jobs at their bound gain from each unit of speed, and the speed that
    the fastest job uses [pool, interval]."""
    worth = np.zeros((len(facts.pools), facts.count))
    more, fast = np.zeros_like(worth), np.zeros_like(worth)
    speed = np.array([pool.speed if pool.speed is not None else 0.0 * facts.hours for pool in facts.pools])
    for family in ("x", "late"):
        columns = arrays.families[family]
        _, g, t = columns.keys
        each_worth = np.maximum(0.0, -arrays.of(family, answer.reduced))
        bound = np.maximum(0.0, arrays.of(family, arrays.high))
        each = np.divide(bound, speed[g, t], out=np.zeros(len(g)), where=speed[g, t] > 0)
        np.add.at(worth, (g, t), each_worth * each)
        np.add.at(more, (g, t), np.where(each_worth > 1e-9, each, 0.0))
        done = arrays.of(family, answer.point)
        np.maximum.at(fast, (g, t), np.divide(done, each, out=np.zeros(len(g)), where=each > 1e-12))
    return worth, more, fast


def _work(facts: Facts, arrays: Arrays, answer: Answer) -> Floats:
    """Work in GPU equivalents that jobs do [pool, interval]."""
    work = np.zeros((len(facts.pools), facts.count))
    for family in ("x", "late"):
        columns = arrays.families[family]
        _, g, t = columns.keys
        np.add.at(work, (g, t), arrays.of(family, answer.point))
    return work
