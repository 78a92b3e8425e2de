"""The checker's part about reserve: what is sold can be shed, for as long as it was sold (see `check.py`)."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite

from optimizer.check_parking import saved_kw
from optimizer.curves import cap_for_throughput, clipped, draw_at_cap, throughput_at_cap
from optimizer.domain import BatchJob, GpuPool, JobState, Plan, PoolInputs, Problem, SiteInputs, Work

TOL_KW = 1e-2


def reserve_faults(problem: Problem, plan: Plan, site: SiteInputs) -> Iterator[tuple[str, int | None, str]]:
    """Offers that are missing, above their bounds, or more than the plan could shed while a call lasts."""
    count, grid = len(problem.grid), problem.grid
    for offer in site.reserves:
        made = plan.reserves.get(offer.id)
        if made is None or len(made.offered_kw) != count or not all(isfinite(kw) for kw in made.offered_kw):
            yield offer.id, None, "reserve is missing from the plan, or its values are no numbers"
            return
        most = min(offer.max_kw, site.ramp_down_kw_per_min * offer.notice_s / 60.0)
        for t, kw in enumerate(made.offered_kw):
            if not -TOL_KW <= kw <= most + TOL_KW:
                yield offer.id, t, f"offers {kw:.3f} kW of at most {most:.3f}"
    if not any(max(plan.reserves[offer.id].offered_kw) > TOL_KW for offer in site.reserves):
        return
    for t in range(count):
        held = 0.0
        for offer in site.reserves:
            reach_s = offer.notice_s + offer.sustain_s
            calls = [n for n in range(t + 1) if (grid.edges[t] - grid.edges[n + 1]).total_seconds() < reach_s - 1e-6]
            held += max(plan.reserves[offer.id].offered_kw[n] for n in calls)
        can = _can_shed_kw(problem, plan, site, t)
        if held > can + TOL_KW + 1e-5 * abs(can):
            yield site.id, t, f"{held:.3f} kW of reserve are sold, {can:.3f} kW could be shed"


def _can_shed_kw(problem: Problem, plan: Plan, site: SiteInputs, t: int) -> float:
    """Power above the floors through PUE, and what batteries could add for the longest sustain time."""
    pools = [inputs for inputs in problem.pools if inputs.pool.site == site.id]
    drawn_kw = [plan.pools[i.pool.id].draw_kw[t] + float(saved_kw(plan, i, len(problem.grid))[t]) for i in pools]
    free = sum(max(0.0, kw - _least_kw(problem, i, t)) for kw, i in zip(drawn_kw, pools, strict=True)) * site.pue[t]
    hours = max(offer.sustain_s for offer in site.reserves) / 3600.0
    for battery in site.batteries:
        orders = plan.batteries[battery.id]
        kwh = min(orders.stored_kwh[t], orders.stored_kwh[t - 1] if t else battery.stored_now_kwh)
        kwh -= min(battery.min_kwh, battery.stored_now_kwh)
        power = battery.discharge_kw - orders.discharge_kw[t] + orders.charge_kw[t]
        free += max(0.0, min(power, kwh * battery.discharge_efficiency / hours if hours > 0 else power))
    drawn = plan.sites[site.id].import_kw[t]
    drawn += sum(plan.batteries[battery.id].discharge_kw[t] for battery in site.batteries if battery.may_export)
    drawn += sum(plan.generators[unit.id].output_kw[t] for unit in site.generators if unit.may_export)
    return min(free, max(0.0, drawn))


def _fits(job: BatchJob, pool: GpuPool) -> bool:
    """Whether a job can ever run in a pool: not once it is over, and not a gang of more GPUs than there are."""
    return job.state not in {JobState.DONE, JobState.CANCELLED} and job.min_gpus <= pool.count


def _least_kw(problem: Problem, inputs: PoolInputs, t: int) -> float:
    """Draw below which a call can't bring a pool: idle cards or its floor; all of it, where runs can't be stopped."""
    pool = inputs.pool
    curve = clipped(pool.curve, pool.min_cap_w, pool.max_cap_w)
    if pool.work is Work.BATCH:
        jobs = [job for job in problem.jobs if job.left_gpu_h > 1e-9 and pool.id in job.pools and _fits(job, pool)]
        bound = any(not job.preemptible or job.min_run_h > 0 for job in jobs)
        return float("inf") if bound else pool.count * curve.idle_w / 1000.0
    floor = max(pool.floor, inputs.floors[t]) if inputs.floors else pool.floor
    cap = max(pool.min_cap_w, cap_for_throughput(curve, min(floor, throughput_at_cap(curve, pool.max_cap_w))))
    busy = inputs.load[t] * pool.count
    return ((pool.count - busy) * curve.idle_w + busy * draw_at_cap(curve, cap)) / 1000.0
