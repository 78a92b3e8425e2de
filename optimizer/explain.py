"""Says in one sentence why a pool or a job gets what it gets, until when, and what would change it.

Why from the plan: whoever asks wants the reason of what is being done, not of what a fresh solve might do. Numbers come
from the same problem and plan that were obeyed.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from math import inf

from optimizer.curves import cap_for_throughput
from optimizer.domain import BatchJob, GpuPool, Plan, PoolInputs, Problem, SiteInputs, Work
from optimizer.envelope import mean_limit_kw, released_at
from optimizer.reasons import Reason


def explain_pool(problem: Problem, plan: Plan, pool_id: str, index: int = 0, zone: tzinfo = UTC) -> str:
    """Why the pool has its cap in interval `index`, times as clocks in `zone` show them. Raises KeyError
    for an unknown pool, IndexError off the grid."""
    inputs = _pool(problem, pool_id)
    pool, orders = inputs.pool, plan.pools[pool_id]
    reason = orders.reasons[index]
    until = _clock(_until(plan, orders.reasons, index), plan.grid.starts[index], zone)
    if pool.work is Work.BATCH:
        cause = _cause(problem, plan, inputs, index, reason, zone)
        return f"{_batch_state(pool, plan, index)} because {cause} until {until}."
    busy = inputs.load[index] * pool.count
    if reason is Reason.NO_WORK or busy <= 0:
        return f"{pool_id} has no work until {until}; its GPUs idle at {pool.curve.idle_w:.0f} W."
    if (
        reason is Reason.FULL_POWER
        and inputs.floors
        and inputs.floors[index] > pool.floor
        and _all_needed(inputs, index)
    ):
        return f"{pool_id} runs at full power ({orders.cap_w[index]} W) until {until}: its latency objective needs it."
    if reason is Reason.FULL_POWER:
        return f"{pool_id} runs at full power ({orders.cap_w[index]} W) until {until}: nothing asks for less."
    share = orders.work_gpus[index] / busy
    free = _change(reason, pool, inputs.floors[index] if inputs.floors else 0.0)
    return (
        f"{pool_id} is capped at {orders.cap_w[index]} W ({share:.0%} throughput) because "
        f"{_cause(problem, plan, inputs, index, reason, zone)} until {until}; {free}."
    )


def _all_needed(inputs: PoolInputs, index: int) -> bool:
    """Whether an interval's floor leaves nothing to throttle."""
    pool = inputs.pool
    return cap_for_throughput(pool.curve, inputs.floors[index]) >= pool.max_cap_w


def _batch_state(pool: GpuPool, plan: Plan, index: int) -> str:
    """What a batch pool does."""
    orders = plan.pools[pool.id]
    parked = orders.parked_gpus[index] if orders.parked_gpus else 0.0
    asleep = f", {parked:.0f} of them parked," if parked >= 0.5 else ""
    if orders.active_gpus[index] == 0:
        return f"{pool.id} waits with all {pool.count} GPUs idle{asleep}"
    asleep = f" and has {parked:.0f} parked" if asleep else ""
    return f"{pool.id} runs {orders.active_gpus[index]} of {pool.count} GPUs at {orders.cap_w[index]} W{asleep}"


def _change(reason: Reason, pool: GpuPool, latency_floor: float) -> str:
    """What would change it."""
    if reason is Reason.SERVICE_FLOOR and latency_floor > pool.floor:
        return f"its latency objective allows no less than {latency_floor:.0%} at this load"
    if reason is Reason.SERVICE_FLOOR:
        return f"its service floor of {pool.floor:.0%} allows no less"
    if reason is Reason.FLOOR_BROKEN:
        return f"its floor of {pool.floor:.0%} returns with the end of the emergency"
    if reason is Reason.HIGH_PRICE:
        return f"at a value above {pool.value_per_gpu_h:g} per GPU-hour or a lower price it would draw more"
    return f"without it {pool.max_cap_w:.0f} W"


def _rise_kw_per_min(problem: Problem, site: SiteInputs, index: int) -> float:
    """The slowest ramp limit that may hold a rise into an interval: the site's, or a program's."""
    start = problem.grid.starts[index]
    mine = [event for event in problem.events if event.site == site.id and event.start <= start < released_at(event)]
    return min(site.ramp_up_kw_per_min, *(event.ramp_up_kw_per_min for event in mine), inf)


def _cause(problem: Problem, plan: Plan, inputs: PoolInputs, index: int, reason: Reason, zone: tzinfo) -> str:
    """The cause as a clause with its numbers."""
    site = next(site for site in problem.sites if site.id == inputs.pool.site)
    price = f"{site.price_per_mwh[index]:.0f} {problem.currency}/MWh"
    clauses = {
        Reason.FULL_POWER: "its jobs need all of it",
        Reason.NO_WORK: "no job is there to run",
        Reason.CHEAP_WINDOW: f"power is cheap ({price})",
        Reason.HIGH_PRICE: f"power costs {price}",
        Reason.CARBON: f"power costs {price} and {site.carbon_g_per_kwh[index]:.0f} g/kWh of priced carbon",
        Reason.DEADLINE: "deadlines leave no cheaper time",
        Reason.PEAK_AVOID: f"a higher peak than {_peak_kw(site, plan):.0f} kW would be billed",
        Reason.COINCIDENT_PEAK: _coincident_clause(site, index, problem.currency),
        Reason.SITE_LIMIT: f"the site may draw no more than {site.limit_kw[index]:.0f} kW",
        Reason.RAMP_LIMIT: f"the site may rise by no more than {_rise_kw_per_min(problem, site, index):g} kW a minute",
        Reason.SERVICE_FLOOR: "a cap on the site asks for more than the floors leave",
        Reason.FLOOR_BROKEN: "an emergency goes before the floor",
        Reason.CHANGE_COST: "moving the cap for so short a time costs more than it brings",
    }
    if reason in {Reason.DR_EVENT, Reason.REBOUND_LIMIT}:
        return _event_clause(problem, plan, site.id, index, reason, zone)
    return clauses.get(reason, str(reason).replace("_", " "))


def explain_event(problem: Problem, plan: Plan, event_id: str) -> str:
    """Whether the plan takes part in a voluntary event that waits for an answer, and why. Raises KeyError."""
    answer, unit = plan.events[event_id], problem.currency
    if answer.short_kw > 0 and not answer.take_part:
        return f"opted out: {answer.short_kw:,.0f} kW of what it asks can't be shed"
    if answer.pays is not None and answer.costs is None:
        return "opted out: what it asks can't be kept throughout"
    if answer.pays is None or answer.costs is None:
        return "opted in: its worth is not known" if answer.take_part else "opted out: no solver weighed it"
    pays, costs = f"{answer.pays:,.2f} {unit}", f"{answer.costs:,.2f} {unit}"
    if answer.take_part:
        return f"opted in: pays {pays}, costs {costs}"
    return f"opted out: would pay {pays} and cost {costs}"


def _event_clause(problem: Problem, plan: Plan, site: str, index: int, reason: Reason, zone: tzinfo) -> str:
    """Which event binds and to what."""
    start, end = problem.grid.edges[index], problem.grid.edges[index + 1]
    asking = [
        event for event in problem.events if event.site == site and (not event.undecided or event.id in plan.taken)
    ]
    cap, event = min(((mean_limit_kw(event, start, end), event) for event in asking), key=lambda item: item[0])
    over = event.end + timedelta(seconds=event.ramp_out_s)
    if reason is Reason.REBOUND_LIMIT:
        over += timedelta(seconds=event.rebound_s)
        return f"after event {event.id} the site may draw no more than {_mw(cap)} (rebound) {_to(over, start, zone)}"
    return f"event {event.id} limits the site to {_mw(cap)} {_to(over, start, zone)}"


def _coincident_clause(site: SiteInputs, index: int, currency: str) -> str:
    """Which of the grid's own peaks this interval may be, and what a kW in it costs."""
    if not site.coincident:
        return "the grid may peak now"
    charge = max(site.coincident, key=lambda charge: charge.price_per_kw * charge.probability[index])
    chance, price = charge.probability[index], f"{charge.price_per_kw:g} {currency}/kW"
    return f"the grid's peak {charge.id} lies here with p = {chance:.2g} and costs {price}"


def _to(moment: datetime, seen_from: datetime, zone: tzinfo) -> str:
    return f"(ends {_clock(moment, seen_from, zone)})"


def _mw(kw: float) -> str:
    """Power as a person reads it."""
    return f"{kw / 1000:.2f} MW" if kw >= 1000 else f"{kw:.1f} kW"


def _peak_kw(site: SiteInputs, plan: Plan) -> float:
    """The peak that counts: the one billed already or the plan's own."""
    billed = max((charge.peak_so_far_kw for charge in site.demand_charges), default=0.0)
    return max(billed, *plan.sites[site.id].import_kw)


def explain_job(problem: Problem, plan: Plan, job_id: str, zone: tzinfo = UTC) -> str:
    """Why the job runs or waits now, when it will be done, and whether it meets its deadline. Raises KeyError."""
    job = next((job for job in problem.jobs if job.id == job_id), None)
    if job is None:
        raise KeyError(job_id)
    orders, grid = plan.jobs[job_id], plan.grid
    reason = orders.reasons[0]
    if reason is Reason.WORK_DONE:
        return f"{job_id} is done: no work is left."
    if reason is Reason.DEADLINE_UNREACHABLE or not _batch_pools(problem, job):
        return f"{job_id} can't run: none of its pools ({', '.join(job.pools) or 'none named'}) runs batch work."
    if orders.work_gpus[0] > 1e-9:
        cause = _job_cause(problem, plan, orders.pool, reason, zone)
        state = f"{job_id} runs on {orders.pool} at {orders.work_gpus[0]:.1f} GPUs because {cause}"
        return f"{state}; {_ending(job, plan, zone)}."
    first = next((t for t, rate in enumerate(orders.work_gpus) if rate > 1e-9), None)
    start = (
        f"until {_clock(grid.starts[first], grid.start, zone)}" if first is not None else "beyond this plan's horizon"
    )
    cause, price = _job_cause(problem, plan, orders.pool, reason, zone), _start_price(problem, plan, job_id)
    return f"{job_id} waits {start} because {cause}; {price}{_ending(job, plan, zone)}."


def _start_price(problem: Problem, plan: Plan, job_id: str) -> str:
    """Which price would start the job now, as a clause; empty where no dual says it."""
    orders = plan.jobs[job_id]
    start = orders.start
    if start is None or start.extra_per_gpu_h is None:
        return ""
    site = _pool(problem, orders.pool).pool.site
    now = next(inputs.price_per_mwh[0] for inputs in problem.sites if inputs.id == site)
    unit, bound, seen = f"{problem.currency}/MWh", start.never_above_per_mwh, start.at_per_mwh
    if start.extra_per_gpu_h <= 1e-9:
        return "running now would cost the same; "
    if bound is None:
        return f"running now would cost {start.extra_per_gpu_h:.3g} {problem.currency} more for a GPU-hour; "
    if seen is None:
        return f"it would not start above {bound:.4g} {unit}, now {now:.4g}; "
    if abs(bound - seen) <= 2e-3 * (1.0 + abs(bound)):
        return f"it would start below {bound:.4g} {unit}, now {now:.4g}; "
    return f"it would start at {seen:.4g} {unit} and not above {bound:.4g}, now {now:.4g}; "


def _batch_pools(problem: Problem, job: BatchJob) -> list[str]:
    names = {inputs.pool.id for inputs in problem.pools if inputs.pool.work is Work.BATCH}
    return [name for name in job.pools if name in names]


def _job_cause(problem: Problem, plan: Plan, pool_id: str, reason: Reason, zone: tzinfo) -> str:
    """The cause of a job's state now."""
    inputs = _pool(problem, pool_id)
    site = next(site for site in problem.sites if site.id == inputs.pool.site)
    price = f"{site.price_per_mwh[0]:.0f} {problem.currency}/MWh"
    clauses = {
        Reason.NOT_RELEASED: "it is not released yet",
        Reason.NOT_PREEMPTIBLE: "it may not be interrupted",
        Reason.PREDECESSOR: "jobs before it are not done",
        Reason.DEADLINE: "its deadline leaves no cheaper time",
        Reason.CHEAP_WINDOW: f"power is cheap now ({price})",
        Reason.HIGH_PRICE: f"power at {price} is dearer than later",
        Reason.POOL_FULL: f"{pool_id} is full with jobs that can wait less",
        Reason.PEAK_AVOID: "running now would raise the billed peak",
        Reason.COINCIDENT_PEAK: _coincident_clause(site, 0, problem.currency),
        Reason.SITE_LIMIT: f"the site may draw no more than {_mw(site.limit_kw[0])}",
        Reason.RAMP_LIMIT: "the site may not rise faster",
    }
    if reason in {Reason.DR_EVENT, Reason.REBOUND_LIMIT}:
        return _event_clause(problem, plan, site.id, 0, reason, zone)
    return clauses.get(reason, str(reason).replace("_", " "))


def _ending(job: BatchJob, plan: Plan, zone: tzinfo) -> str:
    """When it will be done, against its deadline."""
    orders = plan.jobs[job.id]
    deadline = _clock(job.deadline, plan.grid.start, zone)
    if orders.undone_gpu_h > 1e-6:
        return f"{orders.undone_gpu_h:.1f} of its {job.left_gpu_h:.1f} GPU-hours can't be done (deadline {deadline})"
    if orders.finish is None:
        return f"the rest is done after the horizon, before its deadline {deadline}"
    when = _clock(orders.finish, plan.grid.start, zone)
    if orders.late_gpu_h > 1e-6:
        return f"done {when}, with {orders.late_gpu_h:.1f} GPU-hours after its deadline {deadline}"
    return f"done {when}, before its deadline {deadline}"


def _pool(problem: Problem, pool_id: str) -> PoolInputs:
    """The pool's inputs; KeyError when there is none."""
    for inputs in problem.pools:
        if inputs.pool.id == pool_id:
            return inputs
    raise KeyError(pool_id)


def _until(plan: Plan, reasons: tuple[Reason, ...], index: int) -> datetime:
    """End of the run of intervals with the same reason."""
    end = index
    while end + 1 < len(reasons) and reasons[end + 1] is reasons[index]:
        end += 1
    return plan.grid.edges[end + 1]


def _clock(moment: datetime, seen_from: datetime, zone: tzinfo) -> str:
    """A moment as the clocks in `zone` show it, with the zone's name; the day only when it is another one."""
    here = moment.astimezone(zone)
    name = "Z" if zone is UTC else f" {here:%Z}"
    day = "" if here.date() == seen_from.astimezone(zone).date() else f"{here:%d %b} "
    return f"{day}{here:%H:%M}{name}"
