"""Parked GPUs in the two loops: what the plan asks, what may sleep, and who is awake again when.

Why the fast loop has the last word: a plan counts GPUs in parts and for whole intervals; what jobs hold, and what
others work on, is known each second. Nothing that works is ever parked, and what is asleep or still waking gets no job.
What was ordered is on disk, so that a restart neither forgets who sleeps nor wakes them for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from adapters.ports import AdapterError
from optimizer.domain import GpuPool
from optimizer.reasons import Note, Reason, Severity
from scheduler.granting import able, granted
from scheduler.orders import PoolOrder, step_index, whole_order
from scheduler.parked import ParkedState
from scheduler.store.database import StoreDegraded

if TYPE_CHECKING:
    from scheduler.engine import Context, State

BOOK = "parked"


def adopt_parking(ctx: Context, state: State) -> None:
    """At start: what a predecessor parked is parked, and is said again to the hook, which may have missed it."""
    for name, body in ctx.store.all(BOOK).items():
        if name in ctx.parking and body.get("gpus"):
            gpus = int(body["gpus"])
            state.parked[name] = ParkedState(gpus, gpus)
            ctx.parking[name].apply(gpus)


def awake_orders(ctx: Context, state: State, orders: Mapping[str, PoolOrder], now: datetime) -> dict[str, PoolOrder]:
    """Orders with no more active GPUs than are awake."""
    found = dict(orders)
    for name, known in state.parked.items():
        if name in orders:
            awake = ctx.pools[name].pool.count - max(known.asleep, known.ordered) - known.waking_gpus(now)
            found[name] = PoolOrder(orders[name].cap_w, max(0, min(orders[name].active_gpus, awake)))
    return found


def set_parking(ctx: Context, state: State, now: datetime) -> tuple[Note, ...]:
    """Order what the plan parks now, as far as it is idle; where nothing may be written, wake all."""
    notes = []
    for name, hook in ctx.parking.items():
        pool, known = ctx.pools[name].pool, state.parked.setdefault(name, ParkedState())
        most = _planned(state, name, known, now) if ctx.dispatcher.writes else 0
        gpus = min(most, _idle(ctx, state, pool, known, now))
        step = max(1, pool.parking.step) if pool.parking is not None else 1
        try:
            _order(ctx, name, known, gpus // step * step)
            ctx.permit()
            hook.apply(known.ordered)
            _follow(pool, known, max(known.ordered, hook.read()), now)
        except (AdapterError, StoreDegraded) as error:
            text = f"{name}: {known.ordered} GPUs are to be parked, and are not as ordered: {error}"
            notes.append(Note(Reason.DEVICE_LOST, name, text, Severity.ALERT, now))
    return tuple(notes)


def _planned(state: State, pool: str, known: ParkedState, now: datetime) -> int:
    """GPUs that the plan parks now; none without a plan, or by one that is over. After its first interval no more than
    sleep already: what its jobs have left by then only the next plan knows, and who sleeps takes minutes to wake."""
    plan = state.plan
    if plan is None or pool not in plan.pools or now >= plan.grid.end or not plan.pools[pool].parked_gpus:
        return 0
    step = step_index(plan, now)
    planned = round(plan.pools[pool].parked_gpus[step])
    return planned if step == 0 else min(planned, known.ordered)


def _idle(ctx: Context, state: State, pool: GpuPool, known: ParkedState, now: datetime) -> int:
    """GPUs that no job holds or is about to get, that nobody else works on, and that do not wake at this moment. What
    is wanted beyond those awake is for those that wake: else each tick woke more."""
    wanted = whole_order(state.plan, pool, able(state, now), now).active_gpus
    foreign = state.foreign[pool.id].gpus if pool.id in state.foreign else 0
    waking = known.waking_gpus(now)
    awake = max(0, pool.count - known.asleep - waking - foreign)
    needed = max(max(granted(state, pool.id), min(wanted, awake)) + waking, wanted)
    return max(0, pool.count - needed - foreign)


def _order(ctx: Context, name: str, known: ParkedState, gpus: int) -> None:
    """Write an order down before it is given. Raises StoreDegraded, nothing ordered."""
    if gpus != known.ordered:
        ctx.store.put(BOOK, name, {"gpus": gpus})
        known.ordered = gpus


def _follow(pool: GpuPool, known: ParkedState, asleep: int, now: datetime) -> None:
    """Take in how many sleep now; those that no longer do wake for a while."""
    known.waking = [(gpus, ready) for gpus, ready in known.waking if ready > now]
    if asleep < known.asleep and pool.parking is not None:
        known.waking.append((known.asleep - asleep, now + timedelta(seconds=pool.parking.wake_s)))
    known.asleep = asleep


def release_parking(ctx: Context, state: State, now: datetime) -> tuple[Note, ...]:
    """At the daemon's end: wake all, and wait until it is done."""
    notes = []
    for name, hook in ctx.parking.items():
        known = state.parked.get(name, ParkedState())
        if not known.ordered and not known.asleep:
            continue
        try:
            ctx.permit()
            hook.apply(0)
            hook.close()
            hook.read()
            _order(ctx, name, known, 0)
        except (AdapterError, StoreDegraded) as error:
            text = f"{name}: {known.asleep} GPUs stay parked: {error}"
            notes.append(Note(Reason.DEVICE_LOST, name, text, Severity.ALERT, now))
    return tuple(notes)
