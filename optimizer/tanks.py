"""Work of many jobs as a few tanks, for a plan in an emergency: its size does not grow with the number of jobs.

A tank is the work of jobs of one pool that are worth as much and have as much time to spare. What must be done of it by
the end of an interval (each job at its highest rate from the last moment on), and what can be done (each from its
release on), bound what the plan does; so does the sum of the rates of those whose window is open. The tanks' work is
handed back to single jobs, interval by interval: those with the least time to spare first, each as fast as it can. No
more is handed out than was planned, so what the plan keeps, limits and events, the jobs keep too.

Why only in an emergency: the bounds are what all plans of the jobs have in common, not what the jobs can do. Several
that are all short of time can't be served by what one of them leaves; work that was planned is then done by nobody, or
late. `docs/decisions/0009-many-jobs.md` has what that costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from optimizer.assemble import NO_DUALS, Draft
from optimizer.classes import PRICES, Classes, plain
from optimizer.facts import Facts, Floats
from optimizer.jobfacts import Jobs, JobTable, Stock
from optimizer.model.parts import Flags, Ints
from optimizer.reasons import Note, Reason, Severity
from optimizer.speeds import fastest, with_speeds

SPARE_STEPS = (1.5, 2.0, 3.0, 5.0)
"""Hours until the deadline over hours of work, at which one tank ends and the next begins."""


LEAST_H = 1e-9
"""Less time than that until a deadline is none."""

TICKS_PER_H, MOST_TICKS = 600.0, 32_000
"""Time to spare is told apart by six seconds, up to two days: whoever has more is in no hurry."""

PACE = 0.5
"""Part of a job's highest rate at which a tank must have its work done: what one job has in hand is no other's."""

Sum = Callable[[Floats], Floats]


@dataclass(frozen=True, eq=False)
class Tanks:
    """The facts of a problem with one job for each tank, named after its first member, and one for each job that has
    rules of its own; the row `of` each job [job]."""

    whole: Facts
    facts: Facts
    of: Ints

    def said(self) -> tuple[Note, ...]:
        """That jobs are not planned one by one, for a person to see."""
        jobs, tanks = len(self.of), len(self.facts.table)
        text = f"{jobs} jobs are planned as {tanks} tanks of work, and handed out to those in a hurry first"
        return (Note(Reason.JOBS_GROUPED, "plan", text, Severity.WARNING),)

    def members(self, rows: Iterable[int]) -> frozenset[str]:
        """Ids of the jobs of some rows."""
        chosen = np.isin(self.of, np.array(list(rows), dtype=np.int64))
        return frozenset(self.whole.table.jobs[n].id for n in np.flatnonzero(chosen).tolist())

    def split(self, draft: Draft) -> Draft:
        """The draft of the tanks as one of their members; batch pools draw what the members' work takes."""
        facts, stock = self.whole, self.facts.table.stock
        assert stock is not None
        pools = np.array(draft.job_pool, dtype=np.int64)[self.of]
        rates = draft.rates[self.of]
        tanked = np.isin(self.of, stock.rows)
        rates[tanked] = _handed_out(facts, tanked, self.of, draft) / facts.hours
        draw, speeds = draft.draw_kw.copy(), fastest(facts, rates, pools)
        for pool in facts.pools:
            if pool.batch:
                work, planned = rates[pools == pool.index].sum(axis=0), _planned(draft, pool.index)
                needed, other = pool.draws_for(work, speeds[pool.index]), np.abs(work - planned) > 1e-9
                draw[pool.index] = np.where(other, needed, np.maximum(needed, draw[pool.index]))
        return replace(draft, draw_kw=draw, rates=rates, job_pool=tuple(pools.tolist()), worth=NO_DUALS)


Grouped = Classes | Tanks
"""Jobs of a problem as fewer rows, and how those become jobs again."""


def _planned(draft: Draft, pool: int) -> Floats:
    """Work in GPU equivalents that the draft's rows do in a pool [interval]."""
    work: Floats = draft.rates[np.array(draft.job_pool, dtype=np.int64) == pool].sum(axis=0)
    return work


# ---------------------------------------------------------------- filling
def tanks_of(facts: Facts) -> Tanks:
    """Jobs that can take any rate at any time in one pool as tanks; every other job as a row of its own."""
    table, free = facts.table, plain(facts)
    pool = np.where(free, table.first_pool, -1)
    window_h = table.on_time_h.sum(axis=1) + table.beyond_h
    ratio = window_h * table.rate / np.maximum(table.left, 1e-12)
    spare = np.where(table.reachable, np.searchsorted(SPARE_STEPS, ratio), -1)
    worth = np.round(2.0 * np.log2(table.undone_penalty + np.maximum(0.0, table.value_per_gpu_h) + 1e-3))
    own = np.where(free, -1, np.arange(len(table)))
    _, first, of = np.unique(np.column_stack((own, pool, worth, spare)), axis=0, return_index=True, return_inverse=True)
    of = of.reshape(-1)
    order = np.argsort(of, kind="stable")
    starts = np.searchsorted(of[order], np.arange(len(first)))

    def total(values: Floats) -> Floats:
        found: Floats = np.add.reduceat(values[order], starts, axis=0)
        return found

    merged = _merged(table, facts.hours, free[first], first, total)
    fast = with_speeds(facts, np.full((len(facts.pools), facts.count), np.inf))  # who is handed what comes later
    return Tanks(facts, replace(fast, jobs=Jobs(merged)), of)


def _merged(table: JobTable, hours: Floats, tank: Flags, first: Ints, total: Sum) -> JobTable:
    """The table with a row for each tank: what jobs that are late anyway do counts whenever it is done."""
    open_h = np.where(table.reachable[:, None], table.on_time_h, table.on_time_h + table.late_h)
    rates = total(table.rate[:, None] * open_h)
    rate = np.maximum((rates / hours).max(axis=1), 1e-12)
    left = total(table.left)
    rows = {name: getattr(table, name)[first] for name in (*ROWS, *SAME)}
    rows |= {name: np.where(tank, total(getattr(table, name) * table.left) / left, rows[name]) for name in PRICES}
    after = total(np.minimum(table.left, table.rate * table.beyond_h))
    numbers = {
        "left": left, "rate": rate, "max_gpus": total(table.max_gpus), "beyond_h": after / rate,
        "reachable": np.zeros(len(first), dtype=np.bool_),
    }  # fmt: skip
    rows |= {name: np.where(tank, values, rows[name]) for name, values in numbers.items()}
    rows["on_time_h"] = np.where(tank[:, None], rates / rate[:, None], rows["on_time_h"])
    for name in ("late_h", "hours_late"):
        rows[name] = np.where(tank[:, None], 0.0, rows[name])
    done = np.cumsum(table.rate[:, None] * open_h, axis=1)
    beyond = table.rate * table.beyond_h + done[:, -1]
    most = total(np.minimum(table.left[:, None], done))
    must = table.left[:, None] - PACE * (beyond[:, None] - done)
    least = total(np.where(table.reachable[:, None], np.clip(must, 0.0, np.minimum(table.left[:, None], done)), 0.0))
    place = np.full(len(table), -1, dtype=np.int64)
    place[first] = np.arange(len(first))
    kept = place[table.pair_job] >= 0
    pairs = {name: getattr(table, name)[kept] for name in ("pair_pool", "pair_place", "pair_share")}
    order = np.argsort(place[table.pair_job[kept]], kind="stable")
    pairs = {name: values[order] for name, values in pairs.items()}
    return replace(
        table,
        jobs=tuple(table.jobs[n] for n in first.tolist()),
        **{**rows, **pairs},
        pair_job=place[table.pair_job[kept]][order],
        stock=Stock(np.flatnonzero(tank), least[tank], most[tank]),
    )


SAME = ("fixed", "preemptible", "firm", "priority", "release_h", "deadline_h", "pace")
ROWS = ("left", "rate", "max_gpus", "beyond_h", "reachable", "on_time_h", "late_h", "hours_late", *PRICES)


# ---------------------------------------------------------------- handing out
def _handed_out(facts: Facts, tanked: Flags, of: Ints, draft: Draft) -> Floats:
    """GPU-hours [tanked job, interval] of the tanks' work, one interval after the other: first what jobs must do now to
    be in time at all, even where more of it was planned for later; then each tank's own work; then what its members
    could not use, for all of its pool. In each of these those with the least time to spare go first."""
    table, mine = facts.table, np.flatnonzero(tanked)
    pools, pool, tank = len(facts.pools), _small(table.first_pool[mine]), _small(of[mine])
    left, rate = table.left[mine].copy(), table.rate[mine]
    ahead_h = (table.on_time_h.sum(axis=1) + table.beyond_h)[mine]
    home = np.zeros(len(draft.rates), dtype=np.int64)
    home[tank] = pool
    planned = np.where(np.isin(np.arange(len(home)), tank)[:, None], draft.rates * facts.hours, 0.0)
    spare, done = _spare(facts, draft), np.zeros((len(mine), facts.count))
    for t, end_h in enumerate(np.cumsum(facts.hours).tolist()):
        open_ = np.flatnonzero((table.release_h[mine] < end_h) & (left > 1e-12))
        in_time = ahead_h[open_] > LEAST_H
        spare_h = np.where(in_time, ahead_h[open_] - left[open_] / rate[open_], np.inf)
        order = np.argsort(np.clip(spare_h * TICKS_PER_H, -MOST_TICKS, MOST_TICKS).astype(np.int16), kind="stable")
        open_, in_time = open_[order], in_time[order]
        now_h, late_h = table.on_time_h[mine[open_], t], table.late_h[mine[open_], t]
        ahead_h[open_] -= now_h
        by_pool, by_tank = _Grouped(pool[open_], pools), _Grouped(tank[open_], len(home))
        most = np.minimum(left[open_], rate[open_] * np.where(now_h > 0, now_h, late_h))
        must = np.clip(left[open_] - rate[open_] * ahead_h[open_], 0.0, np.where(in_time, most, 0.0))
        rest: Floats = np.bincount(home, planned[:, t], minlength=pools).astype(np.float64)
        rest += spare.taken(by_pool.total(must) - rest, t)
        given = by_pool.poured(must, rest)
        rest -= by_pool.total(given)
        own = np.maximum(planned[:, t] - by_tank.total(given), 0.0)
        asked = np.bincount(home, own, minlength=pools)
        own *= np.minimum(1.0, np.maximum(rest, 0.0) / np.maximum(asked, 1e-12))[home]
        more = by_tank.poured(most - given, own)
        rest -= by_pool.total(more)
        given += more
        given += by_pool.poured(most - given, np.maximum(rest, 0.0))
        done[open_, t] = given
        left[open_] -= given
    return done


@dataclass(frozen=True)
class _Spare:
    """Room for more work than was planned: GPU-hours that each pool's GPUs could still do, kW that each site's caps
    leave, and the kW of IT power for a GPU-hour of work an hour at full speed [pool or site, interval]."""

    gpu_h: Floats
    room_kw: Floats
    kw_per_work: Floats
    site: Ints
    hours: Floats

    def taken(self, wanted: Floats, t: int) -> Floats:
        """How much of the work that is `wanted` [pool] there is room for in an interval: where the site has too little
        power for all pools, each gets the same part."""
        more = np.clip(np.minimum(wanted, self.gpu_h[:, t]), 0.0, None)
        need_kw = np.bincount(self.site, more * self.kw_per_work[:, t] / self.hours[t], minlength=len(self.room_kw))
        part = np.minimum(1.0, np.maximum(self.room_kw[:, t], 0.0) / np.maximum(need_kw, 1e-12))
        found: Floats = more * part[self.site]
        return found


def _spare(facts: Facts, draft: Draft) -> _Spare:
    """What a draft leaves."""
    site = np.array([pool.site for pool in facts.pools], dtype=np.int64)
    it_kw = facts.other_kw.copy()
    np.add.at(it_kw, site, draft.draw_kw)
    imports = it_kw * facts.pue + (draft.drawn.net_kw(facts) if draft.drawn is not None else 0.0)
    caps = np.minimum(facts.limit_kw, facts.events_cap_kw)
    most = np.array([pool.working * pool.top_throughput if pool.batch else 0.0 * facts.hours for pool in facts.pools])
    work = np.array([_planned(draft, pool.index) for pool in facts.pools])
    kw = np.array([pool.kw_per_work if pool.batch else 0.0 * facts.hours for pool in facts.pools])
    return _Spare((most - work) * facts.hours, (caps - imports) / facts.pue, kw, site, facts.hours)


def _small(numbers: Ints) -> Ints | NDArray[np.int16]:
    """The same numbers in two bytes where they fit: those numpy sorts by counting, in a tenth of the time."""
    return numbers.astype(np.int16) if numbers.max(initial=0) < np.iinfo(np.int16).max else numbers


class _Grouped:
    """Jobs in an order by what they belong to, that order kept in each of `count` groups."""

    def __init__(self, group: Ints | NDArray[np.int16], count: int) -> None:
        self._count = count
        self._order = np.argsort(group, kind="stable")
        self._group = group[self._order]
        self._begins = np.searchsorted(self._group, np.arange(count + 1))

    def total(self, values: Floats) -> Floats:
        """Sum of each group."""
        running = np.append(0.0, np.cumsum(values[self._order]))
        return np.diff(running[self._begins])

    def poured(self, most: Floats, budget: Floats) -> Floats:
        """What each gets of its group's budget, in order, no more than `most` [job]."""
        asked = most[self._order]
        before = np.append(0.0, np.cumsum(asked))
        room = (budget + before[self._begins[:-1]])[self._group]
        got = np.empty(len(most))
        got[self._order] = np.clip(room - before[:-1], 0.0, asked)
        return got
