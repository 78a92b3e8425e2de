"""The same problem on fewer, longer intervals, for what needs no fine answer: how high a peak, how much reserve.

Why: a linear program of a third of the intervals takes a tenth of the time, and a fan asks twenty of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np

from optimizer.domain import PoolInputs, Problem, SiteInputs
from optimizer.model.parts import Ints
from optimizer.timegrid import TimeGrid, floor_time
from optimizer.uncertain import Scenario, Values

Merge = Callable[[tuple[float, ...]], tuple[float, ...]]
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
Widths = tuple[tuple[timedelta, timedelta], ...]
"""How long blocks are that begin so long after the start, or later."""

HOURLY: Widths = ((0 * HOUR, HOUR), (DAY, 6 * HOUR))
ROUGH: Widths = ((0 * HOUR, HOUR), (8 * HOUR, 2 * HOUR), (DAY, 6 * HOUR))
"""For how high a peak will be: what hours late in the day add up to is the same in twos, at a quarter less of a fan's
time (docs/decisions/0037)."""


def shortened(problem: Problem, widths: Widths = HOURLY, at: frozenset[datetime] = frozenset()) -> tuple[Problem, Ints]:
    """The problem with the present interval as it is and the rest merged into blocks of the clock that also end `at`
    some moments, and the block of each of the problem's own intervals."""
    start = problem.grid.start
    marks = [_block(moment, start, widths) for moment in problem.grid.starts]
    marks[0] = start
    ends = [n <= 1 or marks[n] != marks[n - 1] or moment in at for n, moment in enumerate(problem.grid.starts)]
    first = np.flatnonzero(ends)
    return merged(problem, first), np.searchsorted(first, np.arange(len(marks)), side="right") - 1


def _block(moment: datetime, start: datetime, widths: Widths) -> datetime:
    """Start of the block that holds a moment."""
    blocks = [floor_time(moment, width) for _, width in widths]
    there = [block for block, (after, _) in zip(blocks, widths, strict=True) if block - start >= after]
    return there[-1] if there else blocks[0]


def merged(problem: Problem, first: Ints) -> Problem:
    """The problem on longer intervals, each from one of `first` (numbers of intervals, the first 0) up to the next.

    Prices, loads and what flows are means over the time; a limit is the lowest, a charge is active where it is in any
    part, and probabilities of a coincident peak add up.
    """
    hours = np.array(problem.grid.hours)
    width = np.add.reduceat(hours, first)

    def mean(values: tuple[float, ...]) -> tuple[float, ...]:
        found: tuple[float, ...] = tuple((np.add.reduceat(np.array(values) * hours, first) / width).tolist())
        return found

    def least(values: tuple[float, ...]) -> tuple[float, ...]:
        found: tuple[float, ...] = tuple(np.minimum.reduceat(np.array(values), first).tolist())
        return found

    def most(values: tuple[float, ...]) -> tuple[float, ...]:
        found: tuple[float, ...] = tuple(np.maximum.reduceat(np.array(values), first).tolist())
        return found

    def total(values: tuple[float, ...]) -> tuple[float, ...]:
        found: tuple[float, ...] = tuple(np.add.reduceat(np.array(values), first).tolist())
        return found

    edges = np.append(first, len(hours)).tolist()
    return replace(
        problem,
        grid=TimeGrid(tuple(problem.grid.edges[n] for n in edges)),
        sites=tuple(_site(site, first, mean, least, total) for site in problem.sites),
        pools=tuple(_pool(inputs, mean, most) for inputs in problem.pools),
        scenarios=tuple(_scenario(scenario, mean, least) for scenario in problem.scenarios),
    )


def _site(site: SiteInputs, first: Ints, mean: Merge, least: Merge, total: Merge) -> SiteInputs:
    return replace(
        site,
        price_per_mwh=mean(site.price_per_mwh),
        limit_kw=least(site.limit_kw),
        pue=mean(site.pue),
        other_it_kw=mean(site.other_it_kw),
        carbon_g_per_kwh=mean(site.carbon_g_per_kwh),
        demand_charges=tuple(
            replace(charge, active=tuple(np.logical_or.reduceat(np.array(charge.active), first).tolist()))
            for charge in site.demand_charges
        ),
        coincident=tuple(replace(peak, probability=total(peak.probability)) for peak in site.coincident),
        generators=tuple(
            replace(unit, low_kw=mean(unit.low_kw), high_kw=mean(unit.high_kw)) for unit in site.generators
        ),
        reserves=tuple(replace(offer, price_per_kw_h=mean(offer.price_per_kw_h)) for offer in site.reserves),
    )


def _pool(inputs: PoolInputs, mean: Merge, most: Merge) -> PoolInputs:
    floors = most(inputs.floors) if inputs.floors else ()
    return replace(inputs, load=tuple(min(1.0, load) for load in mean(inputs.load)), floors=floors)


def _scenario(scenario: Scenario, mean: Merge, least: Merge) -> Scenario:
    def rows(values: Values, merge: Merge) -> Values:
        return tuple(merge(row) for row in values)

    return replace(
        scenario,
        price_per_mwh=rows(scenario.price_per_mwh, mean),
        limit_kw=rows(scenario.limit_kw, least),
        other_it_kw=rows(scenario.other_it_kw, mean),
        load=rows(scenario.load, lambda row: tuple(min(1.0, share) for share in mean(row))),
    )
