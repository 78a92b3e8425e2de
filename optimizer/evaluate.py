"""What a plan is worth, in money, whatever made it: the judge between an optimum, a greedy plan and a rival.

Why apart from the model: a plan that says it is good must be priced by arithmetic that did not make it. Weights of
what had to give are the planning weights (`weights.py`), so that two plans for one problem compare.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from optimizer.domain import Plan, Problem
from optimizer.facts import LEAST_GAIN, PREFERENCE_PER_GPU_H, Facts, Floats, facts_of, late_tail, with_taken
from optimizer.jobplans import job_rows
from optimizer.ramps import allowed_kw, is_paced
from optimizer.steps import pauses, rests, steps_of
from optimizer.weights import LATER_CUT, Weights, job_weights, weights_of

Ints = NDArray[np.int64]


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
    reserve: float = 0.0
    late: float = 0.0
    undone: float = 0.0
    carried: float = 0.0
    preference: float = 0.0
    over_limit: float = 0.0
    over_event: float = 0.0
    below_floor: float = 0.0
    ramp: float = 0.0
    change: float = 0.0
    pauses: float = 0.0
    cuts: float = 0.0
    moves: float = 0.0
    participation: float = 0.0
    parking: float = 0.0

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
    facts = with_taken(facts, plan.taken)
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
        reserve=_reserve(facts, plan),
        late=jobs[1],
        undone=jobs[2],
        carried=jobs[3],
        preference=jobs[4],
        over_limit=over_limit,
        over_event=over_event,
        below_floor=_floors(facts, plan, weights),
        ramp=_ramps(facts, imports, weights),
        change=_change(facts, plan),
        pauses=_pauses(facts, plan),
        cuts=_cuts(facts, plan),
        moves=_moves(facts, plan),
        participation=_participation(facts),
        parking=_parking(facts, plan),
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
        cost += unit.start_cost * facts.supply.started(number, np.array(orders.output_kw))
        cost += float((facts.supply.spill_per_kwh[number] * np.array(orders.spilled_kw)) @ facts.hours)
    return cost


def _reserve(facts: Facts, plan: Plan) -> float:
    """Revenue of the reserve that is offered, as a negative cost."""
    return -sum(
        float((np.array(offer.price_per_kw_h) * plan.reserves[offer.id].offered_kw) @ facts.hours)
        for site in facts.problem.sites
        for offer in site.reserves
    )


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
        for number, item in facts.asking(s):
            over = np.clip(imports[s] - np.maximum(0.0, facts.event_kw[number]), 0.0, None)
            event += float((weights[s].event_per_kwh[item.id] * over * facts.hours).sum())
    return limit, event


def _participation(facts: Facts) -> float:
    """What voluntary events pay that the plan takes part in, as a negative cost."""
    events = enumerate(facts.problem.events)
    mine = [(number, event) for number, event in events if event.undecided and event.id in facts.taken]
    return sum(LEAST_GAIN - event.credit_per_kwh * float(facts.promised_kwh[number]) for number, event in mine)


def _parked(plan: Plan, pool: str, count: int) -> Floats:
    """GPUs of a pool that a plan parks [interval]."""
    return np.array(plan.pools[pool].parked_gpus or (0.0,) * count)


def _parking(facts: Facts, plan: Plan) -> float:
    """Waking GPUs that are parked, and those that still are at the end."""
    parks = [(pool.pool.id, pool.parked) for pool in facts.pools if pool.parked is not None]
    return sum(how.cost(_parked(plan, name, facts.count)) for name, how in parks)


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
        if not (is_paced(facts, s, True) or is_paced(facts, s, False)):
            continue
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
        if pool.parked is not None:
            draw = draw + pool.parked.saves_kw * _parked(plan, pool.pool.id, facts.count)
        throttle = draw if pool.batch else pool.top_kw - draw
        moved += float(np.abs(np.diff(throttle)).sum())
        if pool.draw_now_kw is not None:
            now = pool.draw_now_kw if pool.batch else max(0.0, float(pool.top_kw[0]) - pool.draw_now_kw)
            moved += abs(float(throttle[0]) - now)
    return facts.problem.prices.change_per_kw * moved


def _jobs(facts: Facts, plan: Plan) -> tuple[float, float, float, float, float]:
    """Value, late penalty, undone penalty, cost of what is carried past the horizon, and of not getting the preferred
    pools or having to wait, of all jobs."""
    if not facts.jobs:
        return (0.0, 0.0, 0.0, 0.0, 0.0)
    table, weights = facts.table, job_weights(facts)
    orders = job_rows(plan.jobs, table.ids, facts.count)
    work = orders.rates * facts.hours
    late = np.clip(work - table.rate[:, None] * table.on_time_h, 0.0, None)
    late_h = (late * table.hours_late).sum(axis=1)
    done, undone, value = work.sum(axis=1), orders.undone_gpu_h, table.value_per_gpu_h
    tail_late, tail_h = _tails(facts, done)
    places = _places(facts, orders.pools)
    return (
        float((value * (table.left - undone)).sum()),
        float(
            (
                weights.late_per_gpu_h * (late.sum(axis=1) + tail_late)
                + table.late_penalty * (late_h + tail_late * tail_h)
            ).sum()
        ),
        float(((weights.undone_per_gpu_h - value) * undone).sum()),
        float((_carry(facts, places) * np.clip(table.left - done - undone, 0.0, None)).sum()),
        PREFERENCE_PER_GPU_H * float((np.where(table.preemptible, places, 0) * done).sum())
        + float((work @ facts.waiting_cost).sum()),
    )


def _moves(facts: Facts, plan: Plan) -> float:
    """Moving data to where jobs run, in proportion to the work done; whole for a run without a break."""
    if not facts.move_per_gpu_h.any():
        return 0.0
    table = facts.table
    rows = job_rows(plan.jobs, table.ids, facts.count)
    done = rows.rates @ facts.hours
    moved = np.where(table.preemptible, done, np.where(done > 1e-9, table.left, 0.0))
    number = {pool.pool.id: pool.index for pool in facts.pools}
    home = np.array([number.get(name, -1) for name in rows.pools], dtype=np.int64)
    here = table.pair_pool == home[table.pair_job]
    return float((facts.move_per_gpu_h * moved[table.pair_job])[here].sum())


def _pauses(facts: Facts, plan: Plan) -> float:
    """Suspends and restarts of jobs for which they cost; whole ones, where the model takes later ones in parts."""
    steps = steps_of(facts)
    if not steps.lasting.any():
        return 0.0
    rows = job_rows(plan.jobs, facts.table.ids, facts.count)
    carried = facts.table.left - rows.rates @ facts.hours - rows.undone_gpu_h
    return float(steps.pause_cost @ pauses(facts, steps, rows.rates, carried))


def _cuts(facts: Facts, plan: Plan) -> float:
    """Least runs that rest before they have lasted: the one in progress, or one that begins now. At the price of the
    work that their least GPUs would do, later at less of it (`weights.LATER_CUT`); what a plan begins later is decided
    again before it happens."""
    steps = steps_of(facts)
    if not steps.least_h.any() and not steps.hold_h.any():
        return 0.0
    rates = job_rows(plan.jobs, facts.table.ids, facts.count).rates
    lost = job_weights(facts).undone_per_gpu_h * steps.least_work
    share_h = facts.hours * np.where(np.arange(facts.count) == 0, 1.0, LATER_CUT)
    return float(lost @ (rests(facts, steps, rates) @ share_h))


def _tails(facts: Facts, done: Floats) -> tuple[Floats, Floats]:
    """Late work after the horizon of runs without a break that have begun, and its mean lateness in hours [job]."""
    late, hours = np.zeros_like(done), np.zeros_like(done)
    for n in np.flatnonzero(~facts.table.preemptible & (done > 1e-9)).tolist():
        late[n], hours[n] = late_tail(facts, facts.jobs[n], float(done[n]))
    return late, hours


def _places(facts: Facts, pools: tuple[str, ...]) -> Ints:
    """Place of each job's pool in its list (0 where it has none)."""
    table = facts.table
    number = {pool.pool.id: pool.index for pool in facts.pools}
    home = np.array([number.get(name, -1) for name in pools], dtype=np.int64)
    places = np.zeros(len(table), dtype=np.int64)
    here = table.pair_pool == home[table.pair_job]
    places[table.pair_job[here]] = table.pair_place[here]
    return places


def _carry(facts: Facts, places: Ints) -> Floats:
    """Cost per GPU-hour of work carried past the horizon [job]; a run without a break stays in its pool, at full
    speed."""
    table = facts.table
    kept = table.pair_place == np.where(table.preemptible, 0, places)[table.pair_job]
    cost = np.zeros(len(table))
    each = np.where(
        table.preemptible[table.pair_job], facts.carry_cost[table.pair_pool], facts.run_cost[table.pair_pool]
    )
    cost[table.pair_job[kept]] = each[kept] + facts.carried_wait
    return cost
