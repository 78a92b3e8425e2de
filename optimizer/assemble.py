"""From draws and job rates to a plan that can be ordered: caps, active GPUs, imports, notes and reasons.

Why one place for every rung of the ladder: an optimum, a greedy and a held plan must differ in what they decide and in
nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import numpy as np

from optimizer.answers import EventPlan, PoolQuote, StartPrice
from optimizer.domain import Plan, Rung, SitePlan
from optimizer.evaluate import evaluate_facts
from optimizer.facts import Facts, Floats, late_tail, with_taken
from optimizer.jobplans import JobPlans
from optimizer.notes import notes_of
from optimizer.once import once_for_jobs
from optimizer.orders import TOL_KW, busy_work, pool_plans
from optimizer.reasons import CODE, Note, Reason
from optimizer.supply import Drawn, battery_plans, generator_plans, reserve_plans, without_solver
from optimizer.why import Codes, Ints, job_reasons, pool_reasons, site_bindings


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
    events: Mapping[str, EventPlan] = field(default_factory=dict)
    """Answers to voluntary events; where there is none it is no."""
    parked: Floats | None = None
    """GPUs that are parked [pool, interval]; None: all are woken. `draw_kw` counts them as idle."""


def assemble(facts: Facts, draft: Draft, rung: Rung, notes: tuple[Note, ...] = (), solve_s: float = 0.0) -> Plan:
    """The plan of a draft, with everything a person and the fast loop need."""
    answers = {e.id: draft.events.get(e.id, EventPlan(False)) for e in facts.problem.events if e.undecided}
    facts = with_taken(facts, frozenset(name for name, answer in answers.items() if answer.take_part))
    work = _work(facts, draft)
    parked = np.zeros_like(draft.draw_kw) if draft.parked is None else draft.parked
    saves = [pool.parked.saves_kw if pool.parked is not None else 0.0 for pool in facts.pools]
    asleep_kw = parked * np.array(saves)[:, None]
    imports = (facts.other_kw + _per_site(facts, draft.draw_kw - asleep_kw)) * facts.pue
    drawn = without_solver(facts, imports) if draft.drawn is None else draft.drawn
    imports = imports + drawn.net_kw(facts)
    room_kw = (np.minimum(facts.limit_kw, facts.events_cap_kw) - imports) / facts.pue
    bindings = site_bindings(facts, imports)
    reasons = pool_reasons(facts, draft.draw_kw, work, imports, bindings)
    pools = pool_plans(facts, draft.draw_kw, work, room_kw, reasons, parked)
    sites = {
        site.id: _site_plan(facts, s, imports[s], draft.worth.marginal) for s, site in enumerate(facts.problem.sites)
    }
    jobs = _job_plans(facts, draft, work, bindings)
    plan = Plan(facts.problem.made_at, facts.problem.grid, rung, pools, jobs, sites, 0.0, solve_s)
    plan = replace(plan, batteries=battery_plans(facts, drawn), generators=generator_plans(facts, drawn))
    plan = replace(plan, reserves=reserve_plans(facts, drawn), events=answers)
    objective = evaluate_facts(facts, plan).total
    said = (*facts.problem.notes, *notes, *notes_of(facts, plan))
    return replace(plan, objective=objective, notes=said, quotes=draft.worth.quotes)


def _work(facts: Facts, draft: Draft) -> Floats:
    """Work in GPU equivalents [pool, interval]: along the measured curve, for batch pools what their jobs do."""
    work = busy_work(facts, draft.draw_kw)
    pools = np.array(draft.job_pool, dtype=np.int64)
    for g in np.unique(pools[pools >= 0]).tolist():
        work[g] += draft.rates[pools == g].sum(axis=0)
    return work


def _per_site(facts: Facts, draw_kw: Floats) -> Floats:
    """Sum of pool draws [site, interval]."""
    total = np.zeros_like(facts.other_kw)
    for pool in facts.pools:
        total[pool.site] += draw_kw[pool.index]
    return total


def _site_plan(facts: Facts, s: int, imports: Floats, marginal: Floats | None) -> SitePlan:
    """Import of a site, what had to give, and the marginal value of a MWh where duals give it."""
    over_limit = np.clip(imports - facts.limit_kw[s], 0.0, None)
    over_event = np.clip(imports - np.maximum(0.0, facts.events_cap_kw[s]), 0.0, None)
    value = () if marginal is None else tuple(marginal[s].tolist())
    overs = [np.where(over > TOL_KW * (1.0 + imports), over, 0.0) for over in (over_limit, over_event)]
    return SitePlan(tuple(imports.tolist()), tuple(overs[0].tolist()), tuple(overs[1].tolist()), value)


def _job_plans(facts: Facts, draft: Draft, work: Floats, bindings: Codes) -> JobPlans:
    """Plans of all jobs of the problem, in its order; those with nothing left to do are done. `work` of the pools."""
    table, everyone = facts.table, facts.problem.jobs
    done = draft.rates * facts.hours
    until, totals = np.cumsum(done, axis=1), done.sum(axis=1)
    late = np.clip(done - table.rate[:, None] * table.on_time_h, 0.0, None).sum(axis=1)
    late = np.where(late > 1e-9, late, 0.0)
    for n in np.flatnonzero(~table.preemptible & (totals > 1e-9)).tolist():
        late[n] += late_tail(facts, facts.jobs[n], float(totals[n]))[0]
    undone = undone_gpu_h(facts, totals)
    ids, at, firsts = _everyone(facts)
    names = [*(pool.pool.id for pool in facts.pools), ""]
    homes = [names[g] if g >= 0 else first for g, first in zip(draft.job_pool, firsts, strict=True)]
    ends = _finishes(facts, (done, until), totals, undone)
    rates, codes = draft.rates, job_reasons(facts, draft.rates, until - done, (draft.job_pool, work), bindings)
    if np.array_equal(at, np.arange(len(table))):
        return JobPlans(ids, tuple(homes), rates, codes, late, undone, tuple(ends), draft.worth.starts)
    here = at >= 0
    every = np.zeros((len(ids), facts.count))
    reasons = np.full(every.shape, CODE[Reason.WORK_DONE], dtype=np.int16)
    both = np.zeros((2, len(ids)))
    every[here], reasons[here], both[:, here] = rates[at[here]], codes[at[here]], np.array((late, undone))[:, at[here]]
    return JobPlans(
        ids,
        tuple(homes[n] if n >= 0 else next(iter(job.pools), "") for n, job in zip(at.tolist(), everyone, strict=True)),
        every,
        reasons,
        both[0],
        both[1],
        tuple(ends[n] if n >= 0 else None for n in at.tolist()),
        draft.worth.starts,
    )


@once_for_jobs
def _everyone(facts: Facts) -> tuple[tuple[str, ...], Ints, tuple[str, ...]]:
    """Ids of all jobs of the problem, each one's place in the table (-1: it has nothing left to do), and the first
    pool by name of those in the table."""
    open_ = {job.id: n for n, job in enumerate(facts.table.jobs)}
    ids = tuple(job.id for job in facts.problem.jobs)
    at = np.array([open_.get(name, -1) for name in ids], dtype=np.int64)
    return ids, at, tuple(next(iter(job.pools), "") for job in facts.table.jobs)


def undone_gpu_h(facts: Facts, done: Floats) -> Floats:
    """Work [job] that is never done: what neither the horizon nor the time left after it (before the deadline) can
    take. `done` in GPU-hours [job]."""
    table = facts.table
    served = table.first_pool >= 0
    left, least = table.left - done, 1e-9 * np.maximum(1.0, table.left)
    later = np.where(served, table.rate * table.beyond_h, 0.0)
    split = np.where(left - later > least, left - later, 0.0)
    whole = np.where((done > 1e-9) | (served & (later >= table.left)), 0.0, left)
    found: Floats = np.where(left <= least, 0.0, np.where(table.preemptible, split, whole))
    return found


def _finishes(facts: Facts, work: tuple[Floats, Floats], totals: Floats, undone: Floats) -> list[datetime | None]:
    """When each job's last work is done; None when that is never, or after the horizon at a rate not yet planned.
    `work`: done in each interval, and by its end."""
    table, grid, (done, until) = facts.table, facts.problem.grid, work
    reached = until >= (table.left * (1 - 1e-9))[:, None]
    last, row = reached.argmax(axis=1), np.arange(len(reached))
    last = np.where(reached[row, last], last, facts.count - 1)
    in_time = done[row, last] <= table.rate * table.on_time_h[row, last] * (1 + 1e-9)
    inside = totals >= table.left * (1 - 1e-9)
    found = np.array(grid.edges, dtype=object)[last + 1]
    ends_h = np.cumsum(facts.hours)[last]
    for n in np.flatnonzero(inside & in_time & (table.deadline_h < ends_h)).tolist():
        found[n] = min(found[n], table.jobs[n].deadline)
    found[(undone > 1e-9) | ~inside] = None
    for n in np.flatnonzero(~inside & (undone <= 1e-9) & ~table.preemptible & (totals > 1e-9)).tolist():
        found[n] = grid.end + timedelta(hours=float((table.left[n] - totals[n]) / table.rate[n]))
    return list(found)
