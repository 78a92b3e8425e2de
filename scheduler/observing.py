"""What the fast loop knows before it decides: the meters' reading, how busy each pool is, how far predictions were off.

Why measured and not assumed: a cap is not a reduction. GPUs that draw power without a job of ours, a load that moved, a
meter that went silent: each must show in the next set-point, or the site is above its ceiling and nobody knows why.
"""

from __future__ import annotations

from collections import deque
from datetime import datetime

from adapters.ports import AdapterError, Reading
from optimizer.domain import GpuPool, Work
from optimizer.reasons import Note, Reason, Severity
from scheduler.busy import known_busy
from scheduler.engine import Context, State
from scheduler.estimate import Foreign, busy_now, import_kw, measured_busy, pool_kw
from scheduler.flexibility import pue_now, site_pools
from scheduler.granting import granted
from scheduler.meterline import Overhead
from scheduler.orders import free_order
from scheduler.parked import asleep_kw
from scheduler.pools import PoolModel
from scheduler.supply import measured_kw, sun_kw
from scheduler.surprise import Highest, Surprises

BIAS_SMOOTHING = 0.3
BIAS_SHARE = 0.15

STEADY_S = 3.0
"""Loads of so many seconds count when power is given back."""


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
        _observe_pool(state, model, reading)
        seen = state.loads.setdefault(model.pool.id, deque(maxlen=steady_ticks(ctx)))
        seen.append(state.busy[model.pool.id])
        state.tops.setdefault(model.pool.id, Highest()).see(state.busy[model.pool.id])
    for site in ctx.sites:
        _observe_site(ctx, state, site, now)
        drawn = site_import(ctx, state, site, now)
        surprises = state.surprises.setdefault(site, Surprises())
        surprises.see(drawn if in_time(ctx, state, now) else None)
        if drawn is not None:  # where no order was in force before, ramps begin at what is drawn
            state.setpoint_kw.setdefault(site, drawn)


def _observe_site(ctx: Context, state: State, site: str, now: datetime) -> None:
    """What the site's meter shows beside IT and devices."""
    mine, reading, beside = (
        measured_pools(ctx, state.reading, site),
        state.reading,
        state.overhead.setdefault(site, Overhead()),
    )
    if reading is None or site not in reading.import_kw:
        beside.lose()
        return
    guessed: frozenset[str] = frozenset()
    if mine is None:  # what a pool should draw stands in for what nobody measured
        mine = {model.pool.id: seen_or_due_kw(state, model.pool) for model in site_pools(ctx, site)}
        guessed = frozenset(mine.keys() - reading.pool_kw.keys())
    it_kw, other_kw, pue = sum(mine.values()), ctx.sites[site].other_it_kw, pue_now(ctx, state, site, now)
    drawn_kw = import_kw(it_kw, other_kw, pue)
    measured = reading.import_kw[site] - measured_kw(ctx, state, site, now)
    size_kw = drawn_kw + sun_kw(ctx, state, site, now) / BIAS_SHARE  # a cloud may take all of the sun
    carry(state, site, measured - drawn_kw, size_kw)
    settled_kw = (pue - 1.0) * (it_kw + other_kw)
    beside.see(it_kw, measured - it_kw - other_kw, settled_kw, pue, BIAS_SHARE * size_kw, guessed)


def in_time(ctx: Context, state: State, now: datetime) -> bool:
    """Whether the last tick was one control period ago: what happens in longer says nothing of what may in one, and a
    tick for which somebody hurried finds power on its way."""
    if state.last_tick_at is None:
        return False
    return 0.5 * ctx.timing.control_period < now - state.last_tick_at < 1.5 * ctx.timing.control_period


def seen_or_due_kw(state: State, pool: GpuPool) -> float:
    """Measured kW of a pool; where it is not measured, what it should draw under the orders in force."""
    measured = state.reading.pool_kw.get(pool.id) if state.reading is not None else None
    if measured is not None:
        return measured
    due_kw = pool_kw(pool, state.held.get(pool.id, free_order(pool)), state.busy.get(pool.id, float(pool.count)))
    return due_kw - asleep_kw(state.parked, pool)


def steady_ticks(ctx: Context) -> int:
    """Readings in STEADY_S."""
    return max(1, round(STEADY_S / ctx.timing.control_period.total_seconds()))


def teach(ctx: Context, state: State, reading: Reading | None, now: datetime) -> None:
    """Let every pool's curve learn from the reading, where limit and load are known by other means than power."""
    if reading is None:
        return
    for model in ctx.pools.values():
        if model.pool.id in state.parked and (state.parked[model.pool.id].asleep or state.parked[model.pool.id].waking):
            continue  # what sleeping cards draw teaches nothing about the others
        busy = known_busy(ctx, state, model, reading, now)
        by_clock = ctx.clocks is not None and model.pool.id in ctx.clocks.levers.clocked
        # A clock in force says nothing of limits.
        ctx.curves.see(model, reading, ctx.dispatcher.limit(model.pool.id), None if by_clock else busy)


def _observe_pool(state: State, model: PoolModel, reading: Reading | None) -> None:
    pool = model.pool
    kw = reading.pool_kw.get(pool.id) if reading is not None else None
    kw = kw + asleep_kw(state.parked, pool) if kw is not None else None
    order = state.held.get(pool.id, free_order(pool))
    seen = measured_busy(pool, kw, order) if kw is not None else None
    if pool.work is Work.BATCH:
        held = granted(state, pool.id)
        if reading is not None and pool.id in reading.busy_gpus:  # told, and not inferred through a curve in doubt
            seen = reading.busy_gpus[pool.id]
        if seen is not None:
            state.foreign.setdefault(pool.id, Foreign()).see(seen - held)
        state.busy[pool.id] = fresh = float(min(pool.count, held + foreign_gpus(state, pool.id)))
    else:
        planned = model.load * pool.count if isinstance(model.load, float) else float(pool.count)
        state.busy[pool.id] = busy_now(pool, kw, order, state.busy.get(pool.id), planned)
        fresh = seen if seen is not None else planned
    if kw is not None:
        carry(state, pool.id, kw - pool_kw(pool, order, fresh), kw)


def foreign_gpus(state: State, pool: str) -> int:
    """GPUs of a batch pool that work without a job of ours."""
    return state.foreign[pool].gpus if pool in state.foreign else 0


def carry(state: State, key: str, error_kw: float, size_kw: float) -> None:
    """Follow an error of the model, bounded so that a broken meter can't run away with the site."""
    bound = BIAS_SHARE * size_kw
    held = state.bias_kw.get(key, 0.0)
    state.bias_kw[key] = max(-bound, min(bound, held + BIAS_SMOOTHING * (error_kw - held)))


def measured_pools(ctx: Context, reading: Reading | None, site: str) -> dict[str, float] | None:
    """Measured kW of every pool of a site; None when one is missing."""
    if reading is None:
        return None
    pools = [model.pool.id for model in site_pools(ctx, site)]
    found = {pool: reading.pool_kw[pool] for pool in pools if pool in reading.pool_kw}
    return found if len(found) == len(pools) else None


def site_import(ctx: Context, state: State, site: str, now: datetime, measured: Reading | None = None) -> float | None:
    """Measured import of a site, at its own meter or through PUE, by `measured` or the reading that the loop goes by;
    None without a reading."""
    reading = measured or state.reading
    if reading is not None and site in reading.import_kw:
        return reading.import_kw[site]
    mine = measured_pools(ctx, reading, site)
    if mine is None:
        return None
    drawn_kw = import_kw(sum(mine.values()), ctx.sites[site].other_it_kw, pue_now(ctx, state, site, now))
    return drawn_kw + measured_kw(ctx, state, site, now)
