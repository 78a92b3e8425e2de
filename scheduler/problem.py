"""From what was seen to the problem that is solved: everything one plan depends on, frozen.

Why apart: the same snapshot, events, jobs and fleet give the same problem, so any past decision can be made again. What
is missing is forecast or assumed on the safe side here, with a note that travels into the plan and onto the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from math import ceil
from zoneinfo import ZoneInfo

import numpy as np

from optimizer.domain import BatchJob, PoolInputs, Problem, SiteInputs, Work
from optimizer.forecast import LOAD, PRICE, Outlook, expect, without_zeros
from optimizer.forecast_errors import Floats
from optimizer.reasons import Note, Reason, Severity
from optimizer.scenarios import LOAD as LOADS
from optimizer.scenarios import PRICE as PRICES
from optimizer.timegrid import TimeGrid, planning_grid
from scheduler.backoff import backed_off
from scheduler.coincident import coincident_now
from scheduler.collect import Snapshot
from scheduler.engine import Context, SiteModel, State
from scheduler.latency_plan import with_latency_floors
from scheduler.overrides import operator_limit_kw
from scheduler.parked import asleep_kw
from scheduler.peaks import charges_now
from scheduler.pools import PoolModel
from scheduler.supply_inputs import batteries_now, generators_now, reserves_now
from scheduler.uncertain_inputs import PathBook, keep_base, keep_limit, with_scenarios
from scheduler.work import jobs_now

DAY = timedelta(days=1)
NO_PRICE = 0.0
NO_CARBON = 0.0
INF = float("inf")

Values = tuple[float, ...]
Notes = tuple[Note, ...]


def signal_window(ctx: Context, now: datetime) -> tuple[datetime, datetime]:
    """What is asked of every source: the past that forecasts need (whole days before this one), and the longest
    horizon."""
    return now - ctx.caution.history - DAY - timedelta(hours=1), now + ctx.timing.max_horizon + timedelta(hours=1)


def horizon(ctx: Context, jobs: Sequence[BatchJob], now: datetime) -> timedelta:
    """The configured horizon, stretched to the last deadline of a waiting job and to the end of every voluntary event
    that waits for an answer, at most to the longest."""
    last = max((*(job.deadline for job in jobs), *(row.over_at for row in ctx.ledger.awaiting())), default=now)
    hours = ceil((last - now) / timedelta(hours=1))
    return min(ctx.timing.max_horizon, max(ctx.timing.horizon, timedelta(hours=hours)))


def build_problem(ctx: Context, state: State, seen: Snapshot, now: datetime) -> Problem:
    """The problem at `now`."""
    jobs = tuple(with_data(ctx, state, job) for job in jobs_now(ctx, state, now) if job.left_gpu_h > 0)
    grid = planning_grid(now, horizon(ctx, jobs, now), ctx.timing.interval)
    sites: list[SiteInputs] = []
    pools: list[PoolInputs] = []
    notes: list[Note] = []
    paths: PathBook = {}
    state.limits_told = limits_told(ctx, seen, now)
    for model in ctx.sites.values():
        inputs, said = site_inputs(ctx, state, seen, model, grid, now, paths)
        sites.append(inputs)
        notes.extend(said)
    for entry in ctx.pools.values():
        load, said = pool_load(ctx, seen, entry, grid, paths)
        draw = state.tick.pool_kw.get(entry.pool.id) if state.tick else None
        pools.append(with_parked(state, PoolInputs(entry.pool, load, draw), now))
        notes.extend(said)
    floored, said = with_latency_floors(ctx, pools, sites, jobs, now)
    notes.extend(said)
    problem = Problem(
        made_at=now,
        grid=grid,
        sites=tuple(sites),
        pools=floored,
        jobs=jobs,
        events=(*ctx.ledger.active(now), *(row.event for row in ctx.ledger.awaiting())),
        prices=ctx.prices,
        currency=ctx.currency,
        notes=tuple(notes),
    )
    return with_scenarios(problem, paths, ctx.caution)


def with_parked(state: State, inputs: PoolInputs, now: datetime) -> PoolInputs:
    """The pool with the GPUs that sleep and wake now; what it draws now is counted as if they were idle."""
    known, pool = state.parked.get(inputs.pool.id), inputs.pool
    if known is None or pool.parking is None:
        return inputs
    asleep = min(pool.count, max(known.asleep, known.ordered))
    waking = min(pool.count - asleep, known.waking_gpus(now))
    draw = inputs.draw_now_kw + asleep_kw(state.parked, pool) if inputs.draw_now_kw is not None else None
    return replace(inputs, draw_now_kw=draw, parked_now=asleep, waking_now=waking, wake_left_s=known.wake_left_s(now))


def with_data(ctx: Context, state: State, job: BatchJob) -> BatchJob:
    """The job with the site of its data: where it ran last, else its own word, else the site of its first pool."""
    if job.data_gb <= 0:
        return job
    first = next((ctx.pools[pool].pool.site for pool in job.pools if pool in ctx.pools), "")
    return replace(job, data_site=state.data_sites.get(job.id) or job.data_site or first)


def site_inputs(
    ctx: Context,
    state: State,
    seen: Snapshot,
    model: SiteModel,
    grid: TimeGrid,
    now: datetime,
    paths: PathBook,
) -> tuple[SiteInputs, Notes]:
    """One site on the grid; how its signals may turn out otherwise goes into `paths`."""
    zone = Outlook(ZoneInfo(model.timezone), recall_days=ctx.caution.history // DAY, forecaster=ctx.caution.forecaster)
    dear = replace(zone, tail=PRICE.tail)
    price, notes, ways = known_or(seen, model.price, grid, dear, None, model.price_forecast, zeros=False)
    if ways is not None:
        paths[PRICES, model.id] = ways
    if price is None:
        text = f"{model.id}: no price is known at all; the plan ignores the price until one is"
        notes += (Note(Reason.SIGNAL_LOST, model.id, text, Severity.ALERT, now),)
    carbon, said, _ = known_or(seen, model.carbon, grid, zone, NO_CARBON)
    weather, more, _ = known_or(seen, model.weather, grid, zone, None)
    limit, also, lower = limits(seen, model, grid, zone)
    generators, sunny = generators_now(state, seen, model, grid, now)
    offers, priced = reserves_now(seen, model, grid, now)
    margin_kw = state.base_errors.margin_kw(model.id, ctx.caution.base_load)
    coincident, likely = coincident_now(ctx, seen, model, grid, now)
    orders = tuple(operator_limit_kw(state, model.id, max(start, now)) for start in grid.starts)
    limit = tuple(min(kw, order) for kw, order in zip(limit, orders, strict=True))
    keep_limit(paths, model.id, limit, orders, lower)
    keep_base(paths, model.id, grid, state.base_errors, now)
    limit, less = backed_off(limit, margin_kw, model.id, ctx.caution.base_load, now)
    pue = tuple(model.pue.at(celsius) for celsius in (weather or (None,) * len(grid)))
    inputs = SiteInputs(
        id=model.id,
        price_per_mwh=price or (NO_PRICE,) * len(grid),
        limit_kw=limit,
        pue=pue,
        other_it_kw=(model.other_it_kw,) * len(grid),
        carbon_g_per_kwh=carbon or (NO_CARBON,) * len(grid),
        demand_charges=charges_now(ctx, model, grid),
        ramp_up_kw_per_min=model.ramp_up_kw_per_min,
        ramp_down_kw_per_min=model.ramp_down_kw_per_min,
        import_now_kw=state.tick.import_kw.get(model.id) if state.tick else None,
        coincident=coincident,
        batteries=batteries_now(state, model, price),
        generators=generators,
        reserves=offers,
    )
    return inputs, notes + said + more + also + less + likely + sunny + priced


def known_or(
    seen: Snapshot,
    signal: str | None,
    grid: TimeGrid,
    outlook: Outlook,
    absent: float | None,
    reference: str | None = None,
    zeros: bool = True,
) -> tuple[Values | None, Notes, Floats | None]:
    """A signal on the grid, forecast where it isn't known, with the paths behind the forecast; `absent` everywhere (or
    None) for a site without it. Without `zeros`, one to come that reads 0 counts as not known."""
    if signal is None:
        return ((absent,) * len(grid) if absent is not None else None), (), None
    other = seen.series(reference) if reference is not None else None
    try:
        known, doubts = without_zeros(seen.series(signal), seen.at) if not zeros else (seen.series(signal), ())
        found = expect(known, grid, outlook, reference=other)
        return found.values, doubts + found.notes, found.paths
    except ValueError:  # nothing known, nothing declared: the caller says what that means
        return None, (), None


def limits_told(ctx: Context, seen: Snapshot, now: datetime) -> dict[str, datetime]:
    """Until when the limits of each site that has a signal of them are published, from now on and without a gap."""
    signals = {model.id: model.limit_signal for model in ctx.sites.values() if model.limit_signal is not None}
    until = dict.fromkeys(signals, now)
    for site, signal in signals.items():
        for span in seen.series(signal).spans:
            if span.start <= until[site] < span.end:
                until[site] = span.end
    return until


def limits(seen: Snapshot, model: SiteModel, grid: TimeGrid, outlook: Outlook) -> tuple[Values, Notes, Floats | None]:
    """The hard limit of each interval, with its paths: the stricter of the fixed one and the signal's; a lost signal
    keeps the fixed."""
    fixed = (model.limit_kw,) * len(grid)
    if model.limit_signal is None:
        return fixed, (), None
    values, notes, paths = known_or(seen, model.limit_signal, grid, outlook, None)
    lower = None if paths is None else np.minimum(paths, model.limit_kw)
    return (tuple(min(model.limit_kw, value) for value in values) if values else fixed), notes, lower


def pool_load(ctx: Context, seen: Snapshot, entry: PoolModel, grid: TimeGrid, paths: PathBook) -> tuple[Values, Notes]:
    """Busy share of a pool on the grid; unknown load counts as every GPU busy, never as none."""
    if isinstance(entry.load, float):
        return (entry.load,) * len(grid), ()
    zone = ZoneInfo(ctx.sites[entry.pool.site].timezone)
    caution = ctx.caution
    outlook = replace(
        LOAD, zone=zone, share=caution.load, recall_days=caution.history // DAY, forecaster=caution.forecaster
    )
    known, doubts = without_zeros(seen.series(entry.load), seen.at)
    found = expect(known, grid, outlook)
    if found.paths is not None and entry.pool.work is not Work.BATCH:
        paths[LOADS, entry.pool.id] = found.paths
    return found.values, doubts + found.notes
