"""Tanks of work on longer intervals: hours of the clock, and only as many of them as limits and events need.

Why: fifty tanks in 76 intervals are 18,000 columns, a third of which in hours cost the solver an eighth of the time,
and plan 5e-6 of the objective less (seen on the reference problem with 50,000 jobs). What is planned for an hour is
spread over its intervals by where the jobs' windows lie; users keep the throttle of the hour under each interval's own
load, and are shed where that would be above a cap. Only for problems in which nothing but jobs joins one interval to
the next: no batteries, engines, parked GPUs or ramps, no event that waits for an answer, no job with rules of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from optimizer.assemble import NO_DUALS, Draft
from optimizer.coarse import HOUR, merged
from optimizer.facts import Facts, Floats
from optimizer.jobfacts import Jobs, JobTable, Stock
from optimizer.model.parts import Ints
from optimizer.poolfacts import PoolFacts
from optimizer.ramps import is_paced
from optimizer.room import fit
from optimizer.tanks import Tanks
from optimizer.timegrid import floor_time

LEAST_CELLS = 1000
"""Fewer tanks times intervals than that are solved as they are, in a few hundredths of a second."""


@dataclass(frozen=True, eq=False)
class LongTanks(Tanks):
    """Tanks whose `facts` are on longer intervals; `short` are those on the problem's own, and `first` the number of
    the first of these in each longer one."""

    short: Facts
    first: Ints

    def split(self, draft: Draft) -> Draft:
        """The draft of the tanks as one of their members, on the problem's own intervals."""
        return super().split(self._spread(draft))

    def _spread(self, draft: Draft) -> Draft:
        """The draft of the same tanks on the problem's own intervals, inside every cap."""
        facts = self.short
        block = np.searchsorted(self.first, np.arange(facts.count), side="right") - 1
        rates = _within_gpus(facts, draft, _where_open(self, draft.rates, block))
        homes, users = np.array(draft.job_pool, dtype=np.int64), np.zeros((len(facts.pools), facts.count))
        for pool, long in zip(facts.pools, self.facts.pools, strict=True):
            if not pool.batch:
                above = (draft.draw_kw[pool.index] - long.base_kw) / np.maximum(long.working, 1e-9)
                users[pool.index] = np.maximum(pool.base_kw + pool.working * above[block], pool.least_kw)
        draw = fit(facts, _with_batch(facts, users, rates, homes))
        rates = _within_caps(facts, draw, rates, homes)
        draw = _with_batch(facts, draw, rates, homes)
        return replace(draft, draw_kw=draw, rates=rates, worth=NO_DUALS, drawn=None, parked=None)


def in_hours(tanks: Tanks) -> Tanks:
    """The same tanks on longer intervals, where there are many, and nothing else joins the intervals."""
    if len(tanks.facts.table) * tanks.facts.count < LEAST_CELLS or not _plain(tanks):
        return tanks
    first = _first_of_hours(tanks.facts)
    return LongTanks(tanks.whole, _longer(tanks.facts, first), tanks.of, tanks.facts, first)


def _plain(tanks: Tanks) -> bool:
    """Whether nothing but the jobs' work joins one interval to another."""
    facts, stock = tanks.facts, tanks.facts.table.stock
    sites, problem = range(len(facts.problem.sites)), facts.problem
    own = any(site.batteries or site.generators or site.reserves for site in problem.sites)
    paced = any(is_paced(facts, s, up) for s in sites for up in (True, False))
    open_ = any(event.undecided for event in problem.events) or bool(problem.scenarios)
    parks = any(pool.parked is not None for pool in facts.pools)
    return not (own or paced or open_ or parks) and stock is not None and len(stock.rows) == len(facts.table)


def _first_of_hours(facts: Facts) -> Ints:
    """First intervals of hours of the clock; the present interval stays alone, and another hour begins where a limit or
    an event's cap, or whether a floor may give, changes."""
    hour = np.array([floor_time(start, HOUR).timestamp() for start in facts.problem.grid.starts])
    breaks = np.array([pool.may_break_floor for pool in facts.pools], dtype=np.float64)
    rows = np.nan_to_num(np.vstack((hour, facts.limit_kw, facts.event_kw, breaks)), posinf=-1.0)
    begins = np.append(True, (np.diff(rows, axis=1) != 0).any(axis=0))
    begins[:2] = True
    return np.flatnonzero(begins)


# ---------------------------------------------------------------- longer
def _longer(facts: Facts, first: Ints) -> Facts:
    """The facts on longer intervals: means over the time, and of pools' hulls the one that slows GPUs least."""
    hours = np.add.reduceat(facts.hours, first)

    def mean(values: Floats) -> Floats:
        found: Floats = np.add.reduceat(values * facts.hours, first, axis=-1) / hours
        return found

    return replace(
        facts,
        problem=merged(facts.problem, first),
        hours=hours,
        cost_per_kwh=mean(facts.cost_per_kwh),
        pue=mean(facts.pue),
        other_kw=mean(facts.other_kw),
        limit_kw=facts.limit_kw[:, first],
        event_kw=facts.event_kw[:, first],
        pools=tuple(_pool(pool, first, mean(pool.working)) for pool in facts.pools),
        jobs=Jobs(_table(facts.table, first)),
        coincident_per_kwh=mean(facts.coincident_per_kwh),
    )


def _pool(pool: PoolFacts, first: Ints, working: Floats) -> PoolFacts:
    ends = np.append(first[1:], len(pool.hulls)).tolist()
    hulls = tuple(
        max(pool.hulls[start:end], key=lambda hull: hull.segments[0].width_w if hull.segments else 0.0)
        for start, end in zip(first.tolist(), ends, strict=True)
    )
    return replace(
        pool,
        working=working,
        hulls=hulls,
        floor_caps_w=np.maximum.reduceat(pool.floor_caps_w, first),
        may_break_floor=pool.may_break_floor[first],
        speed=None,
        lone_gpus=None,
        alone=None,
    )


def _table(table: JobTable, first: Ints) -> JobTable:
    """The tanks' table: hours add up, what must and can be done counts at the end of each longer interval."""
    stock = table.stock
    assert stock is not None
    last = np.append(first[1:], table.on_time_h.shape[1]) - 1
    return replace(
        table,
        on_time_h=np.add.reduceat(table.on_time_h, first, axis=1),
        late_h=np.add.reduceat(table.late_h, first, axis=1),
        hours_late=table.hours_late[:, first],
        stock=Stock(stock.rows, stock.least[:, last], stock.most[:, last]),
    )


# ---------------------------------------------------------------- and back
def _where_open(tanks: LongTanks, rates: Floats, block: Ints) -> Floats:
    """Rates on short intervals [tank, interval]: each longer one's work where the tank's windows lie in it."""
    short, long = tanks.short, tanks.facts
    open_h = long.table.on_time_h
    part = short.table.on_time_h / np.where(open_h > 0, open_h, 1.0)[:, block]
    found: Floats = (rates * long.hours)[:, block] * part / short.hours
    return found


def _with_batch(facts: Facts, draw: Floats, rates: Floats, homes: Ints) -> Floats:
    """The draws with those of batch pools that the rates take."""
    found = draw.copy()
    for pool in facts.pools:
        if pool.batch:
            found[pool.index] = pool.draws_for(rates[homes == pool.index].sum(axis=0))
    return found


def _within_gpus(facts: Facts, draft: Draft, rates: Floats) -> Floats:
    """The rates with no more work in a pool than all its GPUs can do."""
    homes = np.array(draft.job_pool, dtype=np.int64)
    for pool in facts.pools:
        mine = homes == pool.index
        work, most = rates[mine].sum(axis=0), pool.working * pool.top_throughput
        rates[mine] *= np.minimum(1.0, most / np.maximum(work, 1e-12))
    return rates


def _within_caps(facts: Facts, draw: Floats, rates: Floats, homes: Ints) -> Floats:
    """The rates with less work where a site is above its caps though its users are at their floors."""
    for s in range(len(facts.problem.sites)):
        pools = [pool for pool in facts.pools if pool.site == s]
        it_kw = facts.other_kw[s] + draw[[pool.index for pool in pools]].sum(axis=0)
        over_kw = it_kw - facts.usable_cap_kw[s] / facts.pue[s]
        batch = [pool for pool in pools if pool.batch]
        above_kw = sum((draw[pool.index] - pool.base_kw for pool in batch), np.zeros(facts.count))
        part = np.clip(1.0 - over_kw / np.maximum(above_kw, 1e-9), 0.0, 1.0)
        here = np.isin(homes, [pool.index for pool in batch])
        rates[here] *= np.where(over_kw > 1e-9, part, 1.0)
    return rates
