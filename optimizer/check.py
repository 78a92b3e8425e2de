"""Refuses a plan that breaks a promise, whoever made it. Used on every plan before it is obeyed, not only in tests.

Why with arithmetic of its own: a checker that shares code with the model shares its mistakes. It reads the problem, the
measured curves and the events' envelope, and nothing that the planner computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite

from optimizer.check_supply import charged_for_kw, most_output_kw, net_kw, shape_faults, supply_faults
from optimizer.curves import (
    Hull,
    cap_for_throughput,
    clipped,
    draw_at_cap,
    hull_from_idle,
    hull_of_caps,
    throughput_at_cap,
)
from optimizer.domain import BatchJob, GpuPool, GridEvent, JobPlan, JobState, Plan, PoolInputs, Problem, Work
from optimizer.envelope import mean_limit_kw

TOL = 1e-6
TOL_KW = 1e-3


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken promise: what it is about, the interval (None: the whole plan), and a sentence with numbers."""

    subject: str
    index: int | None
    text: str


def check_plan(problem: Problem, plan: Plan) -> tuple[Violation, ...]:
    """Every promise that the plan breaks; empty when it may be obeyed.

    Checked: completeness, numbers, import through PUE, draws and work on the curves, orders inside the cards' range,
    service floors, hard limits and firm events kept as far as is possible and the rest declared, jobs inside window,
    rate and pool, work conserved, jobs that may not be interrupted unbroken.
    """
    shape = _shape(problem, plan)
    if shape:
        return tuple(shape)
    found: list[Violation] = []
    for inputs in problem.pools:
        found.extend(_pool(problem, plan, inputs))
    for job in problem.jobs:
        found.extend(_job(problem, plan, job))
    for number, site in enumerate(problem.sites):
        found.extend(_site(problem, plan, number))
        found.extend(Violation(*fault) for fault in supply_faults(problem, plan, site))
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
    if found:
        return found
    count = len(problem.grid)
    rows: list[tuple[str, str, tuple[float, ...]]] = []
    for name, pool in plan.pools.items():
        rows += [(name, "draw_kw", pool.draw_kw), (name, "work_gpus", pool.work_gpus), (name, "cap_w", pool.cap_w)]
        rows += [(name, "active_gpus", pool.active_gpus)]
    rows += [(name, "work_gpus", job.work_gpus) for name, job in plan.jobs.items()]
    for name, site in plan.sites.items():
        rows += [(name, "import_kw", site.import_kw), (name, "over_limit_kw", site.over_limit_kw)]
        rows += [(name, "over_event_kw", site.over_event_kw)]
        rows += [(name, "marginal_per_mwh", site.marginal_per_mwh)] if site.marginal_per_mwh else []
    for name, what, values in rows:
        if len(values) != count:
            found.append(Violation(name, None, f"{what} has {len(values)} values for {count} intervals"))
        found.extend(Violation(name, t, f"{what} is {value}") for t, value in enumerate(values) if not isfinite(value))
    return found


# ---------------------------------------------------------------- pools
@dataclass(frozen=True, slots=True)
class _Reach:
    """One busy GPU of a pool: draw in W under the lowest and the highest cap, best throughput, throughput over draw."""

    low_w: float
    high_w: float
    top: float
    hull: Hull


def _reach(pool: GpuPool) -> _Reach:
    curve = clipped(pool.curve, pool.min_cap_w, pool.max_cap_w)
    hull = hull_from_idle(curve) if pool.work is Work.BATCH else hull_of_caps(curve)
    low_w, high_w = draw_at_cap(curve, pool.min_cap_w), draw_at_cap(curve, pool.max_cap_w)
    return _Reach(low_w, high_w, throughput_at_cap(curve, pool.max_cap_w), hull)


def _pool(problem: Problem, plan: Plan, inputs: PoolInputs) -> list[Violation]:
    pool, orders, reach = inputs.pool, plan.pools[inputs.pool.id], _reach(inputs.pool)
    work = _work_of_jobs(problem, plan, pool.id)
    found = []
    for t in range(len(problem.grid)):
        if not int(pool.min_cap_w) <= orders.cap_w[t] <= pool.max_cap_w:
            found.append(Violation(pool.id, t, f"cap {orders.cap_w[t]} W is outside the cards' range"))
        if not 0 <= orders.active_gpus[t] <= pool.count:
            found.append(Violation(pool.id, t, f"{orders.active_gpus[t]} active GPUs of {pool.count}"))
        if pool.work is Work.BATCH:
            found.extend(_batch(plan, pool, reach, t, work[t]))
        else:
            found.extend(_busy(problem, plan, inputs, reach, t))
    return found


def _work_of_jobs(problem: Problem, plan: Plan, pool_id: str) -> tuple[float, ...]:
    """Work in GPU equivalents that the jobs of a pool do, per interval."""
    rates = [plan.jobs[job.id].work_gpus for job in problem.jobs if plan.jobs[job.id].pool == pool_id]
    return tuple(map(sum, zip(*rates, strict=True))) if rates else (0.0,) * len(problem.grid)


def _busy(problem: Problem, plan: Plan, inputs: PoolInputs, reach: _Reach, t: int) -> list[Violation]:
    """An interactive or training pool: draw within its caps, work on the curve, floor kept where it holds."""
    pool, orders = inputs.pool, plan.pools[inputs.pool.id]
    busy = inputs.load[t] * pool.count
    idle_kw = (pool.count - busy) * pool.curve.idle_w / 1000.0
    low = idle_kw + busy * reach.low_w / 1000.0
    high = idle_kw + busy * reach.high_w / 1000.0
    draw, tol = orders.draw_kw[t], TOL_KW + TOL * high
    if not low - tol <= draw <= high + tol:
        return [Violation(pool.id, t, f"draw {draw:.3f} kW is outside {low:.3f}..{high:.3f} kW")]
    most = busy * reach.hull.throughput((draw - idle_kw) * 1000.0 / busy) if busy > 0 else 0.0
    found = []
    if orders.work_gpus[t] > most + 1e-4 * (1 + busy):
        found.append(Violation(pool.id, t, f"work {orders.work_gpus[t]:.3f} is above the curve's {most:.3f}"))
    floor = busy * min(pool.floor, reach.top)
    if orders.work_gpus[t] < floor - 1e-4 * (1 + busy) and not _may_break(problem, plan, inputs, t):
        found.append(Violation(pool.id, t, f"work {orders.work_gpus[t]:.3f} is below its floor {floor:.3f}"))
    return found


def _batch(plan: Plan, pool: GpuPool, reach: _Reach, t: int, work: float) -> list[Violation]:
    """A batch pool: its work is its jobs', on no more GPUs than it has, with the power that this takes."""
    orders, idle_w, hull = plan.pools[pool.id], pool.curve.idle_w, reach.hull
    tol = 1e-4 * (1 + pool.count)
    if abs(work - orders.work_gpus[t]) > tol or work > pool.count * hull.top_throughput + tol:
        return [Violation(pool.id, t, f"work {orders.work_gpus[t]:.3f}, its jobs' {work:.3f}, of {pool.count} GPUs")]
    least = pool.count * hull.draw_w(work / pool.count) / 1000.0 if pool.count else 0.0
    most = (pool.count * idle_w + pool.count * (reach.high_w - idle_w)) / 1000.0
    if not least - TOL_KW - TOL * most <= orders.draw_kw[t] <= most + TOL_KW + TOL * most:
        return [Violation(pool.id, t, f"draw {orders.draw_kw[t]:.3f} kW is outside {least:.3f}..{most:.3f} kW")]
    return []


def _emergency(problem: Problem, site: str, t: int) -> bool:
    """Whether an emergency order that the operator has allowed is in force at the site during the interval."""
    return any(event.emergency and event.site == site and _in_force(problem, event, t) for event in problem.events)


def _in_force(problem: Problem, event: GridEvent, t: int) -> bool:
    """Whether an event, its ramp out included, touches the interval."""
    start, end = problem.grid.edges[t], problem.grid.edges[t + 1]
    return (end - event.start).total_seconds() > 0 and (start - event.end).total_seconds() < event.ramp_out_s


def _may_break(problem: Problem, plan: Plan, inputs: PoolInputs, t: int) -> bool:
    """Whether a floor may give: under an emergency; for training also where the import touches the hard limit, or would
    without batteries."""
    pool = inputs.pool
    if _emergency(problem, pool.site, t):
        return True
    site = next(site for site in problem.sites if site.id == pool.site)
    without_kw = plan.sites[site.id].import_kw[t] + sum(plan.batteries[b.id].discharge_kw[t] for b in site.batteries)
    return pool.work is Work.TRAINING and without_kw >= site.limit_kw[t] * (1 - 1e-3) - TOL_KW


# ---------------------------------------------------------------- sites
def _site(problem: Problem, plan: Plan, number: int) -> list[Violation]:
    site, orders = problem.sites[number], plan.sites[problem.sites[number].id]
    pools = [inputs for inputs in problem.pools if inputs.pool.site == site.id]
    events = [event for event in problem.events if event.site == site.id]
    found = []
    for t, bought in enumerate(orders.import_kw):
        drawn = sum(plan.pools[inputs.pool.id].draw_kw[t] for inputs in pools) + site.other_it_kw[t]
        made = site.pue[t] * drawn + net_kw(plan, site, t)
        if abs(bought - made) > TOL_KW + TOL * (abs(bought) + site.pue[t] * drawn):
            found.append(Violation(site.id, t, f"import {bought:.3f} kW, but its draws make {made:.3f}"))
        found.extend(_caps(problem, plan, number, t, (events, pools)))
    return found


def _caps(
    problem: Problem, plan: Plan, number: int, t: int, parts: tuple[list[GridEvent], list[PoolInputs]]
) -> list[Violation]:
    """Hard limit and firm events: kept, or exceeded by no more than what nothing allowed could shed; all declared."""
    site, orders = problem.sites[number], plan.sites[problem.sites[number].id]
    events, pools = parts
    start, end = problem.grid.edges[t], problem.grid.edges[t + 1]
    bought = orders.import_kw[t]
    tol = TOL_KW + TOL * abs(bought)
    found = []
    if bought > site.limit_kw[t] + tol:
        least = _least_kw(problem, plan, pools, t, limit=True, emergency=_emergency(problem, site.id, t))
        unmet = site.pue[t] * (least + site.other_it_kw[t]) - most_output_kw(site, t)
        if bought > max(site.limit_kw[t], unmet) + tol:
            found.append(Violation(site.id, t, f"import {bought:.3f} kW is over the limit {site.limit_kw[t]:.3f} kW"))
    if bought > site.limit_kw[t] + orders.over_limit_kw[t] + tol:
        found.append(Violation(site.id, t, "import over the hard limit is not declared"))
    for event in events:
        cap = max(0.0, mean_limit_kw(event, start, end))
        if cap == inf or bought <= cap + tol:
            continue
        if bought > cap + orders.over_event_kw[t] + tol:
            found.append(Violation(event.id, t, "import over the event's cap is not declared"))
        deep = event.emergency and _in_force(problem, event, t)
        least = site.pue[t] * (_least_kw(problem, plan, pools, t, limit=False, emergency=deep) + site.other_it_kw[t])
        least += charged_for_kw(problem, plan, site, t) - most_output_kw(site, t)
        if (event.firm or event.emergency) and bought > max(cap, least) + tol:
            found.append(Violation(event.id, t, f"import {bought:.3f} kW is over the event's cap {cap:.3f} kW"))
    return found


def _least_kw(problem: Problem, plan: Plan, pools: list[PoolInputs], t: int, limit: bool, emergency: bool) -> float:
    """IT power in kW below which nothing allowed can bring the pools: floors, idle cards, and jobs that may not be
    interrupted at full speed. Under a hard limit (`limit`) training may go below its floor, for an `emergency` all."""
    total = 0.0
    for inputs in pools:
        pool = inputs.pool
        curve = clipped(pool.curve, pool.min_cap_w, pool.max_cap_w)
        if pool.work is Work.BATCH:
            fixed = sum(
                plan.jobs[job.id].work_gpus[t]
                for job in problem.jobs
                if not job.preemptible and plan.jobs[job.id].pool == pool.id
            )
            hull = hull_from_idle(curve)
            total += pool.count * curve.idle_w + fixed * (hull.top_w - curve.idle_w) / hull.top_throughput
            continue
        breakable = emergency or (limit and pool.work is Work.TRAINING)
        top = throughput_at_cap(curve, pool.max_cap_w)
        floor_cap = (
            pool.min_cap_w if breakable else max(pool.min_cap_w, cap_for_throughput(curve, min(pool.floor, top)))
        )
        busy = inputs.load[t] * pool.count
        total += (pool.count - busy) * curve.idle_w + busy * draw_at_cap(curve, floor_cap)
    return total / 1000.0


# ---------------------------------------------------------------- jobs
def _job(problem: Problem, plan: Plan, job: BatchJob) -> list[Violation]:
    """Window, rate, pool, conservation of work, no interruption."""
    orders, grid = plan.jobs[job.id], problem.grid
    batch = {inputs.pool.id: inputs.pool for inputs in problem.pools if inputs.pool.work is Work.BATCH}
    pool = batch.get(orders.pool)
    total = sum(rate * hours for rate, hours in zip(orders.work_gpus, grid.hours, strict=True))
    over = job.state in {JobState.DONE, JobState.CANCELLED} or job.left_gpu_h <= 1e-9
    if total > 1e-6 and (over or pool is None or orders.pool not in job.pools):
        return [Violation(job.id, None, f"{total:.3f} GPU-h planned on {orders.pool!r}, where it may not run")]
    if over:
        return []
    found = []
    rate = max((_top_rate(batch[name], job) for name in job.pools if name in batch), default=0.0)
    release = grid.start if job.started_at is not None and job.release > grid.start else job.release
    for t, planned in enumerate(orders.work_gpus):
        if planned == 0:
            continue
        open_h = grid.overlap_h(t, max(release, grid.edges[t]), grid.end) if release < grid.end else 0.0
        if not -TOL <= planned <= rate * open_h / grid.hours[t] + 1e-5 * (1 + rate):
            found.append(Violation(job.id, t, f"rate {planned:.4f} is outside its window or above {rate:.1f} GPUs"))
    found.extend(_conserved(problem, job, orders, rate, total))
    if not job.preemptible:
        found.extend(_unbroken(problem, job, orders, rate, total))
    return found


def _conserved(problem: Problem, job: BatchJob, orders: JobPlan, rate: float, total: float) -> list[Violation]:
    """Done, carried past the horizon and never done make up the work left; what is late is said to be late."""
    left, tol = job.left_gpu_h, 1e-5 * (1 + job.left_gpu_h)
    opens = problem.grid.end if job.started_at is not None else max(problem.grid.end, job.release)
    after_h = max(0.0, (job.deadline - opens).total_seconds() / 3600.0)
    started = not job.preemptible and total > 1e-9
    carried = left - total - orders.undone_gpu_h
    if total > left + tol or orders.undone_gpu_h < -tol or carried < -tol:
        return [Violation(job.id, None, f"{total:.3f} GPU-h done and {orders.undone_gpu_h:.3f} undone of {left:.3f}")]
    if carried > rate * after_h + tol and not started:
        return [Violation(job.id, None, f"{carried:.3f} GPU-h vanish: they don't fit between horizon and deadline")]
    grid = problem.grid
    on_time = sum(
        min(planned * grid.hours[t], rate * grid.overlap_h(t, grid.edges[t], max(job.deadline, grid.edges[t])))
        for t, planned in enumerate(orders.work_gpus)
        if planned > 0
    )
    late = total - on_time + (max(0.0, carried - rate * after_h) if started else 0.0)
    if late > orders.late_gpu_h + tol:
        return [Violation(job.id, None, f"{late:.3f} GPU-h come after the deadline, declared {orders.late_gpu_h:.3f}")]
    return []


def _unbroken(problem: Problem, job: BatchJob, orders: JobPlan, rate: float, total: float) -> list[Violation]:
    """A run without a break at the highest rate, that ends only with the work; a running job goes on, unless the pool
    has fewer GPUs than its running jobs need."""
    runs = [t for t, planned in enumerate(orders.work_gpus) if planned > 1e-9]
    if job.started_at is not None and (not runs or runs[0] != 0):
        return [] if _crowded(problem, job) else [Violation(job.id, 0, "runs, may not be interrupted, and is stopped")]
    if not runs:
        return []
    inner = [t for t in range(runs[0] + 1, runs[-1]) if orders.work_gpus[t] < rate * (1 - 1e-6)]
    ends_early = runs[-1] < len(problem.grid) - 1 and total < job.left_gpu_h * (1 - 1e-6)
    if inner or ends_early:
        return [Violation(job.id, inner[0] if inner else runs[-1], "may not be interrupted, and is")]
    return []


def _crowded(problem: Problem, job: BatchJob) -> bool:
    """Whether the running jobs of this job's pool need more GPUs than it has."""
    pools = {inputs.pool.id: inputs.pool for inputs in problem.pools if inputs.pool.work is Work.BATCH}
    home = next((name for name in job.pools if name in pools), None)
    mates = [
        max((_top_rate(pools[name], other) for name in other.pools if name in pools), default=0.0)
        for other in problem.jobs
        if not other.preemptible and other.started_at is not None and other.left_gpu_h > 1e-9
        and next((name for name in other.pools if name in pools), None) == home
    ]  # fmt: skip
    if home is None:
        return True
    curve = clipped(pools[home].curve, pools[home].min_cap_w, pools[home].max_cap_w)
    return sum(mates) > pools[home].count * throughput_at_cap(curve, pools[home].max_cap_w) * (1 - TOL)


def _top_rate(pool: GpuPool, job: BatchJob) -> float:
    """Highest rate of a job in a pool: its GPUs under the pool's highest cap."""
    curve = clipped(pool.curve, pool.min_cap_w, pool.max_cap_w)
    return min(job.max_gpus, pool.count) * throughput_at_cap(curve, pool.max_cap_w)
