"""Gridpace's planner as a chooser for a market year; it sees only what was known at its moment.

Case "known": the price of an interval is known when it begins. Case "lagged": only when it has ended. Day-ahead prices
of the whole local day are public before the day begins; of later days nothing is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from benchmarks.support.expecting import Expecting
from benchmarks.support.market import FIRM_KW, MOST_KW, Chooser, Days, Market, walk
from optimizer.domain import (
    BatchJob,
    CurvePoint,
    GpuPool,
    Plan,
    PoolInputs,
    PowerCurve,
    Prices,
    Problem,
    SiteInputs,
    Work,
)
from optimizer.facts import WAITING_PER_GPU_H_H, Floats
from optimizer.forecast import on_grid
from optimizer.rivals.rule import share_now
from optimizer.session import Session
from optimizer.timegrid import TimeGrid, planning_grid

PER_MWH_H = 1000.0 * WAITING_PER_GPU_H_H
"""What a plan counts for work that waits, per MWh and hour: a GPU of the benchmark site draws a kilowatt."""
CURVE = PowerCurve("linear", 0.0, (CurvePoint(1000.0, 1000.0, 1.0),))
POOL = GpuPool("batch", "site", "any", int(MOST_KW), Work.BATCH, CURVE, 0.0, 0.0, 1000.0, 1000.0)


@dataclass
class Gridpace:
    """The product's own forecast and its own linear program, warm from step to step, for one day after the other.
    `expecting` may be that of the other case: what is learned of a day is the same."""

    market: Market
    lagged: bool
    plan_every: int = 25
    session: Session = field(default_factory=Session)
    expecting: Expecting | None = None

    def choose(self, index: int, last: int, owed: float) -> float:
        """The first step of the plan for the rest of the day.

        The optimum of one job without other limits is known by sorting prices, with the little that a plan counts for
        work that waits. In every `plan_every`-th interval the planner itself is asked, and must say the same:
        RuntimeError where it doesn't.
        """
        forecast = self.prices(index, last)
        prices = forecast + PER_MWH_H * self.market.hours * (np.arange(len(forecast)) + 0.5)
        sorted_out = share_now(prices, owed)
        if index % self.plan_every or np.any(np.abs(prices[1:] - prices[0]) < 1e-6):
            return sorted_out
        planned = first_step(self.session.plan(problem(self.market, index, last, owed, forecast)))
        if abs(planned - sorted_out) > 1e-5:
            raise RuntimeError(f"{self.market.starts[index]}: the plan runs at {planned:.6f}, the optimum {sorted_out}")
        return planned

    def prices(self, index: int, last: int) -> Floats:
        """Known and forecast prices of [index, last)."""
        made, known = self.market, index if self.lagged else index + 1
        if made.published or known == last:
            return made.price[index:last]
        if self.expecting is None:
            self.expecting = Expecting(made)
        return np.concatenate((made.price[index:known], self.expecting.after(known, last)))


def problem(made: Market, index: int, last: int, owed: float, prices: Floats, grid: TimeGrid | None = None) -> Problem:
    """The rest of a day as Gridpace's planner gets it: one job that is due at midnight. `prices` are per interval of
    the market; another grid gets their means."""
    edges = (*made.starts[index:last], made.starts[last - 1] + made.step)
    if grid is None:
        grid, values = TimeGrid(edges), tuple(prices.tolist())
    else:
        values = on_grid(made.series(np.concatenate((made.price[:index], prices)), index, last), grid)
    count = len(grid)
    site = SiteInputs("site", values, (float("inf"),) * count, (1.0,) * count, (FIRM_KW,) * count, (0.0,) * count)
    job = BatchJob("day", (POOL.id,), edges[0], edges[-1], owed * MOST_KW * made.hours, POOL.count,
                   late_penalty=1e5, undone_penalty=1e6)  # fmt: skip
    return Problem(edges[0], grid, (site,), (PoolInputs(POOL, (1.0,) * count),), (job,), (), Prices(change_per_kw=0.0))


def first_step(plan: Plan) -> float:
    """Share of full power in the first interval of the plan."""
    return float(plan.pools[POOL.id].draw_kw[0]) / MOST_KW


def by_plan(made: Market, prices: Callable[[int, int], Floats], daemon_grid: bool) -> Chooser:
    """The planner itself with some knowledge of the rest of the day, on the market's intervals or on the daemon's
    coarser grid. `prices` of [index, last)."""
    session = Session()

    def choose(index: int, last: int, owed: float) -> float:
        left = made.starts[last - 1] + made.step - made.starts[index]
        grid = planning_grid(made.starts[index], left, made.step) if daemon_grid else None
        return first_step(session.plan(problem(made, index, last, owed, prices(index, last), grid)))

    return choose


def planned(lived: Gridpace, days: Days) -> Floats:
    """Those days by the planner itself, with the product's forecast on the daemon's multi-resolution grid."""
    return walk(lived.market, by_plan(lived.market, lived.prices, True), days)


def foreseen(made: Market, days: Days, daemon_grid: bool) -> Floats:
    """Those days by the planner itself with perfect prices."""
    return walk(made, by_plan(made, lambda index, last: made.price[index:last], daemon_grid), days)


def regret(real: float, coarse: float, fine: float) -> dict[str, float]:
    """What the planner misses of perfect foresight's saving, by cause; the causes add up to the whole. Shares of the
    same days lived three times: `planned`, `foreseen` on the daemon's grid (the difference is what the forecast cost)
    and on the market's uniform intervals (what the grid cost; the rest is the solver's gap)."""
    return {"forecast": coarse - real, "grid": fine - coarse, "gap": 1.0 - fine, "whole": 1.0 - real}


def knowing_means(made: Market, hours: int) -> Chooser:
    """One who knows the mean of every whole block of so many hours of the day, and of each interval nothing more."""
    count = round(hours / made.hours)
    means = made.price.copy()
    for first, last in made.days():
        for at in range(first, last, count):
            block = slice(at, min(at + count, last))
            means[block] = made.price[block].mean()
    return lambda index, last, owed: share_now(means[index:last], owed)
