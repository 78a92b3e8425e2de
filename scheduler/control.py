"""The fast loop on one screen: every second the site's power is brought to its set-point; it never waits for the
solver.

Reading order: read -> aim -> clamp -> dispatch -> grant -> book. A new event acts in the next turn through its ceiling
and the merit order; the solver only refines it afterwards.
"""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import datetime

from optimizer.domain import GridEvent
from optimizer.reasons import Note
from scheduler.clocked import learn_levers, limits_of, locked_mhz, move_clocks, yielded_gpus
from scheduler.dispatch_notes import Dispatched
from scheduler.engine import Context, State
from scheduler.flex import watch_tiers
from scheduler.granting import grant_jobs
from scheduler.handing import hand_news
from scheduler.hurry import hurried
from scheduler.jobmeter import meter_jobs
from scheduler.lagging import bring_up, remember
from scheduler.latency_trim import latencies, needed, watch_latency
from scheduler.lowered import enforced_w, tell_lowered
from scheduler.observing import observe, read_meter, site_import, teach
from scheduler.orders import PoolOrder
from scheduler.parking import awake_orders, set_parking
from scheduler.safety import clamp, emergency_sites, lease_s
from scheduler.shortfalls import shortfalls
from scheduler.status import Tick
from scheduler.supply import read_devices, set_devices, supply_statuses
from scheduler.targets import LastMinute
from scheduler.trim import SiteTrim, limit_now, trim_site
from scheduler.unmoved import unmoved
from scheduler.unreached import count_unreached, see_unreached
from scheduler.work import read_jobs, tell_emergency


def run_tick(ctx: Context, state: State) -> Tick:
    """One turn of the fast loop.

    1. read the meters (a lost part keeps its last estimate, and says so), and how long users wait
    2. per site: ceiling, set-point, and the orders that reach it (trim)
    3. clamp to floors and card ranges
    4. look at what became of the last orders; dispatch under a lease: journal, apply, read back
    5. grant GPUs to jobs inside what the orders leave, and park what stays idle; tell nodes of events that are new
    6. book: ledger, samples; return the tick
    """
    started = time.perf_counter()
    now, decision = ctx.clock.now(), state.decision
    reading, notes = read_meter(ctx, state, now)
    notes += read_devices(ctx, state, now)
    bring_up(ctx, state, now)
    see_unreached(ctx, state, state.reading, now)
    observe(ctx, state, state.reading, now)
    teach(ctx, state, reading, now)
    notes += unmoved(ctx, state, reading, now)
    learn_levers(ctx, state, reading, now)
    notes += watch_latency(ctx, state, now)
    events = ctx.ledger.active(now)
    below_floor = emergency_sites(ctx.emergency_programs, events, now)
    notes += read_jobs(ctx, state, now) + watch_tiers(ctx, state, now)
    notes += drift(ctx, state, now) + tell_lowered(ctx, state, now)
    count_unreached(ctx, state, state.reading, now)
    trims, orders, done = order_sites(ctx, state, events, below_floor, now)
    notes += done.notes + hurried(ctx, state, trims, events, now)
    if count_unreached(ctx, state, state.reading, now):  # who obeyed makes up for who did not, at once
        trims, orders, more = order_sites(ctx, state, events, below_floor, now)
        notes, done = notes + more.notes, more
    meter_jobs(ctx, state, now)
    notes += move_clocks(ctx, orders, lease_s(ctx.timing.interval, events, now), now)
    grant_jobs(ctx, state, orders, now)
    tell_emergency(ctx, below_floor)
    notes += set_parking(ctx, state, now)
    state.orders = orders
    writes = ctx.dispatcher.writes
    state.held = dict(orders) if writes else {}
    state.setpoint_kw = {site: trim.reached_kw for site, trim in trims.items()} if writes else {}
    state.cap_kw = {site: trim.cap_kw for site, trim in trims.items()} if writes else {}
    state.lately = state.lately if writes else {}
    for site, kw in state.setpoint_kw.items():
        state.lately.setdefault(site, LastMinute()).see(now, kw)
    notes += hand_news(ctx, state, events, now)
    notes += shortfalls(ctx, state, trims, now)
    notes = tuple(note if note.at is not None else replace(note, at=now) for note in notes)
    remember(state, ctx.clock.now())
    state.followed = decision
    return book(ctx, state, trims, len(done.pools), time.perf_counter() - started, notes, now)


def order_sites(
    ctx: Context,
    state: State,
    events: tuple[GridEvent, ...],
    below_floor: frozenset[str],
    now: datetime,
) -> tuple[dict[str, SiteTrim], dict[str, PoolOrder], Dispatched]:
    """Orders that reach each site's set-point, inside floors and ranges, dispatched under a lease; with all notes."""
    then = now + ctx.timing.control_period
    trims = {site: trim_site(ctx, state, site, events, now, then, below_floor) for site in ctx.sites}
    wanted = {pool: order for trim in trims.values() for pool, order in trim.orders.items()}
    orders, notes = clamp(wanted, (model.pool for model in ctx.pools.values()), below_floor, now)
    notes += tuple(note for trim in trims.values() for note in trim.notes)
    orders = awake_orders(ctx, state, orders, now)
    lease = lease_s(ctx.timing.interval, events, now)
    asked = {device: kw for trim in trims.values() for device, kw in trim.devices_kw.items()}
    notes += tuple(set_devices(ctx, state, asked, lease, now))
    done = ctx.dispatcher.apply(limits_of(ctx.pools, orders), lease, now)
    return trims, orders, replace(done, notes=notes + done.notes)


def drift(ctx: Context, state: State, now: datetime) -> tuple[Note, ...]:
    """Look at the limits in force, now and then by a reading of everything."""
    notes: tuple[Note, ...] = ()
    if state.ticks % ctx.timing.verify_every == 0:
        notes = ctx.dispatcher.verify(now)
    elif state.ticks % ctx.timing.look_every == 0:
        notes = ctx.dispatcher.look(now)
    return notes


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
    imports = {site: site_import(ctx, state, site, now, state.measured) for site in trims}
    limits_kw = {site: limit_now(ctx, state, site, now) for site in trims}  # the ceiling has that of the next tick too
    shown = {site: kw if kw is not None else trims[site].setpoint_kw for site, kw in imports.items()}
    state.unmetered = frozenset(site for site, kw in imports.items() if kw is None)
    for site, kw in imports.items():
        if kw is not None:
            ctx.ledger.record(now, site, kw)
        trim = trims[site]
        ctx.store.add_sample(
            site, now, kw, trim.ceiling.event_kw, limits_kw[site], trim.planned_kw, price_now(state, site, now)
        )
    state.notes.extend(notes)
    state.tick = Tick(
        at=now,
        import_kw=shown,
        target_kw={site: min(trim.ceiling.event_kw, trim.ceiling.operator_kw) for site, trim in trims.items()},
        planned_kw={site: trim.planned_kw for site, trim in trims.items()},
        limit_kw=limits_kw,
        shed_kw={site: trim.shed_kw for site, trim in trims.items()},
        pool_kw=dict(state.measured.pool_kw) if state.measured else {},
        cap_w={pool: order.cap_w for pool, order in state.orders.items()},
        enforced_w=enforced_w(ctx),
        active_gpus={pool: order.active_gpus for pool, order in state.orders.items()},
        clock_mhz=locked_mhz(ctx),
        latency=latencies(ctx),
        latency_floor=needed(ctx, state),
        yielded_gpus=yielded_gpus(ctx),
        supply=supply_statuses(ctx, state, now),
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
