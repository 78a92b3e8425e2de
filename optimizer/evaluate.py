"""What a plan is worth, in money, whatever made it: the judge between an optimum, a greedy plan and a rival.

Why apart from the model: a plan that says it is good must be priced by arithmetic that did not make it. Weights of
what had to give are the planning weights (`weights.py`), so that two plans for one problem compare.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from optimizer.domain import Plan, Problem
from optimizer.facts import PREFERENCE_PER_GPU_H, Facts, Floats, facts_of, late_tail
from optimizer.jobfacts import JobFacts
from optimizer.ramps import allowed_kw
from optimizer.weights import Weights, job_weights, weights_of


@dataclass(frozen=True)
class Bill:
    """Money over the horizon. The two values are gains; all others are costs."""

    service_value: float = 0.0
    job_value: float = 0.0
    energy: float = 0.0
    carbon: float = 0.0
    demand_charge: float = 0.0
    coincident_peak: float = 0.0
    storage: float = 0.0
    generation: float = 0.0
    late: float = 0.0
    undone: float = 0.0
    carried: float = 0.0
    preference: float = 0.0
    over_limit: float = 0.0
    over_event: float = 0.0
    below_floor: float = 0.0
    ramp: float = 0.0
    change: float = 0.0

    @property
    def total(self) -> float:
        """Gains less costs."""
        costs = sum(float(getattr(self, item.name)) for item in fields(self) if not item.name.endswith("_value"))
        return self.service_value + self.job_value - costs


def evaluate(problem: Problem, plan: Plan) -> Bill:
    """Price a plan of a valid problem."""
    return evaluate_facts(facts_of(problem), plan)


def evaluate_facts(facts: Facts, plan: Plan) -> Bill:
    """Price a plan whose problem's facts are known."""
    imports = np.array([plan.sites[site.id].import_kw for site in facts.problem.sites])
    energy, carbon = _energy(facts, imports)
    weights = tuple(weights_of(facts, site) for site in range(len(facts.problem.sites)))
    over_limit, over_event = _over(facts, imports, weights)
    jobs = _jobs(facts, plan)
    return Bill(
        service_value=_service(facts, plan),
        job_value=jobs[0],
        energy=energy,
        carbon=carbon,
        demand_charge=_demand(facts, imports),
        coincident_peak=_coincident(facts, imports),
        storage=_storage(facts, plan),
        generation=_generation(facts, plan),
        late=jobs[1],
        undone=jobs[2],
        carried=jobs[3],
        preference=jobs[4],
        over_limit=over_limit,
        over_event=over_event,
        below_floor=_floors(facts, plan, weights),
        ramp=_ramps(facts, imports, weights),
        change=_change(facts, plan),
    )


def _energy(facts: Facts, imports: Floats) -> tuple[float, float]:
    """Energy and carbon cost."""
    total = float((facts.cost_per_kwh * imports * facts.hours).sum())
    prices = np.array([site.price_per_mwh for site in facts.problem.sites]) / 1000.0
    energy = float((prices * imports * facts.hours).sum())
    return energy, total - energy - _coincident(facts, imports)


def _coincident(facts: Facts, imports: Floats) -> float:
    """Expected charges on the grid's own peak."""
    return sum(
        charge.price_per_kw * float(np.array(charge.probability) @ row)
        for site, row in zip(facts.problem.sites, imports, strict=True)
        for charge in site.coincident
    )


def _storage(facts: Facts, plan: Plan) -> float:
    """Wear of batteries, and what is taken out of them (negative: put in) by the end."""
    cost = 0.0
    for number, (_, battery) in enumerate(facts.supply.batteries):
        orders = plan.batteries[battery.id]
        cost += facts.supply.wear(number) * float(np.array(orders.discharge_kw) @ facts.hours)
        cost -= battery.end_value_per_kwh * (orders.stored_kwh[-1] - battery.stored_now_kwh)
    return cost


def _generation(facts: Facts, plan: Plan) -> float:
    """Dispatched energy at its cost, and what spilled must-take energy would have been as import."""
    cost = 0.0
    for number, (_, unit) in enumerate(facts.supply.generators):
        orders = plan.generators[unit.id]
        cost += unit.cost_per_mwh / 1000.0 * float(np.array(orders.output_kw) @ facts.hours)
        cost += float((facts.supply.spill_per_kwh[number] * np.array(orders.spilled_kw)) @ facts.hours)
    return cost


def _demand(facts: Facts, imports: Floats) -> float:
    """New peaks above the ones already billed."""
    cost = 0.0
    for site, row in zip(facts.problem.sites, imports, strict=True):
        for charge in site.demand_charges:
            peak = float(np.max(row, where=np.array(charge.active, dtype=np.bool_), initial=0.0))
            cost += charge.price_per_kw * max(0.0, peak - charge.peak_so_far_kw)
    return cost


def _over(facts: Facts, imports: Floats, weights: tuple[Weights, ...]) -> tuple[float, float]:
    """What exceeds hard limits and event caps."""
    limit = event = 0.0
    for s in range(len(facts.problem.sites)):
        over = np.clip(imports[s] - facts.limit_kw[s], 0.0, None)
        limit += weights[s].limit_per_kwh * float((over * facts.hours).sum())
        for number, item in facts.events_of(s):
            over = np.clip(imports[s] - np.maximum(0.0, facts.event_kw[number]), 0.0, None)
            event += weights[s].event_per_kwh[item.id] * float((over * facts.hours).sum())
    return limit, event


def _service(facts: Facts, plan: Plan) -> float:
    """Value of interactive and training work."""
    return sum(
        pool.pool.value_per_gpu_h * float((np.array(plan.pools[pool.pool.id].work_gpus) * facts.hours).sum())
        for pool in facts.pools
        if not pool.batch
    )


def _floors(facts: Facts, plan: Plan, weights: tuple[Weights, ...]) -> float:
    """Work missing below service floors."""
    cost = 0.0
    for pool in facts.pools:
        if not pool.batch:
            short = np.clip(pool.floor_work - np.array(plan.pools[pool.pool.id].work_gpus), 0.0, None)
            short = np.where(short > 1e-6, short, 0.0)
            cost += weights[pool.site].floor_per_gpu_h * float((short * facts.hours).sum())
    return cost


def _ramps(facts: Facts, imports: Floats, weights: tuple[Weights, ...]) -> float:
    """Changes of import beyond the allowed ramp; above a cap, coming down to it is always allowed."""
    cost = 0.0
    caps = np.minimum(facts.limit_kw, facts.events_cap_kw)
    for s, site in enumerate(facts.problem.sites):
        price = weights[s].ramp_per_kw
        for t in range(0 if site.import_now_kw is not None else 1, facts.count):
            before = imports[s, t - 1] if t else float(site.import_now_kw or 0.0)
            step = float(imports[s, t] - before)
            above = max(0.0, float(before - caps[s, t - 1])) if t else 0.0
            beyond = max(0.0, step - allowed_kw(facts, s, t, True), -step - above - allowed_kw(facts, s, t, False))
            cost += price * (beyond if beyond > 1e-6 else 0.0)
    return cost


def _change(facts: Facts, plan: Plan) -> float:
    """Moves of the throttle: full draw less draw, for batch pools the draw itself."""
    moved = 0.0
    for pool in facts.pools:
        draw = np.array(plan.pools[pool.pool.id].draw_kw)
        throttle = draw if pool.batch else pool.top_kw - draw
        moved += float(np.abs(np.diff(throttle)).sum())
        if pool.draw_now_kw is not None:
            now = pool.draw_now_kw if pool.batch else max(0.0, float(pool.top_kw[0]) - pool.draw_now_kw)
            moved += abs(float(throttle[0]) - now)
    return facts.problem.prices.change_per_kw * moved


def _jobs(facts: Facts, plan: Plan) -> tuple[float, float, float, float, float]:
    """Value, late penalty, undone penalty, cost of what is carried past the horizon, and of not getting the preferred
    pools, of all jobs."""
    if not facts.jobs:
        return (0.0, 0.0, 0.0, 0.0, 0.0)
    jobs, weights = facts.jobs, job_weights(facts)
    orders = [plan.jobs[job.job.id] for job in jobs]
    work = np.array([item.work_gpus for item in orders]) * facts.hours
    late = np.clip(work - np.array([job.rate * job.on_time_h for job in jobs]), 0.0, None)
    late_h = (late * np.array([job.hours_late for job in jobs])).sum(axis=1)
    tails = [_tail(facts, job, hours) for job, hours in zip(jobs, work.sum(axis=1).tolist(), strict=True)]
    tail_late, tail_h = np.array(tails).T
    left, value, done = np.array([job.left for job in jobs]), _of(jobs, "value_per_gpu_h"), work.sum(axis=1)
    undone = np.array([item.undone_gpu_h for item in orders])
    lost = np.array([item.undone_per_gpu_h for item in weights]) - value
    premium = np.array([item.late_per_gpu_h for item in weights])
    places = [_place(facts, job, item.pool) for job, item in zip(jobs, orders, strict=True)]
    carry = np.array([_carry(facts, job, place) for job, place in zip(jobs, places, strict=True)])
    chosen = np.array([place if job.job.preemptible else 0 for job, place in zip(jobs, places, strict=True)])
    return (
        float((value * (left - undone)).sum()),
        float(
            (premium * (late.sum(axis=1) + tail_late) + _of(jobs, "late_penalty") * (late_h + tail_late * tail_h)).sum()
        ),
        float((lost * undone).sum()),
        float((carry * np.clip(left - done - undone, 0.0, None)).sum()),
        PREFERENCE_PER_GPU_H * float((chosen * done).sum()),
    )


def _tail(facts: Facts, job: JobFacts, done: float) -> tuple[float, float]:
    """Late work after the horizon of a run without a break that has begun, and its mean lateness in hours."""
    return late_tail(facts, job, done) if not job.job.preemptible and done > 1e-9 else (0.0, 0.0)


def _of(jobs: tuple[JobFacts, ...], name: str) -> Floats:
    """One field of all jobs."""
    return np.array([getattr(job.job, name) for job in jobs], dtype=np.float64)


def _place(facts: Facts, job: JobFacts, pool: str) -> int:
    """Place of a pool in a job's list (0 where it has none)."""
    return next((place for place, g in enumerate(job.pools) if facts.pools[g].pool.id == pool), 0)


def _carry(facts: Facts, job: JobFacts, place: int) -> float:
    """Cost per GPU-hour of work carried past the horizon; a run without a break stays in its pool."""
    if not job.pools:
        return 0.0
    return float(facts.carry_cost[job.pools[0 if job.job.preemptible else place]])
