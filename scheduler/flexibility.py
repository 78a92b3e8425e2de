"""What a site would draw without an event, and what it can shed: the two figures that a utility is answered with.

Why from measured draw: a cap is not a reduction. The baseline is the meter's mean over the minutes before the message
("meter before"), or the figure that the program declares; what can be shed counts busy GPUs down to their floors.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from optimizer.domain import Work
from scheduler.engine import Context, PoolModel, State
from scheduler.estimate import import_kw, pool_kw
from scheduler.ledger import ProgramTerms
from scheduler.orders import PoolOrder, free_order
from scheduler.safety import floor_cap_w


def pue_now(ctx: Context, state: State, site: str, now: datetime) -> float:
    """PUE of the present interval as planned, else the model without weather."""
    problem = state.problem
    if problem is not None and problem.grid.start <= now < problem.grid.end:
        inputs = next(inputs for inputs in problem.sites if inputs.id == site)
        return inputs.pue[problem.grid.index(now)]
    return ctx.sites[site].pue.at(None)


def site_pools(ctx: Context, site: str) -> list[PoolModel]:
    """The pools of a site."""
    return [model for model in ctx.pools.values() if model.pool.site == site]


def full_import_kw(ctx: Context, state: State, site: str, now: datetime) -> float:
    """Import with every GPU busy and no cap: the most that the site can draw."""
    it_kw = sum(pool_kw(m.pool, free_order(m.pool), m.pool.count) for m in site_pools(ctx, site))
    return import_kw(it_kw, ctx.sites[site].other_it_kw, pue_now(ctx, state, site, now))


def baseline_kw(ctx: Context, state: State, site: str, terms: ProgramTerms, now: datetime) -> float:
    """Baseline of a program for an event received now, in kW at the meter."""
    if terms.declared_baseline_kw is not None:
        return terms.declared_baseline_kw
    start = now - timedelta(seconds=terms.baseline_s)
    measured = ctx.store.mean_import_kw(site, start, now)
    if measured is None and state.tick is not None:
        measured = state.tick.import_kw.get(site)
    return measured if measured is not None else full_import_kw(ctx, state, site, now)


def least_import_kw(ctx: Context, state: State, site: str, now: datetime) -> float:
    """Import with every pool at its floor and interruptible batch work paused: what can't be shed."""
    it_kw = 0.0
    for model in site_pools(ctx, site):
        pool = model.pool
        busy = state.busy.get(pool.id, float(pool.count))
        if pool.work is Work.BATCH:
            held = (job for job in state.jobs if not job.preemptible and pool.id in job.pools)
            kept = sum(job.gpus for job in held)
            others = state.foreign[pool.id].gpus if pool.id in state.foreign else 0
            it_kw += pool_kw(pool, PoolOrder(floor_cap_w(pool), kept), float(kept + others))
        else:
            it_kw += pool_kw(pool, PoolOrder(floor_cap_w(pool), pool.count), busy)
    return import_kw(it_kw, ctx.sites[site].other_it_kw, pue_now(ctx, state, site, now))


def available_kw(ctx: Context, state: State, site: str, now: datetime) -> float:
    """What the site can shed now, in kW at the meter, from its present draw down to its floors."""
    present = state.tick.import_kw.get(site) if state.tick is not None else None
    if present is None:
        present = full_import_kw(ctx, state, site, now)
    return max(0.0, present - least_import_kw(ctx, state, site, now))
