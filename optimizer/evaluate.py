"""What a plan is worth, in money, whatever made it: the judge between an optimum, a greedy plan and a rival.

Why apart from the model: a plan that says it is good must be priced by arithmetic that did not make it. Weights of
what had to give are the planning weights (`weights.py`), so that two plans for one problem compare.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from optimizer.domain import Plan, Problem
from optimizer.facts import PREFERENCE_PER_GPU_H, Facts, Floats, JobFacts, facts_of
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
    jobs = [_job(facts, job, plan) for job in facts.jobs]
    return Bill(
        service_value=_service(facts, plan),
        job_value=sum(job[0] for job in jobs),
        energy=energy,
        carbon=carbon,
        demand_charge=_demand(facts, imports),
        late=sum(job[1] for job in jobs),
        undone=sum(job[2] for job in jobs),
        carried=sum(job[3] for job in jobs),
        preference=sum(job[4] for job in jobs),
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
    return energy, total - energy


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


def _job(facts: Facts, job: JobFacts, plan: Plan) -> tuple[float, float, float, float, float]:
    """Value, late penalty, undone penalty, cost of what is carried past the horizon, and of not getting the preferred
    pool, of one job."""
    orders, weights = plan.jobs[job.job.id], job_weights(facts, job)
    work = np.array(orders.work_gpus) * facts.hours
    late = np.clip(work - job.rate * job.on_time_h, 0.0, None)
    carried = max(0.0, job.left - float(work.sum()) - orders.undone_gpu_h)
    pool = next((number for number in job.pools if facts.pools[number].pool.id == orders.pool), -1)
    place = job.pools.index(pool) if pool >= 0 and job.job.preemptible else 0
    return (
        job.job.value_per_gpu_h * (job.left - orders.undone_gpu_h),
        float((late * (weights.late_per_gpu_h + job.job.late_penalty * job.hours_late)).sum()),
        (weights.undone_per_gpu_h - job.job.value_per_gpu_h) * orders.undone_gpu_h,
        float(facts.carry_cost[job.pools[0]] if job.job.preemptible else facts.carry_cost[pool]) * carried
        if pool >= 0
        else 0.0,
        PREFERENCE_PER_GPU_H * place * float(work.sum()),
    )
