"""A problem an interval later: new numbers, a window that has moved, jobs that came and went; and a day in closed loop.

Why a closed loop: a simplification that loses a hundred-thousandth of one plan's objective can lose a tenth of a day's
cost, by the tight jobs that it misses. So what is judged is the day that was lived, at its true costs.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np

from benchmarks.support.reference import START, STEP, fine_grid, reference_problem
from optimizer.assemble import Draft, assemble
from optimizer.check import check_plan
from optimizer.domain import BatchJob, Plan, Problem, Rung
from optimizer.facts import Facts, Floats, facts_of
from optimizer.jobplans import job_rows
from optimizer.timegrid import planning_grid

Planner = Callable[[Problem], Plan]
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


def stepped(seed: int, steps: int, jobs: int, pools: int, horizon_h: float = 24.0) -> Problem:
    """The day `steps` intervals later: the window has moved, and in each step one job in 200 left and one came."""
    grid = planning_grid(START + steps * STEP, timedelta(hours=horizon_h), STEP)
    problem = reference_problem(seed, grid, jobs, pools)
    gone = min(jobs, steps * max(1, jobs // 200))
    fresh = reference_problem(seed + 1_000_003, grid, jobs, pools).jobs[:gone]
    batch = [item.pool.id for item in problem.pools[1::2]]
    new = [replace(job, id=f"new-{job.id}", pools=(batch[n % len(batch)],)) for n, job in enumerate(fresh)]
    return replace(problem, jobs=(*problem.jobs[gone:], *new))


def closed_loop_loss(
    seed: int, jobs: int, pools: int, horizon_h: float, planner: Planner, optimum: float | None = None
) -> tuple[float, float]:
    """Cost of a day that is planned anew every quarter of an hour, over the full-information optimum on the uniform
    grid, less one; and the objective of that optimum (`optimum` where it is known: else `planner` is asked for it).
    Cost is all value that could be had less what was: energy, charges, service and work missed."""
    whole = reference_problem(seed, fine_grid(horizon_h), jobs, pools)
    end = whole.grid.end
    whole = replace(whole, jobs=tuple(job for job in whole.jobs if job.deadline <= end))
    facts = facts_of(whole)
    if optimum is None:
        optimum = planner(whole).objective
    lived = _lived(facts, planner)
    broken = check_plan(whole, lived)
    if broken:
        raise RuntimeError(f"the day that was lived breaks a promise: {broken[0]}")
    most = _most(facts)
    return (most - lived.objective) / (most - optimum) - 1.0, optimum


def _most(facts: Facts) -> float:
    """All value that could be had: every GPU with work at its best, every job in time."""
    service = sum(
        pool.pool.value_per_gpu_h * float((pool.working * pool.top_throughput * facts.hours).sum())
        for pool in facts.pools
        if not pool.batch
    )
    return service + float((facts.table.value_per_gpu_h * facts.table.left).sum())


def _lived(facts: Facts, planner: Planner) -> Plan:
    """The day as it was lived: each plan's first quarter of an hour, one after the other."""
    whole, count = facts.problem, facts.count
    draw, rates = np.zeros((len(facts.pools), count)), np.zeros((len(facts.jobs), count))
    ids, fine = [job.id for job in facts.table.jobs], int(REPLAN / STEP)
    for first in range(0, count, fine):
        now = whole.grid.edges[first]
        done = rates @ facts.hours
        asked = _at(whole, facts, now, done, draw[:, :first])
        plan = planner(asked)
        steps = slice(first, min(first + fine, count))
        width = steps.stop - first
        for pool in facts.pools:
            draw[pool.index, steps] = plan.pools[pool.pool.id].draw_kw[:width]
        rates[:, steps] = job_rows(plan.jobs, ids, len(plan.grid)).rates[:, :width]
    return assemble(facts, Draft(draw, rates, tuple(facts.table.first_pool.tolist())), Rung.OPTIMUM)


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
