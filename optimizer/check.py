"""Refuses a plan that breaks a promise, whoever made it. Used on every plan before it is obeyed, not only in tests.

Why with arithmetic of its own: a checker that shares code with the model shares its mistakes. It reads the problem, the
measured curves and the events' envelope, and nothing that the planner computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import pairwise
from math import isfinite

import numpy as np
from numpy.typing import ArrayLike, NDArray

from optimizer.check_jobs import TOL, Violation, check_jobs
from optimizer.check_orders import Ordered, order_faults, ordered, rounding_faults
from optimizer.check_parking import awake_gpus, parking_faults, saved_kw
from optimizer.check_reserve import reserve_faults
from optimizer.check_runs import run_faults
from optimizer.check_steps import step_faults
from optimizer.check_supply import charged_for_kw, most_output_kw, net_kw, shape_faults, supply_faults
from optimizer.check_tiers import promised_jobs, tier_faults
from optimizer.curves import (
    cap_for_throughput,
    clipped,
    draw_at_cap,
    hull_from_idle,
    hull_of_caps,
    throughput_at_cap,
)
from optimizer.domain import GpuPool, GridEvent, Plan, PoolInputs, Problem, Work
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
    jobs = job_rows(plan.jobs, [job.id for job in problem.jobs], len(problem.grid))
    work = _work_of_jobs(problem, jobs)
    whole = [job.id for job in problem.jobs if not job.preemptible]
    fixed = _work_of_jobs(problem, jobs.chosen(whole)) if whole else {}
    due = promised_jobs(problem, plan, jobs)
    promised = _work_of_jobs(problem, jobs.chosen([*whole, *due])) if due else fixed
    found: list[Violation] = []
    orders = [] if lived else [ordered(plan, inputs) for inputs in problem.pools]
    for inputs in problem.pools:
        found.extend(_pool(problem, plan, inputs, work[inputs.pool.id]))
    found.extend(Violation(*fault) for order in orders for fault in order_faults(plan, order))
    found.extend(check_jobs(problem, jobs, {name: orders.cap_w for name, orders in plan.pools.items()}))
    found.extend(Violation(*fault) for fault in step_faults(problem, jobs))
    found.extend(Violation(*fault) for fault in run_faults(problem, plan, jobs))
    found.extend(Violation(*fault) for fault in tier_faults(problem, plan, jobs))
    for number, site in enumerate(problem.sites):
        found.extend(_site(problem, plan, number, (fixed, promised), orders))
        found.extend(Violation(*fault) for fault in supply_faults(problem, plan, site))
        found.extend(Violation(*fault) for fault in reserve_faults(problem, plan, site))
    return tuple(found)


def _shape(problem: Problem, plan: Plan) -> list[Violation]:
    """Missing parts, wrong lengths, numbers that are none. Without these nothing else can be judged."""
    found = []
    if plan.grid.edges != problem.grid.edges:
        found.append(Violation("plan", None, "is on another grid than the problem"))
    wanted = [("pool", [inputs.pool.id for inputs in problem.pools], plan.pools),
              ("job", [job.id for job in problem.jobs], plan.jobs),
              ("site", [site.id for site in problem.sites], plan.sites)]  # fmt: skip
    for kind, names, parts in wanted:
        found.extend(Violation(name, None, f"{kind} is missing from the plan") for name in names if name not in parts)
    found.extend(Violation(*fault) for fault in shape_faults(problem, plan))
    found.extend(
        Violation(event.id, None, "is voluntary, and the plan does not say whether the site takes part")
        for event in problem.events
        if event.undecided and event.id not in plan.events
    )
    if found:
        return found
    count = len(problem.grid)
    for name, what, values, wanted_length in _rows(plan, count):
        if len(values) != wanted_length:
            found.append(Violation(name, None, f"{what} has {len(values)} values for {wanted_length} intervals"))
        elif not np.isfinite(values).all():
            found.extend(
                Violation(name, t, f"{what} is {value}") for t, value in enumerate(values) if not isfinite(value)
            )
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
        numbers = np.column_stack((jobs.rates, jobs.late_gpu_h, jobs.undone_gpu_h))
        odd = [jobs.ids[n] for n in _where(~np.isfinite(numbers).all(axis=1))]
    else:
        odd = list(jobs)
    for name in odd:
        job = jobs[name]
        rows += [(name, "work_gpus", job.work_gpus, count)]
        rows += [(name, "late and undone work", (job.late_gpu_h, job.undone_gpu_h), 2)]
    return rows


# ---------------------------------------------------------------- pools
@dataclass(frozen=True)
class _Reach:
    """One busy GPU of a pool: draw in W under the lowest and the highest cap, best throughput, and the corners of
    throughput over draw (`corner_w` rising, `corner_rate`)."""

    low_w: float
    high_w: float
    top: float
    corner_w: Floats
    corner_rate: Floats


@lru_cache(maxsize=1024)
def _reach(pool: GpuPool) -> _Reach:
    curve = clipped(pool.curve, pool.min_cap_w, pool.max_cap_w)
    hull = hull_from_idle(curve) if pool.work is Work.BATCH else hull_of_caps(curve)
    low_w, high_w = draw_at_cap(curve, pool.min_cap_w), draw_at_cap(curve, pool.max_cap_w)
    widths = np.array([0.0, *(part.width_w for part in hull.segments)])
    gains = np.array([0.0, *(part.width_w * part.slope_per_w for part in hull.segments)])
    corners = (hull.base_w + np.cumsum(widths), hull.base_throughput + np.cumsum(gains))
    return _Reach(low_w, high_w, throughput_at_cap(curve, pool.max_cap_w), *corners)


def _pool(problem: Problem, plan: Plan, inputs: PoolInputs, done: Floats) -> list[Violation]:
    """Orders of a pool; `done` is the work of its jobs in GPU equivalents [interval]."""
    pool, orders, reach = inputs.pool, plan.pools[inputs.pool.id], _reach(inputs.pool)
    cap, active = np.array(orders.cap_w), np.array(orders.active_gpus)
    found = [
        Violation(pool.id, t, f"cap {cap[t]} W is outside the cards' range")
        for t in _where((cap < int(pool.min_cap_w)) | (cap > pool.max_cap_w))
    ]
    found += [
        Violation(pool.id, t, f"{active[t]} active GPUs of {pool.count}")
        for t in _where((active < 0) | (active > pool.count))
    ]
    found += [Violation(*fault) for fault in parking_faults(problem, plan, inputs)]
    if pool.work is Work.BATCH:
        asleep = (awake_gpus(problem, plan, inputs), saved_kw(plan, inputs, len(cap)))
        return found + _batch(plan, pool, reach, done, asleep)
    return found + _busy(problem, plan, inputs, reach)


def _where(bad: ArrayLike) -> list[int]:
    """Numbers of what is true."""
    found: list[int] = np.flatnonzero(bad).tolist()
    return found


def _work_of_jobs(problem: Problem, jobs: JobPlans) -> dict[str, Floats]:
    """Work in GPU equivalents [interval] that the jobs of each pool do."""
    number = {inputs.pool.id: g for g, inputs in enumerate(problem.pools)}
    home = np.array([number.get(name, -1) for name in jobs.pools], dtype=np.int64)
    return {name: jobs.rates[home == g].sum(axis=0) for name, g in number.items()}


def _busy(problem: Problem, plan: Plan, inputs: PoolInputs, reach: _Reach) -> list[Violation]:
    """An interactive or training pool: draw within its caps, work on the curve, floor kept where it holds."""
    pool, orders = inputs.pool, plan.pools[inputs.pool.id]
    draw, work = np.array(orders.draw_kw), np.array(orders.work_gpus)
    busy = np.array(inputs.load) * pool.count
    idle_kw = (pool.count - busy) * pool.curve.idle_w / 1000.0
    low, high = idle_kw + busy * reach.low_w / 1000.0, idle_kw + busy * reach.high_w / 1000.0
    tol = TOL_KW + TOL * high
    outside = (draw < low - tol) | (draw > high + tol)
    each_w = (draw - idle_kw) * 1000.0 / np.where(busy > 0, busy, 1.0)
    most = np.where(busy > 0, busy * np.interp(each_w, reach.corner_w, reach.corner_rate), 0.0)
    floor = busy * np.minimum(np.maximum(pool.floor, inputs.floors or pool.floor), reach.top)
    slack = 1e-4 * (1 + busy)
    below = (work < floor - slack) & ~_may_break(problem, plan, inputs)
    return [
        *(Violation(pool.id, t, f"draw {draw[t]:.3f} kW is outside {low[t]:.3f}..{high[t]:.3f} kW")
          for t in _where(outside)),
        *(Violation(pool.id, t, f"work {work[t]:.3f} is above the curve's {most[t]:.3f}")
          for t in _where(~outside & (work > most + slack))),
        *(Violation(pool.id, t, f"work {work[t]:.3f} is below its floor {floor[t]:.3f}")
          for t in _where(~outside & below)),
    ]  # fmt: skip


def _batch(plan: Plan, pool: GpuPool, reach: _Reach, done: Floats, asleep: tuple[Floats, Floats]) -> list[Violation]:
    """A batch pool: its work is its jobs', on no more GPUs than it has awake, with the power that this takes. `asleep`:
    GPUs that are awake, and kW that the parked ones save."""
    awake, saved = np.maximum(0.0, asleep[0]), asleep[1]
    orders, idle_w = plan.pools[pool.id], pool.curve.idle_w
    work, draw = np.array(orders.work_gpus), np.array(orders.draw_kw)
    tol = 1e-4 * (1 + pool.count)
    wrong = (np.abs(done - work) > tol) | (done > awake * reach.corner_rate[-1] + tol)
    each = done / np.maximum(awake, 1e-9)
    above = awake * (np.interp(each, reach.corner_rate, reach.corner_w) - idle_w)
    least = (pool.count * idle_w + above) / 1000.0 - saved
    most = (pool.count * idle_w + awake * (reach.high_w - idle_w)) / 1000.0 - saved
    outside = ~wrong & ((draw < least - TOL_KW - TOL * most) | (draw > most + TOL_KW + TOL * most))
    return [
        *(Violation(pool.id, t, f"work {work[t]:.3f}, its jobs' {done[t]:.3f}, of {awake[t]:.6g} GPUs")
          for t in _where(wrong)),
        *(Violation(pool.id, t, f"draw {draw[t]:.3f} kW is outside {least[t]:.3f}..{most[t]:.3f} kW")
          for t in _where(outside)),
    ]  # fmt: skip


def _emergency(problem: Problem, site: str) -> NDArray[np.bool_]:
    """Intervals in which an emergency order that the operator has allowed is in force at the site."""
    force = np.zeros(len(problem.grid), dtype=np.bool_)
    for event in problem.events:
        if event.emergency and event.site == site:
            force |= _in_force(problem, event)
    return force


def _in_force(problem: Problem, event: GridEvent) -> NDArray[np.bool_]:
    """Intervals that an event, its ramp out included, touches."""
    begins, ends = (_hours(problem, moment) for moment in (event.start, event.end))
    edges = _edges(problem)
    found: NDArray[np.bool_] = (edges[1:] > begins) & (edges[:-1] < ends + event.ramp_out_s / 3600.0)
    return found


def _hours(problem: Problem, moment: datetime) -> float:
    """Hours from the grid's start."""
    return (moment - problem.grid.start).total_seconds() / 3600.0


def _edges(problem: Problem) -> Floats:
    """Edges of the grid in hours from its start."""
    return np.array([_hours(problem, edge) for edge in problem.grid.edges])


def _may_break(problem: Problem, plan: Plan, inputs: PoolInputs) -> NDArray[np.bool_]:
    """Where a floor may give: under an emergency; for training also where the import touches the hard limit, or would
    without batteries."""
    pool = inputs.pool
    may = _emergency(problem, pool.site)
    if pool.work is Work.TRAINING:
        site = next(site for site in problem.sites if site.id == pool.site)
        without_kw = np.array(plan.sites[site.id].import_kw)
        for battery in site.batteries:
            without_kw = without_kw + np.array(plan.batteries[battery.id].discharge_kw)
        may |= without_kw >= np.array(site.limit_kw) * (1 - 1e-3) - TOL_KW
    return may


# ---------------------------------------------------------------- sites
def _site(
    problem: Problem, plan: Plan, number: int, kept: tuple[Mapping[str, Floats], ...], told: Sequence[Ordered]
) -> list[Violation]:
    """Import through PUE, hard limit and firm events: kept, or exceeded by no more than what nothing allowed could
    shed; all declared; kept under the pools' orders (`told`) too. `kept`: work of jobs that may not be interrupted, and
    with that of jobs whose promised deadline leaves them no other time, which a firm event does not stop either; by
    pool [interval]."""
    fixed = kept[0]
    site, orders = problem.sites[number], plan.sites[problem.sites[number].id]
    pools = [inputs for inputs in problem.pools if inputs.pool.site == site.id]
    other, pue, limit = np.array(site.other_it_kw), np.array(site.pue), np.array(site.limit_kw)
    bought, over = np.array(orders.import_kw), np.array(orders.over_limit_kw)
    draws = [plan.pools[inputs.pool.id].draw_kw for inputs in pools]
    drawn = pue * (np.array(draws).reshape(len(pools), len(other)).sum(axis=0) + other)
    steps = range(len(problem.grid))
    made = drawn + [net_kw(plan, site, t) for t in steps]
    output = np.array([most_output_kw(site, t) for t in steps])
    tol = TOL_KW + TOL * np.abs(bought)
    asks = [(event, _caps_kw(problem, event)) for event in problem.events if event.site == site.id]
    asks = [(event, cap) for event, cap in asks if holds(plan, event)]
    mine = [order for order in told if order.pool.site == site.id]
    unmet = pue * (_least_kw(pools, fixed, _emergency(problem, site.id), limit=True) + other) - output
    return [
        *(Violation(site.id, t, f"import {bought[t]:.3f} kW, but its draws make {made[t]:.3f}")
          for t in _where(np.abs(bought - made) > tol + TOL * drawn)),
        *(Violation(site.id, t, f"import {bought[t]:.3f} kW is over the limit {limit[t]:.3f} kW")
          for t in _where(bought > np.maximum(limit, unmet) + tol)),
        *(Violation(site.id, t, "import over the hard limit is not declared")
          for t in _where(bought > limit + over + tol)),
        *(Violation(*fault) for fault in rounding_faults(plan, site, [cap for _, cap in asks], mine)),
        *(broken for event, cap in asks for broken in _event(problem, plan, event, cap, (pools, kept, other, output))),
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
    parts: tuple[list[PoolInputs], tuple[Mapping[str, Floats], ...], Floats, Floats],
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
        deep = _in_force(problem, event) & event.emergency
        stays = {name: np.where(deep, fixed.get(name, 0.0), work) for name, work in promised.items()}
        least = np.array(site.pue) * (_least_kw(pools, stays, deep, limit=False) + other) - output
        if site.batteries:
            least += [charged_for_kw(problem, plan, site, t) for t in range(len(problem.grid))]
        text = "import {:.3f} kW is over the event's cap {:.3f} kW"
        over = bought > np.maximum(cap, least) + tol
        found += [Violation(event.id, t, text.format(bought[t], cap[t])) for t in _where(over)]
    return found


def _least_kw(
    pools: list[PoolInputs], fixed: Mapping[str, Floats], emergency: NDArray[np.bool_], limit: bool
) -> Floats:
    """IT power in kW [interval] below which nothing allowed can bring the pools: floors, idle cards, and jobs that may
    not be interrupted at full speed. Under a hard limit (`limit`) training may go below its floor, in an `emergency`
    all."""
    total = np.zeros(len(emergency))
    for inputs in pools:
        pool = inputs.pool
        curve = clipped(pool.curve, pool.min_cap_w, pool.max_cap_w)
        if pool.work is Work.BATCH:
            hull = hull_from_idle(curve)
            each_w = (hull.top_w - curve.idle_w) / hull.top_throughput
            total += pool.count * curve.idle_w + fixed.get(pool.id, 0.0) * each_w
            continue
        low_w, top = draw_at_cap(curve, pool.min_cap_w), throughput_at_cap(curve, pool.max_cap_w)
        floors = [min(top, max(pool.floor, floor)) for floor in inputs.floors or (pool.floor,)]
        caps = {floor: max(pool.min_cap_w, cap_for_throughput(curve, floor)) for floor in set(floors)}
        kept_w = np.array([draw_at_cap(curve, caps[floor]) for floor in floors])
        breakable = emergency | (limit and pool.work is Work.TRAINING)
        busy = np.array(inputs.load) * pool.count
        total += (pool.count - busy) * curve.idle_w + busy * np.where(breakable, low_w, kept_w)
    return total / 1000.0
