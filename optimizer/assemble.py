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

from optimizer.answers import EventPlan, PoolQuote, StartPrice
from optimizer.curve_arrays import Ints, caps_for_draws, throughputs_at_draws
from optimizer.domain import Plan, PoolPlan, Rung, SitePlan
from optimizer.evaluate import evaluate_facts
from optimizer.facts import Facts, Floats, late_tail, with_taken
from optimizer.jobplans import NAMES, JobPlans
from optimizer.notes import notes_of
from optimizer.once import once_for_jobs
from optimizer.parked import Parked
from optimizer.poolfacts import PoolFacts
from optimizer.reasons import CODE, Note, Reason
from optimizer.supply import Drawn, battery_plans, generator_plans, reserve_plans, without_solver
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
    pools = {
        pool.pool.id: _pool_plan(facts, pool, draft.draw_kw[pool.index], work[pool.index], room_kw, reasons[pool.index])
        for pool in facts.pools
    }
    pools |= {
        pool.pool.id: _with_parked(pool, pool.parked, pools[pool.pool.id], parked[pool.index])
        for pool in facts.pools
        if pool.parked is not None
    }
    sites = {
        site.id: _site_plan(facts, s, imports[s], draft.worth.marginal) for s, site in enumerate(facts.problem.sites)
    }
    plan = Plan(
        facts.problem.made_at, facts.problem.grid, rung, pools, _job_plans(facts, draft, bindings), sites, 0.0, solve_s
    )
    plan = replace(plan, batteries=battery_plans(facts, drawn), generators=generator_plans(facts, drawn))
    plan = replace(plan, reserves=reserve_plans(facts, drawn), events=answers)
    objective = evaluate_facts(facts, plan).total
    said = (*facts.problem.notes, *notes, *notes_of(facts, plan))
    return replace(plan, objective=objective, notes=said, quotes=draft.worth.quotes)


def _work(facts: Facts, draft: Draft) -> Floats:
    """Work in GPU equivalents [pool, interval]: along the measured curve, for batch pools what their jobs do."""
    work = np.zeros_like(draft.draw_kw)
    for pool in facts.pools:
        if not pool.batch:
            busy = busy_w(pool, draft.draw_kw[pool.index])
            work[pool.index] = pool.working * throughputs_at_draws(pool.curve, busy)
    pools = np.array(draft.job_pool, dtype=np.int64)
    for g in np.unique(pools[pools >= 0]).tolist():
        work[g] += draft.rates[pools == g].sum(axis=0)
    return work


def busy_w(pool: PoolFacts, draw_kw: Floats) -> Floats:
    """Draw in W of one busy GPU of an interactive or training pool [interval]."""
    some = pool.working > 0
    above = (draw_kw - pool.base_kw) * 1000.0 / np.where(some, pool.working, 1.0)
    found: Floats = np.where(some, pool.base_w + above, pool.top_w)
    return found


def _per_site(facts: Facts, draw_kw: Floats) -> Floats:
    """Sum of pool draws [site, interval]."""
    total = np.zeros_like(facts.other_kw)
    for pool in facts.pools:
        total[pool.site] += draw_kw[pool.index]
    return total


def _pool_plan(
    facts: Facts, pool: PoolFacts, draw_kw: Floats, work: Floats, room_kw: Floats, reasons: Codes
) -> PoolPlan:
    """Orders of one pool; rounding a batch pool up by a part of a GPU uses up the site's room."""
    if pool.batch:
        caps, active = _batch_orders(pool, draw_kw, work, room_kw)
    else:
        caps, active = _caps(pool, busy_w(pool, draw_kw)), np.full(facts.count, pool.pool.count)
    names = tuple(NAMES[reasons].tolist())
    return PoolPlan(tuple(draw_kw.tolist()), tuple(work.tolist()), tuple(caps.tolist()), tuple(active.tolist()), names)


def _with_parked(pool: PoolFacts, how: Parked, orders: PoolPlan, parked: Floats) -> PoolPlan:
    """The orders with parked GPUs: they draw less, and no more are active than are awake."""
    awake = np.ceil(how.awake(parked) - 1e-6)
    active = np.minimum(np.array(orders.active_gpus), np.maximum(0, awake).astype(np.int64))
    draw = np.array(orders.draw_kw) - parked * how.saves_kw
    rows = (tuple(row.tolist()) for row in (draw, active, parked))
    return replace(orders, **dict(zip(("draw_kw", "active_gpus", "parked_gpus"), rows, strict=True)))


def _caps(pool: PoolFacts, draw_w: Floats) -> Ints:
    """Whole-watt caps for draws of one busy GPU; never below the floor's cap, where the floor holds."""
    caps = caps_for_draws(pool.curve, draw_w + 1e-6)
    lowest = int(np.ceil(pool.pool.min_cap_w))
    if not pool.batch:
        caps = np.where(pool.may_break_floor, caps, np.maximum(caps, pool.floor_caps_w))
    return np.minimum(int(pool.pool.max_cap_w), np.maximum(lowest, caps))


def _batch_orders(pool: PoolFacts, draw_kw: Floats, work: Floats, room_kw: Floats) -> tuple[Ints, Ints]:
    """Caps and active GPUs that do `work` with the planned draw, all [interval]."""
    busy = work > 1e-9
    done = np.where(busy, work, 1.0)
    above_w, rate = _gpus_at(pool, (draw_kw - pool.base_kw) * 1000.0 / done)
    gpus = np.minimum(float(pool.pool.count), work / np.where(rate > 0, rate, 1.0))
    whole = np.ceil(gpus - 1e-6)
    extra_kw = (whole - gpus) * above_w / 1000.0
    fits = extra_kw <= room_kw[pool.site] + TOL_KW
    room_kw[pool.site] -= np.where(busy & fits, np.maximum(0.0, extra_kw), 0.0)
    active = np.where(busy, np.where(fits, whole, np.floor(gpus + 1e-6)), 0.0).astype(np.int64)
    return np.where(busy, _caps(pool, pool.curve.idle_w + above_w), int(pool.pool.max_cap_w)), active


def _gpus_at(pool: PoolFacts, w_per_work: Floats) -> tuple[Floats, Floats]:
    """Draw above idle in W and throughput of one GPU that needs `w_per_work` watts for each unit of work [interval]."""
    above, rate = np.zeros(len(w_per_work)), np.zeros(len(w_per_work))
    going = np.ones(len(w_per_work), dtype=np.bool_)
    for k in range(pool.seg_width_w.shape[1]):
        width, slope = pool.seg_width_w[:, k], pool.seg_slope_per_kw[:, k] / 1000.0
        full, done = above + width, rate + width * slope
        ends = going & (above > 0) & (full > w_per_work * done)
        rest = 1.0 - w_per_work * slope
        step = np.clip((w_per_work * rate - above) / np.where(ends, rest, 1.0), 0.0, width)
        above = np.where(ends, above + step, np.where(going, full, above))
        rate = np.where(ends, rate + step * slope, np.where(going, done, rate))
        going &= ~ends
    return above, rate


def _site_plan(facts: Facts, s: int, imports: Floats, marginal: Floats | None) -> SitePlan:
    """Import of a site, what had to give, and the marginal value of a MWh where duals give it."""
    over_limit = np.clip(imports - facts.limit_kw[s], 0.0, None)
    over_event = np.clip(imports - np.maximum(0.0, facts.events_cap_kw[s]), 0.0, None)
    value = () if marginal is None else tuple(marginal[s].tolist())
    overs = [np.where(over > TOL_KW * (1.0 + imports), over, 0.0) for over in (over_limit, over_event)]
    return SitePlan(tuple(imports.tolist()), tuple(overs[0].tolist()), tuple(overs[1].tolist()), value)


def _job_plans(facts: Facts, draft: Draft, bindings: Codes) -> JobPlans:
    """Plans of all jobs of the problem, in its order; those with nothing left to do are done."""
    table, everyone = facts.table, facts.problem.jobs
    done = draft.rates * facts.hours
    totals = done.sum(axis=1)
    late = np.clip(done - table.rate[:, None] * table.on_time_h, 0.0, None).sum(axis=1)
    late = np.where(late > 1e-9, late, 0.0)
    for n in np.flatnonzero(~table.preemptible & (totals > 1e-9)).tolist():
        late[n] += late_tail(facts, facts.jobs[n], float(totals[n]))[0]
    undone = undone_gpu_h(facts, totals)
    ids, at, firsts = _everyone(facts)
    names = [*(pool.pool.id for pool in facts.pools), ""]
    homes = [names[g] if g >= 0 else first for g, first in zip(draft.job_pool, firsts, strict=True)]
    ends = _finishes(facts, done, totals, undone)
    rates, codes = draft.rates, job_reasons(facts, draft.rates, draft.job_pool, bindings)
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


def _finishes(facts: Facts, done: Floats, totals: Floats, undone: Floats) -> list[datetime | None]:
    """When each job's last work is done; None when that is never, or after the horizon at a rate not yet planned."""
    table, grid = facts.table, facts.problem.grid
    reached = np.cumsum(done, axis=1) >= (table.left * (1 - 1e-9))[:, None]
    last = np.where(reached.any(axis=1), reached.argmax(axis=1), facts.count - 1)
    row = np.arange(len(last))
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
