"""Refuses a plan that breaks a promise, whoever made it. Used on every plan before it is obeyed, not only in tests.

Why with arithmetic of its own: a checker that shares code with the model shares its mistakes. It reads the problem, the
measured curves and the events' envelope, and nothing that the planner computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, pairwise
from math import isfinite

import numpy as np
from numpy.typing import ArrayLike, NDArray

from optimizer.check_jobs import TOL, Violation, check_jobs
from optimizer.check_orders import Ordered, order_faults, ordered, rounding_faults
from optimizer.check_pools import Told, in_emergency, in_force, least_kw, pool_faults, told_of
from optimizer.check_reserve import reserve_faults
from optimizer.check_runs import run_faults
from optimizer.check_steps import step_faults
from optimizer.check_supply import charged_for_kw, most_output_kw, net_kw, shape_faults, supply_faults
from optimizer.check_tiers import promised_jobs, tier_faults
from optimizer.domain import GridEvent, Plan, Problem
from optimizer.envelope import mean_limit_kw
from optimizer.jobplans import JobPlans, job_rows

Floats = NDArray[np.float64]
TOL_KW = 1e-3

__all__ = ["Violation", "check_plan"]


def check_plan(problem: Problem, plan: Plan, *, lived: bool = False) -> tuple[Violation, ...]:
    """Every promise that the plan breaks; empty when it may be obeyed. `lived`: it tells what was done, under orders of
    other plans; its own are not judged.

    Checked: completeness, numbers, import through PUE, draws and work on the curves, orders inside the cards' range and
    as planned, service floors, hard limits and firm events kept as far as is possible and the rest declared, jobs
    inside window, rate and pool, work conserved, jobs that may not be interrupted unbroken, gangs whole, least runs
    kept while there is room, jobs after those before them, promised deadlines met while there is room.
    """
    shape = _shape(problem, plan)
    if shape:
        return tuple(shape)
    jobs = job_rows(plan.jobs, tuple(job.id for job in problem.jobs), len(problem.grid))
    work = _work_of_jobs(problem, jobs)
    whole = [job.id for job in problem.jobs if not job.preemptible]
    fixed = _work_of_jobs(problem, jobs.chosen(whole)) if whole else {}
    due = promised_jobs(problem, plan, jobs)
    promised = _work_of_jobs(problem, jobs.chosen([*whole, *due])) if due else fixed
    found: list[Violation] = []
    told = told_of(problem, plan)
    orders = None if lived else ordered(told)
    found.extend(Violation(*fault) for fault in pool_faults(problem, plan, told, work))
    if orders is not None:
        found.extend(Violation(*fault) for fault in order_faults(plan, orders))
    found.extend(check_jobs(problem, jobs, {name: orders.cap_w for name, orders in plan.pools.items()}))
    found.extend(Violation(*fault) for fault in step_faults(problem, jobs))
    found.extend(Violation(*fault) for fault in run_faults(problem, plan, jobs))
    found.extend(Violation(*fault) for fault in tier_faults(problem, plan, jobs))
    for number, site in enumerate(problem.sites):
        found.extend(_site(problem, plan, number, (fixed, promised), (told, orders)))
        found.extend(Violation(*fault) for fault in supply_faults(problem, plan, site))
        found.extend(Violation(*fault) for fault in reserve_faults(problem, plan, site))
    return tuple(found)


def _shape(problem: Problem, plan: Plan) -> list[Violation]:
    """Missing parts, wrong lengths, numbers that are none. Without these nothing else can be judged."""
    found: list[Violation] = []
    if plan.grid.edges != problem.grid.edges:
        found.append(Violation("plan", None, "is on another grid than the problem"))
    wanted: list[tuple[str, tuple[str, ...], Mapping[str, object]]] = [
        ("pool", tuple(inputs.pool.id for inputs in problem.pools), plan.pools),
        ("job", tuple(job.id for job in problem.jobs), plan.jobs),
        ("site", tuple(site.id for site in problem.sites), plan.sites),
    ]
    for kind, names, parts in wanted:
        if tuple(parts) != names:
            missing = (name for name in names if name not in parts)
            found.extend(Violation(name, None, f"{kind} is missing from the plan") for name in missing)
    found.extend(Violation(*fault) for fault in shape_faults(problem, plan))
    found.extend(
        Violation(event.id, None, "is voluntary, and the plan does not say whether the site takes part")
        for event in problem.events
        if event.undecided and event.id not in plan.events
    )
    if found:
        return found
    rows = _rows(plan, len(problem.grid))
    if all(len(values) == wanted_length for _, _, values, wanted_length in rows):
        every = np.fromiter(chain.from_iterable(values for _, _, values, _ in rows), np.float64)
        if np.isfinite(every).all():
            return []
    for name, what, values, wanted_length in rows:
        if len(values) != wanted_length:
            found.append(Violation(name, None, f"{what} has {len(values)} values for {wanted_length} intervals"))
        else:
            odd = ((t, value) for t, value in enumerate(values) if not isfinite(value))
            found.extend(Violation(name, t, f"{what} is {value}") for t, value in odd)
    return found


def _rows(plan: Plan, count: int) -> list[tuple[str, str, Sequence[float], int]]:
    """Name, what it is, numbers and how many there should be, of all that must be numbers."""
    rows: list[tuple[str, str, Sequence[float], int]] = []
    for name, pool in plan.pools.items():
        rows += [(name, part, getattr(pool, part), count) for part in ("draw_kw", "work_gpus", "cap_w", "active_gpus")]
    for name, site in plan.sites.items():
        parts = (
            "import_kw",
            "over_limit_kw",
            "over_event_kw",
            *(("marginal_per_mwh",) if site.marginal_per_mwh else ()),
        )
        rows += [(name, part, getattr(site, part), count) for part in parts]
    jobs = plan.jobs
    if isinstance(jobs, JobPlans) and jobs.rates.shape[1] == count:
        good = np.isfinite(jobs.rates).all(axis=1) & np.isfinite(jobs.late_gpu_h) & np.isfinite(jobs.undone_gpu_h)
        odd = [jobs.ids[n] for n in _where(~good)]
    else:
        odd = list(jobs)
    for name in odd:
        job = jobs[name]
        rows += [(name, "work_gpus", job.work_gpus, count)]
        rows += [(name, "late and undone work", (job.late_gpu_h, job.undone_gpu_h), 2)]
    return rows


def _where(bad: ArrayLike) -> list[int]:
    """Numbers of what is true."""
    found: list[int] = np.flatnonzero(bad).tolist()
    return found


def _work_of_jobs(problem: Problem, jobs: JobPlans) -> dict[str, Floats]:
    """Work in GPU equivalents [interval] that the jobs of each pool do."""
    number = {inputs.pool.id: g for g, inputs in enumerate(problem.pools)}
    home = np.array([number.get(name, -1) for name in jobs.pools], dtype=np.int64)
    some = np.bincount(home[home >= 0], minlength=len(number)) > 0
    none = np.zeros(jobs.rates.shape[1])
    return {name: jobs.rates[home == g].sum(axis=0) if some[g] else none for name, g in number.items()}


# ---------------------------------------------------------------- sites
def _site(
    problem: Problem,
    plan: Plan,
    number: int,
    kept: tuple[Mapping[str, Floats], ...],
    pools: tuple[Told, Ordered | None],
) -> list[Violation]:
    """Import through PUE, hard limit and firm events: kept, or exceeded by no more than what nothing allowed could
    shed; all declared; kept under the orders of the pools (`pools`: all of them) too. `kept`: work of jobs that may not
    be interrupted, and with that of jobs whose promised deadline leaves them no other time, which a firm event does not
    stop either; by pool [interval]."""
    fixed, (told, ordered_all) = kept[0], pools
    site, orders = problem.sites[number], plan.sites[problem.sites[number].id]
    mine = told.of(lambda pool: pool.site == site.id)
    other, pue, limit = np.array(site.other_it_kw), np.array(site.pue), np.array(site.limit_kw)
    bought, over = np.array(orders.import_kw), np.array(orders.over_limit_kw)
    drawn = pue * (mine.draw_kw.sum(axis=0) + other)
    made, output = drawn + net_kw(plan, site), most_output_kw(site)
    tol = TOL_KW + TOL * np.abs(bought)
    asks = [(event, _caps_kw(problem, event)) for event in problem.events if event.site == site.id]
    asks = [(event, cap) for event, cap in asks if holds(plan, event)]
    unmet = pue * (least_kw(mine, fixed, in_emergency(problem, site.id), limit=True) + other) - output
    return [
        *(Violation(site.id, t, f"import {bought[t]:.3f} kW, but its draws make {made[t]:.3f}")
          for t in _where(np.abs(bought - made) > tol + TOL * drawn)),
        *(Violation(site.id, t, f"import {bought[t]:.3f} kW is over the limit {limit[t]:.3f} kW")
          for t in _where(bought > np.maximum(limit, unmet) + tol)),
        *(Violation(site.id, t, "import over the hard limit is not declared")
          for t in _where(bought > limit + over + tol)),
        *(Violation(*fault) for fault in rounding_faults(plan, site, [cap for _, cap in asks], ordered_all)),
        *(broken for event, cap in asks for broken in _event(problem, plan, event, cap, (mine, kept, other, output))),
    ]  # fmt: skip


def _caps_kw(problem: Problem, event: GridEvent) -> Floats:
    """What an event lets its site import [interval]."""
    found: Floats = np.maximum(0.0, [mean_limit_kw(event, *pair) for pair in pairwise(problem.grid.edges)])
    return found


def holds(plan: Plan, event: GridEvent) -> bool:
    """Whether the plan owes an event's cap: a voluntary one that waits for an answer only if it says yes."""
    return event.opted is not None or not event.voluntary or plan.events[event.id].take_part


def _event(
    problem: Problem,
    plan: Plan,
    event: GridEvent,
    cap: Floats,
    parts: tuple[Told, tuple[Mapping[str, Floats], ...], Floats, Floats],
) -> list[Violation]:
    """An event's cap, in kW [interval], on the import of its site; `parts`: pools, work that is kept (see `_site`:
    promised deadlines give way while an emergency is in force, not to its rebound limit), other IT load and most output
    of generators."""
    pools, (fixed, promised), other, output = parts
    site = next(site for site in problem.sites if site.id == event.site)
    bought, declared = (np.array(getattr(plan.sites[site.id], name)) for name in ("import_kw", "over_event_kw"))
    tol = TOL_KW + TOL * np.abs(bought)
    found = [
        Violation(event.id, t, "import over the event's cap is not declared")
        for t in _where(bought > cap + declared + tol)
    ]
    if (event.firm or event.emergency) and np.any(bought > cap + tol):
        deep = in_force(problem, event) & event.emergency
        stays = {name: np.where(deep, fixed.get(name, 0.0), work) for name, work in promised.items()}
        least = np.array(site.pue) * (least_kw(pools, stays, deep, limit=False) + other) - output
        if site.batteries:
            least += [charged_for_kw(problem, plan, site, t) for t in range(len(problem.grid))]
        text = "import {:.3f} kW is over the event's cap {:.3f} kW"
        over = bought > np.maximum(cap, least) + tol
        found += [Violation(event.id, t, text.format(bought[t], cap[t])) for t in _where(over)]
    return found
