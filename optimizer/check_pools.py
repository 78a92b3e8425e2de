"""The checker's part about pools: draws and work on the curves, orders inside the cards' range, service floors.

Why with arithmetic of its own: see `check.py`. All pools are judged at once; sentences are made for those that fail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from optimizer.check_parking import awake_gpus, parking_faults, saved_kw
from optimizer.curves import (
    cap_for_throughput,
    clipped,
    draw_at_cap,
    hull_from_idle,
    hull_of_caps,
    throughput_at_cap,
)
from optimizer.domain import GpuPool, GridEvent, Plan, PoolInputs, Problem, Work

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
TOL_KW = 1e-3
TOL = 1e-6
Fault = tuple[str, int | None, str]


@dataclass(frozen=True)
class Reach:
    """One busy GPU of a pool: draw in W under the lowest and the highest cap, and under that of the pool's own floor;
    best throughput; the corners of throughput over draw (`corner_w` rising, `corner_rate`); and draw above idle of a
    GPU equivalent of queued work at full speed."""

    low_w: float
    high_w: float
    floor_w: float
    top: float
    corner_w: Floats
    corner_rate: Floats
    full_w: float


@lru_cache(maxsize=1024)
def _reach(pool: GpuPool) -> Reach:
    curve = clipped(pool.curve, pool.min_cap_w, pool.max_cap_w)
    batch = pool.work is Work.BATCH
    hull = hull_from_idle(curve) if batch else hull_of_caps(curve)
    low_w, high_w = draw_at_cap(curve, pool.min_cap_w), draw_at_cap(curve, pool.max_cap_w)
    widths = np.array([0.0, *(part.width_w for part in hull.segments)])
    gains = np.array([0.0, *(part.width_w * part.slope_per_w for part in hull.segments)])
    corners = (hull.base_w + np.cumsum(widths), hull.base_throughput + np.cumsum(gains))
    full_w = (hull.top_w - curve.idle_w) / hull.top_throughput if batch else 0.0
    return Reach(low_w, high_w, _kept_w(pool, pool.floor), throughput_at_cap(curve, pool.max_cap_w), *corners, full_w)


def _kept_w(pool: GpuPool, floor: float) -> float:
    """Draw in W of a busy GPU under the lowest cap that keeps a floor."""
    curve = clipped(pool.curve, pool.min_cap_w, pool.max_cap_w)
    most = min(throughput_at_cap(curve, pool.max_cap_w), max(pool.floor, floor))
    return draw_at_cap(curve, max(pool.min_cap_w, cap_for_throughput(curve, most)))


@dataclass(frozen=True)
class Told:
    """All pools as problem and plan tell them: orders, and GPUs that users keep busy, [pool, interval]; what a pool
    draws less than with all its GPUs awake; numbers of a pool as columns [pool, 1]."""

    inputs: tuple[PoolInputs, ...]
    reach: tuple[Reach, ...]
    cap_w: Floats
    active: Floats
    draw_kw: Floats
    work: Floats
    busy: Floats
    saved_kw: Floats
    count: Floats
    idle_w: Floats

    @property
    def pools(self) -> list[GpuPool]:
        """The pools themselves."""
        return [inputs.pool for inputs in self.inputs]

    def of(self, keep: Callable[[GpuPool], bool]) -> Told:
        """Those pools alone."""
        rows = [g for g, pool in enumerate(self.pools) if keep(pool)]
        if len(rows) == len(self.inputs):
            return self
        arrays = (self.cap_w, self.active, self.draw_kw, self.work, self.busy, self.saved_kw, self.count, self.idle_w)
        inputs, reach = tuple(self.inputs[g] for g in rows), tuple(self.reach[g] for g in rows)
        return Told(inputs, reach, *(part[rows] for part in arrays))

    def column(self, number: Callable[[GpuPool], float]) -> Floats:
        """A number of every pool [pool, 1]."""
        return np.array([number(pool) for pool in self.pools], dtype=np.float64).reshape(-1, 1)

    def reached(self, number: Callable[[Reach], float]) -> Floats:
        """The same of one busy GPU of it."""
        return np.array([number(reach) for reach in self.reach], dtype=np.float64).reshape(-1, 1)

    def faults(self, bad: Flags, text: Callable[[int, int], str]) -> list[Fault]:
        """A sentence for each pool and interval that is bad."""
        return [(self.inputs[g].pool.id, t, text(g, t)) for g, t in np.argwhere(bad).tolist()] if bad.any() else []


def along(at: Floats, lines: Iterable[tuple[Floats, Floats]]) -> Floats:
    """Values [pool, interval] of each pool's own line, given by its corners, at `at`."""
    made = [np.interp(row, *line) for row, line in zip(at, lines, strict=True)]
    return np.array(made).reshape(at.shape)


def told_of(problem: Problem, plan: Plan) -> Told:
    """Read all pools, once for all that is judged."""
    inputs, count = problem.pools, len(problem.grid)
    orders = [plan.pools[item.pool.id] for item in inputs]

    def rows(values: Iterable[Sequence[float]]) -> Floats:
        return np.array(list(values), dtype=np.float64).reshape(len(inputs), count)

    gpus = np.array([item.pool.count for item in inputs], dtype=np.float64).reshape(-1, 1)
    return Told(
        inputs,
        tuple(_reach(item.pool) for item in inputs),
        rows(item.cap_w for item in orders),
        rows(item.active_gpus for item in orders),
        rows(item.draw_kw for item in orders),
        rows(item.work_gpus for item in orders),
        rows(item.load for item in inputs) * gpus,
        np.array([saved_kw(plan, item, count) for item in inputs]).reshape(len(inputs), count),
        gpus,
        np.array([item.pool.curve.idle_w for item in inputs], dtype=np.float64).reshape(-1, 1),
    )


def pool_faults(problem: Problem, plan: Plan, told: Told, done: Mapping[str, Floats]) -> list[Fault]:
    """Orders of all pools; `done` is the work of a pool's jobs in GPU equivalents [interval]."""
    cap, active = told.cap_w, told.active
    wide = (cap < told.column(lambda pool: int(pool.min_cap_w))) | (cap > told.column(lambda pool: pool.max_cap_w))
    found = told.faults(wide, lambda g, t: f"cap {cap[g, t]:.6g} W is outside the cards' range")
    found += told.faults(
        (active < 0) | (active > told.count), lambda g, t: f"{active[g, t]:.6g} active GPUs of {told.count[g, 0]:.6g}"
    )
    for inputs in problem.pools:
        found += parking_faults(problem, plan, inputs)
    found += _queued(problem, plan, told.of(lambda pool: pool.work is Work.BATCH), done)
    return found + _busy(problem, plan, told.of(lambda pool: pool.work is not Work.BATCH))


def _busy(problem: Problem, plan: Plan, told: Told) -> list[Fault]:
    """Interactive and training pools: draw within their caps, work on the curve, floor kept where it holds."""
    draw, work, busy = told.draw_kw, told.work, told.busy
    idle_kw = (told.count - busy) * told.idle_w / 1000.0
    low, high = (idle_kw + busy * told.reached(most) / 1000.0 for most in (lambda r: r.low_w, lambda r: r.high_w))
    tol = TOL_KW + TOL * high
    outside = (draw < low - tol) | (draw > high + tol)
    each_w = (draw - idle_kw) * 1000.0 / np.where(busy > 0, busy, 1.0)
    most = np.where(busy > 0, busy * along(each_w, ((reach.corner_w, reach.corner_rate) for reach in told.reach)), 0.0)
    floor = busy * np.minimum(_floors(told), told.reached(lambda reach: reach.top))
    slack = 1e-4 * (1 + busy)
    below = ~outside & (work < floor - slack)
    if below.any():
        below &= ~np.array([_may_break(problem, plan, inputs) for inputs in told.inputs])
    return [
        *told.faults(outside, lambda g, t: f"draw {draw[g, t]:.3f} kW is outside {low[g, t]:.3f}..{high[g, t]:.3f} kW"),
        *told.faults(~outside & (work > most + slack),
                     lambda g, t: f"work {work[g, t]:.3f} is above the curve's {most[g, t]:.3f}"),
        *told.faults(below, lambda g, t: f"work {work[g, t]:.3f} is below its floor {floor[g, t]:.3f}"),
    ]  # fmt: skip


def _floors(told: Told) -> Floats:
    """Floor of every pool [pool, interval]: its own, or a higher one of the interval."""
    floors = np.broadcast_to(told.column(lambda pool: pool.floor), told.busy.shape).copy()
    for g, inputs in enumerate(told.inputs):
        if inputs.floors:
            floors[g] = np.maximum(floors[g], inputs.floors)
    return floors


def _queued(problem: Problem, plan: Plan, told: Told, done: Mapping[str, Floats]) -> list[Fault]:
    """Batch pools: their work is their jobs', on no more GPUs than they have awake, with the power that this takes."""
    work, draw, count, idle_w = told.work, told.draw_kw, told.count, told.idle_w
    jobs = np.array([done[pool.id] for pool in told.pools]).reshape(work.shape)
    awake = np.broadcast_to(count, work.shape).copy()
    for g, inputs in enumerate(told.inputs):
        if inputs.pool.parking is not None:
            awake[g] = np.maximum(0.0, awake_gpus(problem, plan, inputs))
    tol = 1e-4 * (1 + count)
    wrong = (np.abs(jobs - work) > tol) | (jobs > awake * told.reached(lambda reach: reach.corner_rate[-1]) + tol)
    each = jobs / np.maximum(awake, 1e-9)
    above = awake * (along(each, ((reach.corner_rate, reach.corner_w) for reach in told.reach)) - idle_w)
    least = (count * idle_w + above) / 1000.0 - told.saved_kw
    most = (count * idle_w + awake * (told.reached(lambda reach: reach.high_w) - idle_w)) / 1000.0 - told.saved_kw
    outside = ~wrong & ((draw < least - TOL_KW - TOL * most) | (draw > most + TOL_KW + TOL * most))
    return [
        *told.faults(wrong,
                     lambda g, t: f"work {work[g, t]:.3f}, its jobs' {jobs[g, t]:.3f}, of {awake[g, t]:.6g} GPUs"),
        *told.faults(outside,
                     lambda g, t: f"draw {draw[g, t]:.3f} kW is outside {least[g, t]:.3f}..{most[g, t]:.3f} kW"),
    ]  # fmt: skip


def least_kw(told: Told, fixed: Mapping[str, Floats], emergency: Flags, limit: bool) -> Floats:
    """IT power in kW [interval] below which nothing allowed can bring these pools: floors, idle cards, and jobs that
    may not be interrupted at full speed (`fixed`: their work). Under a hard limit (`limit`) training may go below its
    floor, in an `emergency` all."""
    total = np.zeros(len(emergency))
    for inputs, reach, busy in zip(told.inputs, told.reach, told.busy, strict=True):
        pool = inputs.pool
        if pool.work is Work.BATCH:
            total += pool.count * pool.curve.idle_w + fixed.get(pool.id, 0.0) * reach.full_w
            continue
        kept_w: Floats | float = reach.floor_w
        if inputs.floors:
            kept = {floor: _kept_w(pool, floor) for floor in set(inputs.floors)}
            kept_w = np.array([kept[floor] for floor in inputs.floors])
        breakable = emergency | (limit and pool.work is Work.TRAINING)
        total += (pool.count - busy) * pool.curve.idle_w + busy * np.where(breakable, reach.low_w, kept_w)
    return total / 1000.0


# ---------------------------------------------------------------- where a floor may give
def in_emergency(problem: Problem, site: str) -> Flags:
    """Intervals in which an emergency order that the operator has allowed is in force at the site."""
    force = np.zeros(len(problem.grid), dtype=np.bool_)
    for event in problem.events:
        if event.emergency and event.site == site:
            force |= in_force(problem, event)
    return force


def in_force(problem: Problem, event: GridEvent) -> Flags:
    """Intervals that an event, its ramp out included, touches."""
    begins, ends = (_hours(problem, moment) for moment in (event.start, event.end))
    edges = np.array([_hours(problem, edge) for edge in problem.grid.edges])
    found: Flags = (edges[1:] > begins) & (edges[:-1] < ends + event.ramp_out_s / 3600.0)
    return found


def _hours(problem: Problem, moment: datetime) -> float:
    """Hours from the grid's start."""
    return (moment - problem.grid.start).total_seconds() / 3600.0


def _may_break(problem: Problem, plan: Plan, inputs: PoolInputs) -> Flags:
    """Where a floor may give: under an emergency; for training also where the import touches the hard limit, or would
    without batteries."""
    pool = inputs.pool
    may = in_emergency(problem, pool.site)
    if pool.work is Work.TRAINING:
        site = next(site for site in problem.sites if site.id == pool.site)
        without_kw = np.array(plan.sites[site.id].import_kw)
        for battery in site.batteries:
            without_kw = without_kw + np.array(plan.batteries[battery.id].discharge_kw)
        may |= without_kw >= np.array(site.limit_kw) * (1 - 1e-3) - TOL_KW
    return may
