"""From draws and job rates to a plan that can be ordered: caps, active GPUs, imports, notes and reasons.

Why one place for every rung of the ladder: an optimum, a greedy and a held plan must differ in what they decide and in
nothing else. Rounding is on the safe side: whole-watt caps that draw no more than planned, and whole GPUs that only
round up where the site has room for one more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import numpy as np

from optimizer.curves import cap_for_draw, throughput_at_draw
from optimizer.domain import JobPlan, Plan, PoolPlan, PoolQuote, Rung, SitePlan, StartPrice
from optimizer.evaluate import evaluate_facts
from optimizer.facts import Facts, Floats, late_tail
from optimizer.jobfacts import JobFacts
from optimizer.notes import notes_of
from optimizer.poolfacts import PoolFacts
from optimizer.reasons import Note, Reason
from optimizer.supply import Drawn, battery_plans, generator_plans, without_solver
from optimizer.why import Codes, job_reasons, pool_reasons, site_bindings

TOL_KW = 1e-6


@dataclass(frozen=True)
class Worth:
    """What the duals say: marginal value in money per MWh [site, interval], quotes by pool, start prices by job."""

    marginal: Floats | None = None
    quotes: Mapping[str, PoolQuote] = field(default_factory=dict)
    starts: Mapping[str, StartPrice] = field(default_factory=dict)


NO_DUALS = Worth()


@dataclass(frozen=True)
class Draft:
    """What was decided: draw in kW [pool, interval], job rates in GPU equivalents [job, interval], and each job's pool
    (its index, -1: none). `worth` only where there are duals."""

    draw_kw: Floats
    rates: Floats
    job_pool: tuple[int, ...]
    worth: Worth = NO_DUALS
    drawn: Drawn | None = None
    """Batteries and generators; None: by rule."""


def assemble(facts: Facts, draft: Draft, rung: Rung, notes: tuple[Note, ...] = (), solve_s: float = 0.0) -> Plan:
    """The plan of a draft, with everything a person and the fast loop need."""
    work = _work(facts, draft)
    imports = (facts.other_kw + _per_site(facts, draft.draw_kw)) * facts.pue
    drawn = without_solver(facts, imports) if draft.drawn is None else draft.drawn
    imports = imports + drawn.net_kw(facts)
    room_kw = (np.minimum(facts.limit_kw, facts.events_cap_kw) - imports) / facts.pue
    bindings = site_bindings(facts, imports)
    reasons = pool_reasons(facts, draft.draw_kw, work, imports, bindings)
    pools = {
        pool.pool.id: _pool_plan(facts, pool, draft.draw_kw[pool.index], work[pool.index], room_kw, reasons[pool.index])
        for pool in facts.pools
    }
    sites = {
        site.id: _site_plan(facts, s, imports[s], draft.worth.marginal) for s, site in enumerate(facts.problem.sites)
    }
    plan = Plan(
        facts.problem.made_at, facts.problem.grid, rung, pools, _job_plans(facts, draft, bindings), sites, 0.0, solve_s
    )
    plan = replace(plan, batteries=battery_plans(facts, drawn), generators=generator_plans(facts, drawn))
    objective = evaluate_facts(facts, plan).total
    said = (*facts.problem.notes, *notes, *notes_of(facts, plan))
    return replace(plan, objective=objective, notes=said, quotes=draft.worth.quotes)


def _work(facts: Facts, draft: Draft) -> Floats:
    """Work in GPU equivalents [pool, interval]: along the measured curve, for batch pools what their jobs do."""
    work = np.zeros_like(draft.draw_kw)
    for pool in facts.pools:
        if not pool.batch:
            for t, working in enumerate(pool.working.tolist()):
                work[pool.index, t] = working * throughput_at_draw(
                    pool.curve, busy_w(pool, t, draft.draw_kw[pool.index, t])
                )
    for number, g in enumerate(draft.job_pool):
        if g >= 0:
            work[g] += draft.rates[number]
    return work


def busy_w(pool: PoolFacts, index: int, draw_kw: float) -> float:
    """Draw in W of one busy GPU of an interactive or training pool."""
    working = float(pool.working[index])
    if working <= 0:
        return pool.hulls[index].top_w
    return pool.hulls[index].base_w + (float(draw_kw) - float(pool.base_kw[index])) * 1000.0 / working


def _per_site(facts: Facts, draw_kw: Floats) -> Floats:
    """Sum of pool draws [site, interval]."""
    total = np.zeros_like(facts.other_kw)
    for pool in facts.pools:
        total[pool.site] += draw_kw[pool.index]
    return total


def _pool_plan(
    facts: Facts, pool: PoolFacts, draw_kw: Floats, work: Floats, room_kw: Floats, reasons: tuple[Reason, ...]
) -> PoolPlan:
    """Orders of one pool; rounding a batch pool up by a part of a GPU uses up the site's room."""
    caps, active = [], []
    for t in range(facts.count):
        cap, gpus = (
            _batch_order(pool, t, float(draw_kw[t]), float(work[t]), room_kw)
            if pool.batch
            else (_cap(pool, t, busy_w(pool, t, float(draw_kw[t]))), pool.pool.count)
        )
        caps.append(cap)
        active.append(gpus)
    return PoolPlan(tuple(draw_kw.tolist()), tuple(work.tolist()), tuple(caps), tuple(active), reasons)


def _cap(pool: PoolFacts, index: int, draw_w: float) -> int:
    """Whole-watt cap for a draw of one busy GPU; never below the floor's cap, where the floor holds."""
    cap = cap_for_draw(pool.curve, draw_w + 1e-6)
    lowest = int(np.ceil(pool.pool.min_cap_w))
    if not pool.batch and not pool.may_break_floor[index]:
        lowest = max(lowest, pool.floor_cap_w)
    return min(int(pool.pool.max_cap_w), max(lowest, cap))


def _batch_order(pool: PoolFacts, t: int, draw_kw: float, work: float, room_kw: Floats) -> tuple[int, int]:
    """Cap and active GPUs that do `work` with the planned draw."""
    if work <= 1e-9:
        return int(pool.pool.max_cap_w), 0
    above_w, rate = _gpu_at(pool, t, (draw_kw - float(pool.base_kw[t])) * 1000.0 / work)
    gpus = min(float(pool.pool.count), work / rate)
    whole = int(np.ceil(gpus - 1e-6))
    extra_kw = (whole - gpus) * above_w / 1000.0
    if extra_kw > room_kw[pool.site, t] + TOL_KW:
        whole = int(gpus + 1e-6)
    else:
        room_kw[pool.site, t] -= max(0.0, extra_kw)
    return _cap(pool, t, pool.curve.idle_w + above_w), whole


def _gpu_at(pool: PoolFacts, index: int, w_per_work: float) -> tuple[float, float]:
    """Draw above idle in W and throughput of one GPU that needs `w_per_work` watts for each unit of work."""
    above, rate = 0.0, 0.0
    for segment in pool.hulls[index].segments:
        full, done = above + segment.width_w, rate + segment.width_w * segment.slope_per_w
        if above > 0 and full / done > w_per_work:
            step = (w_per_work * rate - above) / (1.0 - w_per_work * segment.slope_per_w)
            step = min(segment.width_w, max(0.0, step))
            return above + step, rate + step * segment.slope_per_w
        above, rate = full, done
    return above, rate


def _site_plan(facts: Facts, s: int, imports: Floats, marginal: Floats | None) -> SitePlan:
    """Import of a site, what had to give, and the marginal value of a MWh where duals give it."""
    over_limit = np.clip(imports - facts.limit_kw[s], 0.0, None)
    over_event = np.clip(imports - np.maximum(0.0, facts.events_cap_kw[s]), 0.0, None)
    value = () if marginal is None else tuple(marginal[s].tolist())
    overs = [np.where(over > TOL_KW * (1.0 + imports), over, 0.0) for over in (over_limit, over_event)]
    return SitePlan(tuple(imports.tolist()), tuple(overs[0].tolist()), tuple(overs[1].tolist()), value)


def _job_plans(facts: Facts, draft: Draft, bindings: Codes) -> dict[str, JobPlan]:
    """Plans of all jobs of the problem; those with nothing left to do are done."""
    count, open_jobs = facts.count, {job.job.id for job in facts.jobs}
    plans = {
        job.id: JobPlan((0.0,) * count, next(iter(job.pools), ""), 0.0, 0.0, None, (Reason.WORK_DONE,) * count)
        for job in facts.problem.jobs
        if job.id not in open_jobs
    }
    if not facts.jobs:
        return plans
    done = draft.rates * facts.hours
    late = np.clip(done - np.array([job.rate * job.on_time_h for job in facts.jobs]), 0.0, None).sum(axis=1)
    reasons = job_reasons(facts, draft.rates, draft.job_pool, bindings)
    totals, rates, lateness = done.sum(axis=1).tolist(), draft.rates.tolist(), late.tolist()
    for number, job in enumerate(facts.jobs):
        g = draft.job_pool[number]
        pool = facts.pools[g].pool.id if g >= 0 else next(iter(job.job.pools), "")
        undone = undone_gpu_h(job, totals[number])
        finish = None if undone > 1e-9 else _finish(facts, job, done[number], totals[number])
        late_gpu_h = lateness[number] if lateness[number] > 1e-9 else 0.0
        if not job.job.preemptible and totals[number] > 1e-9:
            late_gpu_h += late_tail(facts, job, totals[number])[0]
        start = draft.worth.starts.get(job.job.id)
        plans[job.job.id] = JobPlan(tuple(rates[number]), pool, late_gpu_h, undone, finish, reasons[number], start)
    return plans


def undone_gpu_h(job: JobFacts, done: float) -> float:
    """Work that is never done: what neither the horizon nor the time left after it (before the deadline) can take."""
    left = job.left - done
    if left <= 1e-9 * max(1.0, job.left):
        return 0.0
    if job.job.preemptible:
        later = job.rate * job.beyond_h if job.pools else 0.0
        return left - later if left - later > 1e-9 * max(1.0, job.left) else 0.0
    starts_later = job.rate * job.beyond_h >= job.left and bool(job.pools)
    return 0.0 if done > 1e-9 or starts_later else left


def _finish(facts: Facts, job: JobFacts, done: Floats, total: float) -> datetime | None:
    """When the job's last work is done; None when that lies after the horizon at a rate not yet planned."""
    if total < job.left * (1 - 1e-9):
        if job.job.preemptible or total <= 1e-9:
            return None
        return facts.problem.grid.end + timedelta(hours=(job.left - total) / job.rate)
    reached = np.cumsum(done)
    t = int(np.searchsorted(reached, job.left * (1 - 1e-9)))
    t = min(t, facts.count - 1)
    end = facts.problem.grid.edges[t + 1]
    in_time = float(done[t]) <= job.rate * float(job.on_time_h[t]) * (1 + 1e-9)
    return min(end, job.job.deadline) if in_time else end
