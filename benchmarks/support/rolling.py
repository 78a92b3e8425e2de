"""A problem an interval later: new numbers, a window that has moved, jobs that came and went; and a day in closed loop.

Why a closed loop: a simplification that loses a hundred-thousandth of one plan's objective can lose a tenth of a day's
cost, by the tight jobs that it misses. So what is judged is the day that was lived, at its true costs.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from benchmarks.support.reference import START, STEP, fine_grid, reference_problem
from optimizer.assemble import Draft, assemble
from optimizer.check import check_plan
from optimizer.curves import draw_at_cap, hull_from_idle, throughput_at_cap
from optimizer.domain import BatchJob, Plan, PoolPlan, Problem, Rung
from optimizer.facts import Facts, Floats, facts_of
from optimizer.highs import solve_arrays
from optimizer.jobplans import job_rows
from optimizer.model.arrays import write_arrays
from optimizer.model.build import declare
from optimizer.poolfacts import PoolFacts
from optimizer.timegrid import planning_grid

Planner = Callable[[Problem], Plan]
PATIENCE_S = 300.0
OPTIMA = 4
"""Plans of the whole day under one cap, one after the other: each starts at the speeds that paid in the last."""

REPLAN = timedelta(minutes=15)
PRICE_NOISE, LOAD_NOISE = 0.02, 0.01
"""Standard deviations of what changes from one interval's forecast to the next, as shares."""


def refreshed(problem: Problem, seed: int) -> Problem:
    """The same structure with new numbers: every price and every load moved a little."""
    rng = random.Random(seed)
    sites = tuple(
        replace(site, price_per_mwh=tuple(price * (1 + PRICE_NOISE * rng.gauss(0, 1)) for price in site.price_per_mwh))
        for site in problem.sites
    )
    pools = tuple(
        replace(item, load=tuple(min(1.0, max(0.0, load * (1 + LOAD_NOISE * rng.gauss(0, 1)))) for load in item.load))
        for item in problem.pools
    )
    return replace(problem, sites=sites, pools=pools)


def stepped(
    seed: int,
    steps: int,
    jobs: int,
    pools: int,
    horizon_h: float = 24.0,
    change_per_kw: float = 0.0,
    one_cap: bool = False,
) -> Problem:
    """The day `steps` intervals later: the window has moved, and in each step one job in 200 left and one came. See
    `reference_problem`."""
    grid = planning_grid(START + steps * STEP, timedelta(hours=horizon_h), STEP)
    problem = reference_problem(seed, grid, jobs, pools, change_per_kw, one_cap)
    gone = min(jobs, steps * max(1, jobs // 200))
    fresh = reference_problem(seed + 1_000_003, grid, jobs, pools).jobs[:gone]
    batch = [item.pool.id for item in problem.pools[1::2]]
    new = [replace(job, id=f"new-{job.id}", pools=(batch[n % len(batch)],)) for n, job in enumerate(fresh)]
    return replace(problem, jobs=(*problem.jobs[gone:], *new))


@dataclass(frozen=True)
class Day:
    """Costs of a day: as it was lived, as the full-information optimum has it, and a bound that no plan reaches. Cost
    is all value that could be had less what was: energy, charges, service and work missed. `short_gpu_h`: work that was
    planned for the present quarters of an hour and not done, of `planned_gpu_h`."""

    lived: float
    optimum: float
    bound: float
    short_gpu_h: float = 0.0
    planned_gpu_h: float = 0.0

    @property
    def loss(self) -> float:
        """Of the closed loop, over the full-information optimum on the uniform grid."""
        return self.lived / self.optimum - 1.0

    @property
    def above_bound(self) -> float:
        """The same over the bound."""
        return self.lived / self.bound - 1.0

    @property
    def short(self) -> float:
        """Share of the planned work that was not done when it was planned."""
        return self.short_gpu_h / max(self.planned_gpu_h, 1e-9)


@dataclass
class Living:
    """A day as far as it was lived: objectives of its optimum and of the bound, intervals that are over, draws in kW
    [pool, interval], rates [job, interval], and the work that was planned in GPU-hours."""

    optima: list[float] = field(default_factory=list)
    least: float | None = None
    over: int = 0
    draw: Floats | None = None
    rates: Floats | None = None
    asked_gpu_h: float = 0.0
    keep: Callable[[], None] | None = None
    """Called after every plan: what it raises ends the day, which goes on from there another time."""

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "keep": None}

    def told(self) -> None:
        """There is more."""
        if self.keep is not None:
            self.keep()


def closed_loop(
    seed: int,
    jobs: int,
    pools: int,
    horizon_h: float,
    planner: Planner,
    known: Day | None = None,
    *,
    one_cap: bool = False,
    living: Living | None = None,
) -> Day:
    """A day that is planned anew every quarter of an hour and lived under the caps of the plans, beside the best that
    could be done with all that comes known at its start. `known`: the same day by another planner, whose optimum and
    bound hold here too. `one_cap`: jobs are held to what their GPUs do under the one cap of their pool. `living`: what
    was lived of it already."""
    whole = reference_problem(seed, fine_grid(horizon_h), jobs, pools, one_cap=one_cap)
    end = whole.grid.end
    whole = replace(whole, jobs=tuple(job for job in whole.jobs if job.deadline <= end))
    facts = facts_of(whole)
    most, living = _most(facts), living or Living()
    if known is None:
        while len(living.optima) < (OPTIMA if one_cap else 1):
            living.optima.append(planner(whole).objective)
            living.told()
        living.least = _least(facts) if living.least is None else living.least
        known = Day(0.0, most - max(living.optima), most + living.least)
    lived, done_gpu_h, planned_gpu_h = _lived(facts, planner, living)
    broken = check_plan(whole, lived, lived=True)
    if broken:
        raise RuntimeError(f"the day that was lived breaks a promise: {broken[0]}")
    short_gpu_h = planned_gpu_h - done_gpu_h
    return replace(known, lived=most - lived.objective, short_gpu_h=short_gpu_h, planned_gpu_h=planned_gpu_h)


def _least(facts: Facts) -> float:
    """Least objective where no job waits for the speed of its pool: as if every GPU had a cap of its own, at the mean
    power of the pool. What plans owe to one cap for all is in what they lose against it."""
    pools = tuple(
        replace(pool, hulls=(hull_from_idle(pool.curve),) * facts.count, speed=None) if pool.batch else pool
        for pool in facts.pools
    )
    free = replace(facts, pools=pools)
    return solve_arrays(write_arrays(declare(facts.problem, free)), PATIENCE_S).objective


def _most(facts: Facts) -> float:
    """All value that could be had: every GPU with work at its best, every job in time."""
    service = sum(
        pool.pool.value_per_gpu_h * float((pool.working * pool.top_throughput * facts.hours).sum())
        for pool in facts.pools
        if not pool.batch
    )
    return service + float((facts.table.value_per_gpu_h * facts.table.left).sum())


def _lived(facts: Facts, planner: Planner, living: Living) -> tuple[Plan, float, float]:
    """The day as it was lived, each plan's first quarter of an hour one after the other; the work that jobs did, and
    what was planned of it, in GPU-hours. All GPUs of a batch pool run under its plan's cap."""
    whole, count = facts.problem, facts.count
    draw = np.zeros((len(facts.pools), count)) if living.draw is None else living.draw
    rates = np.zeros((len(facts.jobs), count)) if living.rates is None else living.rates
    ids, fine = [job.id for job in facts.table.jobs], int(REPLAN / STEP)
    living.draw, living.rates = draw, rates
    for first in range(living.over, count, fine):
        now = whole.grid.edges[first]
        done = rates @ facts.hours
        plan = planner(_at(whole, facts, now, done, draw[:, :first]))
        steps = slice(first, min(first + fine, count))
        width = steps.stop - first
        planned = job_rows(plan.jobs, ids, len(plan.grid)).rates[:, :width]
        living.asked_gpu_h += float((planned @ facts.hours[steps]).sum())
        for pool in facts.pools:
            orders = plan.pools[pool.pool.id]
            draw[pool.index, steps] = orders.draw_kw[:width]
            if pool.batch:
                mine = facts.table.of_pool(pool.index)
                rates[mine, steps], draw[pool.index, steps] = under_caps(facts, pool, steps, orders, planned[mine])
        living.over = steps.stop
        living.told()
    lived = assemble(facts, Draft(draw, rates, tuple(facts.table.first_pool.tolist())), Rung.OPTIMUM)
    return lived, float((rates @ facts.hours).sum()), living.asked_gpu_h


def under_caps(facts: Facts, pool: PoolFacts, steps: slice, orders: PoolPlan, planned: Floats) -> tuple[Floats, Floats]:
    """What the jobs of a pool do [job, interval] and what it draws in kW [interval] under its caps: each job what was
    planned, or what its GPUs do at that speed. Where all do what was planned the pool draws what was planned, else each
    GPU what it draws under the cap. A cap is rounded down to a whole watt; what that takes is not counted."""
    table, mine, width = facts.table, facts.table.of_pool(pool.index), planned.shape[1]
    caps_w = [cap + 1.0 for cap in orders.cap_w[:width]]
    speed = np.array([throughput_at_cap(pool.curve, cap) for cap in caps_w])
    busy_kw = np.array([draw_at_cap(pool.curve, cap) - pool.curve.idle_w for cap in caps_w]) / 1000.0
    open_ = np.minimum(1.0, (table.on_time_h + table.late_h)[mine, steps] / facts.hours[steps])
    own = np.minimum(table.max_gpus[mine], pool.pool.count)[:, None] * open_
    rates = np.minimum(planned, own * speed)
    rates *= np.minimum(1.0, pool.pool.count * speed / np.maximum(rates.sum(axis=0), 1e-9))
    drawn = pool.base_kw[steps] + rates.sum(axis=0) / np.maximum(speed, 1e-9) * busy_kw
    kept = (planned - rates).sum(axis=0) < 1e-6
    return rates, np.where(kept, orders.draw_kw[:width], drawn)


def _at(whole: Problem, facts: Facts, now: datetime, done: Floats, draw_kw: Floats) -> Problem:
    """What is left of the day at `now`: work done, and the peak so far."""
    grid = planning_grid(now, whole.grid.end - now, STEP)
    left = _on(whole, grid.starts)
    past = draw_kw.shape[1]
    imports = (draw_kw.sum(axis=0) + facts.other_kw[0, :past]) * facts.pue[0, :past]
    site = left.sites[0]
    charges = tuple(
        replace(
            charge,
            peak_so_far_kw=max(charge.peak_so_far_kw, float(imports.max(initial=0.0))),
            active=charge.active[: len(grid)],
        )
        for charge in site.demand_charges
    )
    jobs: tuple[BatchJob, ...] = tuple(
        replace(job, done_gpu_h=min(job.work_gpu_h, float(hours)))
        for job, hours in zip(facts.table.jobs, done, strict=True)
    )
    return replace(left, grid=grid, made_at=now, sites=(replace(site, demand_charges=charges),), jobs=jobs)


def _on(whole: Problem, starts: tuple[datetime, ...]) -> Problem:
    """The rest of the same day on other intervals: each takes the mean of its fine ones."""
    at = np.array([whole.grid.index(start) for start in starts])
    widths = np.diff(np.append(at, len(whole.grid)))

    def cut(values: tuple[float, ...]) -> tuple[float, ...]:
        means: list[float] = (np.add.reduceat(np.array(values), at) / widths).tolist()
        return tuple(means)

    sites = tuple(
        replace(
            site,
            price_per_mwh=cut(site.price_per_mwh),
            limit_kw=cut(site.limit_kw),
            pue=cut(site.pue),
            other_it_kw=cut(site.other_it_kw),
            carbon_g_per_kwh=cut(site.carbon_g_per_kwh),
        )
        for site in whole.sites
    )
    return replace(
        whole,
        sites=sites,
        pools=tuple(replace(item, load=tuple(min(1.0, load) for load in cut(item.load))) for item in whole.pools),
    )
