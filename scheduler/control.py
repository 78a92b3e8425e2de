"""The fast loop on one screen: every second the site's power is brought to its set-point; it never waits for the
solver.

Reading order: read -> aim -> clamp -> dispatch -> grant -> book. A new event acts in the next turn through its ceiling
and the merit order; the solver only refines it afterwards.
"""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import datetime

from adapters.ports import AdapterError, Reading
from optimizer.domain import Work
from optimizer.reasons import Note, Reason, Severity
from scheduler.engine import Context, State
from scheduler.estimate import busy_now, import_kw, measured_busy, pool_kw
from scheduler.flexibility import pue_now, site_pools
from scheduler.granting import grant_jobs, granted
from scheduler.orders import free_order
from scheduler.safety import clamp, emergency_sites, lease_s
from scheduler.status import Tick
from scheduler.trim import SiteTrim, trim_site

BIAS_SMOOTHING = 0.3
BIAS_SHARE = 0.15


def run_tick(ctx: Context, state: State) -> Tick:
    """One turn of the fast loop.

    1. read the meters (a lost part keeps its last estimate, and says so)
    2. per site: ceiling, set-point, and the orders that reach it (trim)
    3. clamp to floors and card ranges
    4. dispatch under a lease: journal, apply, read back
    5. grant GPUs to jobs inside what the orders leave
    6. book: ledger, samples; return the tick
    """
    started = time.perf_counter()
    now = ctx.clock.now()
    reading, notes = read_meter(ctx, state, now)
    observe(ctx, state, reading, now)
    begin_at_the_draw(ctx, state, now)
    events = ctx.ledger.active(now)
    below_floor = emergency_sites(ctx.emergency_programs, events, now)
    then = now + ctx.timing.control_period
    state.jobs = tuple(ctx.jobs.snapshot())
    trims = {site: trim_site(ctx, state, site, events, now, then, below_floor) for site in ctx.sites}
    wanted = {pool: order for trim in trims.values() for pool, order in trim.orders.items()}
    orders, clamp_notes = clamp(wanted, (model.pool for model in ctx.pools.values()), below_floor, now)
    done = ctx.dispatcher.apply(orders, lease_s(ctx.timing.interval, events, now), now)
    grant_jobs(ctx, state, orders, now)
    state.orders = orders
    writes = ctx.dispatcher.writes
    state.held = dict(orders) if writes else {}
    state.setpoint_kw = {site: trim.setpoint_kw for site, trim in trims.items()} if writes else {}
    notes += clamp_notes + done.notes + shortfalls(trims, now) + drift(ctx, state, now)
    notes = tuple(note if note.at is not None else replace(note, at=now) for note in notes)
    return book(ctx, state, trims, len(done.pools), time.perf_counter() - started, notes, now)


def read_meter(ctx: Context, state: State, now: datetime) -> tuple[Reading | None, tuple[Note, ...]]:
    """The meter's reading, or None with an alert."""
    try:
        reading = ctx.meter.read()
    except AdapterError as error:
        state.reading = None
        return None, (
            Note(Reason.METER_LOST, "meter", f"{error}; power is estimated from the curves", Severity.ALERT, now),
        )
    state.reading = reading
    lost = ", ".join(reading.lost[:5])
    return reading, (Note(Reason.METER_LOST, "meter", f"no reading of {lost}", Severity.WARNING, now),) if lost else ()


def observe(ctx: Context, state: State, reading: Reading | None, now: datetime) -> None:
    """Update what is known of the load: busy GPUs of each pool, and what each prediction was last off by."""
    for model in ctx.pools.values():
        pool = model.pool
        order = state.held.get(pool.id, free_order(pool))
        kw = reading.pool_kw.get(pool.id) if reading is not None else None
        if pool.work is Work.BATCH:
            state.busy[pool.id] = float(granted(state, pool.id))
        else:
            planned = model.load * pool.count if isinstance(model.load, float) else float(pool.count)
            state.busy[pool.id] = busy_now(pool, kw, order, state.busy.get(pool.id), planned)
        if kw is not None:
            fresh = state.busy[pool.id] if pool.work is Work.BATCH else measured_busy(pool, kw, order)
            carry(state, pool.id, kw - pool_kw(pool, order, fresh), kw)
    for site, place in ctx.sites.items():
        mine = measured_pools(ctx, state, site)
        if reading is not None and site in reading.import_kw and mine is not None:
            modelled = import_kw(sum(mine.values()), place.other_it_kw, pue_now(ctx, state, site, now))
            carry(state, site, reading.import_kw[site] - modelled, modelled)


def begin_at_the_draw(ctx: Context, state: State, now: datetime) -> None:
    """Where no order was in force before (a start, a resumed site), ramps begin at what is drawn now."""
    for site in ctx.sites:
        drawn = site_import(ctx, state, site, now) if site not in state.setpoint_kw else None
        if drawn is not None:
            state.setpoint_kw[site] = drawn


def carry(state: State, key: str, error_kw: float, size_kw: float) -> None:
    """Follow an error of the model, bounded so that a broken meter can't run away with the site."""
    bound = BIAS_SHARE * size_kw
    held = state.bias_kw.get(key, 0.0)
    state.bias_kw[key] = max(-bound, min(bound, held + BIAS_SMOOTHING * (error_kw - held)))


def measured_pools(ctx: Context, state: State, site: str) -> dict[str, float] | None:
    """Measured kW of every pool of a site; None when one is missing."""
    if state.reading is None:
        return None
    pools = [model.pool.id for model in site_pools(ctx, site)]
    found = {pool: state.reading.pool_kw[pool] for pool in pools if pool in state.reading.pool_kw}
    return found if len(found) == len(pools) else None


def site_import(ctx: Context, state: State, site: str, now: datetime) -> float | None:
    """Measured import of a site, at its own meter or through PUE; None without a reading."""
    if state.reading is not None and site in state.reading.import_kw:
        return state.reading.import_kw[site]
    mine = measured_pools(ctx, state, site)
    if mine is None:
        return None
    return import_kw(sum(mine.values()), ctx.sites[site].other_it_kw, pue_now(ctx, state, site, now))


def shortfalls(trims: dict[str, SiteTrim], now: datetime) -> tuple[Note, ...]:
    """Say at once what no lever could shed."""
    notes = []
    for site, trim in trims.items():
        if trim.short_kw > 1.0:
            event = trim.ceiling.event_kw <= trim.ceiling.limit_kw
            code = Reason.EVENT_UNREACHABLE if event else Reason.LIMIT_UNREACHABLE
            what = "event target" if event else "limit"
            least = f"{site} can't get below {trim.setpoint_kw + trim.short_kw:.0f} kW"
            text = f"{least}: {trim.short_kw:.0f} kW over its {what} of {trim.ceiling.kw:.0f} kW"
            notes.append(Note(code, site, text, Severity.ALERT, now))
    return tuple(notes)


def drift(ctx: Context, state: State, now: datetime) -> tuple[Note, ...]:
    """Now and then read every limit back."""
    if state.ticks % ctx.timing.verify_every:
        return ()
    return ctx.dispatcher.verify(now)


def book(
    ctx: Context,
    state: State,
    trims: dict[str, SiteTrim],
    orders: int,
    seconds: float,
    notes: tuple[Note, ...],
    now: datetime,
) -> Tick:
    """Write down what was measured and aimed at, and make it the tick that everybody sees."""
    imports = {site: site_import(ctx, state, site, now) for site in trims}
    shown = {site: kw if kw is not None else trims[site].setpoint_kw for site, kw in imports.items()}
    for site, kw in imports.items():
        if kw is not None:
            ctx.ledger.record(now, site, kw)
        trim = trims[site]
        ctx.store.add_sample(
            site, now, kw, trim.ceiling.event_kw, trim.ceiling.limit_kw, trim.planned_kw, price_now(state, site, now)
        )
    state.notes.extend(notes)
    state.tick = Tick(
        at=now,
        import_kw=shown,
        target_kw={site: min(trim.ceiling.event_kw, trim.ceiling.operator_kw) for site, trim in trims.items()},
        planned_kw={site: trim.planned_kw for site, trim in trims.items()},
        limit_kw={site: trim.ceiling.limit_kw for site, trim in trims.items()},
        shed_kw={site: trim.shed_kw for site, trim in trims.items()},
        pool_kw=dict(state.reading.pool_kw) if state.reading else {},
        cap_w={pool: order.cap_w for pool, order in state.orders.items()},
        active_gpus={pool: order.active_gpus for pool, order in state.orders.items()},
        orders=orders,
        seconds=seconds,
        notes=notes,
    )
    state.ticks, state.last_tick_at = state.ticks + 1, now
    return state.tick


def price_now(state: State, site: str, now: datetime) -> float | None:
    """Price of the present interval, None when no problem covers it."""
    problem = state.problem
    if problem is None or not problem.grid.start <= now < problem.grid.end:
        return None
    return next(inputs for inputs in problem.sites if inputs.id == site).price_per_mwh[problem.grid.index(now)]
