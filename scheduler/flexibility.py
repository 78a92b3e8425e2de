"""What a site would draw without an event, and what it can shed: the two figures that a utility is answered with.

Why from measured draw: a cap is not a reduction. The baseline is the meter's mean over the minutes before the message
("meter before"), or the figure that the program declares; what can be shed is the measured draw of busy GPUs less what
they draw at their floors, and as sure as the curve that says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from optimizer.curves import draw_at_cap
from optimizer.domain import GpuPool, Work
from scheduler.busy import known_busy
from scheduler.engine import Context, State
from scheduler.estimate import import_kw, pool_kw
from scheduler.latency_trim import kept_cap_w
from scheduler.ledger.ledger import ProgramTerms
from scheduler.orders import free_order
from scheduler.parked import asleep_kw
from scheduler.pools import PoolModel
from scheduler.status import Flexibility
from scheduler.supply import relief_kw

WITHIN_S, PAUSE_S = (5.0, 60.0, 900.0), 60.0
"""Times for which the figure is told; from the second on jobs can have been paused, which a worker does between two
requests or steps."""

LASTS_S, ENGINES_S = 900.0, 900.0
"""For how long what is stored must last where nobody says, and from when on an engine has started."""

SURE = 1.645
"""Standard errors below the mean that are exceeded 19 times in 20 (normal distribution)."""


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


def flexibility(ctx: Context, state: State, site: str, now: datetime) -> tuple[Flexibility, ...]:
    """What the site can shed from now on within 5 s (by caps and batteries), 60 s (jobs paused as well) and 15 min
    (engines started as well), inside its ramp limit, in kW at the meter; what is stored counts as far as it lasts 15
    min."""
    present_kw = present_import_kw(ctx, state, site, now)
    pue, ramp_kw_per_min = pue_now(ctx, state, site, now), ctx.sites[site].ramp_down_kw_per_min
    found = []
    for within_s in WITHIN_S:
        sheds = [shed_of(ctx, state, model, now, pause=within_s >= PAUSE_S) for model in site_pools(ctx, site)]
        kw = pue * sum(shed.kw for shed in sheds)
        error_kw = pue * sum(shed.error_kw**2 for shed in sheds) ** 0.5
        beside_kw = relief_kw(ctx, state, site, LASTS_S, engines=within_s >= ENGINES_S)
        most_kw = min(present_kw, ramp_kw_per_min * within_s / 60.0)
        sure_kw = max(0.0, kw - SURE * error_kw) + beside_kw
        found.append(Flexibility(within_s, min(kw + beside_kw, most_kw), min(sure_kw, most_kw)))
    return tuple(found)


def available_kw(ctx: Context, state: State, site: str, now: datetime, lasts_s: float = LASTS_S) -> float:
    """What the site can shed now, in kW at the meter, from its present draw down to its floors with every lever, for so
    many seconds (which matters for what is stored)."""
    sheds = (shed_of(ctx, state, model, now, pause=True) for model in site_pools(ctx, site))
    kw = pue_now(ctx, state, site, now) * sum(shed.kw for shed in sheds)
    return min(present_import_kw(ctx, state, site, now), kw + relief_kw(ctx, state, site, lasts_s, engines=True))


def present_import_kw(ctx: Context, state: State, site: str, now: datetime) -> float:
    """Import as last measured; before the first reading the most that the site can draw."""
    present = state.tick.import_kw.get(site) if state.tick is not None else None
    return present if present is not None else full_import_kw(ctx, state, site, now)


@dataclass(frozen=True, slots=True)
class _Shed:
    """IT power in kW that a pool can give, and the standard error of that."""

    kw: float
    error_kw: float


def shed_of(ctx: Context, state: State, model: PoolModel, now: datetime, pause: bool) -> _Shed:
    """What a pool can give: from its measured draw to what its busy GPUs draw at the floor's cap, and with `pause` the
    interruptible jobs of a batch pool as well. A cap above the draw gives nothing. Where nobody says how many GPUs work
    all count as busy, so that a cap above their mean draw gives nothing either."""
    pool, cap_w = model.pool, kept_cap_w(state, model.pool)
    busy = _busy(ctx, state, model, now)
    kw = state.reading.pool_kw.get(pool.id) if state.reading is not None else None
    if kw is None:
        kw = pool_kw(pool, state.held.get(pool.id, free_order(pool)), busy)
    else:
        kw += asleep_kw(state.parked, pool)
    draw_w = (1000.0 * kw - (pool.count - busy) * pool.curve.idle_w) / busy if busy > 0 else pool.curve.idle_w
    floor_w = min(draw_w, draw_at_cap(pool.curve, cap_w))
    kept = min(busy, float(_kept(state, pool))) if pause and pool.work is Work.BATCH else busy
    left_kw = (kept * floor_w + (pool.count - kept) * pool.curve.idle_w) / 1000.0
    return _Shed(max(0.0, kw - left_kw), kept * floor_w * ctx.curves.error(pool, cap_w) / 1000.0)


def _busy(ctx: Context, state: State, model: PoolModel, now: datetime) -> float:
    """Busy GPUs as somebody says who knows; without a reading as they were last inferred, else all."""
    if state.reading is None:
        return state.busy.get(model.pool.id, float(model.pool.count))
    known = known_busy(ctx, state, model, state.reading, now)
    return known if known is not None else float(model.pool.count)


def _kept(state: State, pool: GpuPool) -> int:
    """GPUs of a batch pool that no order stops: of jobs that may not be interrupted, and of others' work."""
    held = sum(job.gpus for job in state.jobs if not job.preemptible and pool.id in job.pools)
    return held + (state.foreign[pool.id].gpus if pool.id in state.foreign else 0)
