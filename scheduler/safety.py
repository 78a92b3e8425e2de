"""The last word before the hardware: floors, card ranges, leases.

Why apart from planner and controller: whatever they ask for, an order that leaves this module keeps the promises. It
only ever clamps; it never decides.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta

from optimizer.curves import cap_for_draw, cap_for_throughput, knee_w
from optimizer.domain import GpuPool, GridEvent, Work
from optimizer.reasons import Note, Reason, Severity
from scheduler.orders import PoolOrder

LEASE_INTERVALS = 3


def floor_cap_w(pool: GpuPool) -> int:
    """Lowest cap at which a busy GPU of the pool still keeps its service floor.

    Without a floor it is the knee of the curve: below it throughput falls faster than power, and idling GPUs is better.
    """
    if pool.work is Work.BATCH or pool.floor <= 0:
        return int(min(pool.max_cap_w, max(pool.min_cap_w, cap_for_draw(pool.curve, knee_w(pool.curve)))))
    return int(min(pool.max_cap_w, max(pool.min_cap_w, cap_for_throughput(pool.curve, pool.floor))))


def lowest_cap_w(pool: GpuPool) -> int:
    """Lowest cap that may be ordered without an emergency: the floor's, or the card's own where there is no floor.
    Below the knee of the curve it is a poor bargain, and the only one left for work that must not be interrupted."""
    floored = pool.work is not Work.BATCH and pool.floor > 0
    return floor_cap_w(pool) if floored else int(pool.min_cap_w)


def emergency_sites(programs: Collection[str], events: Iterable[GridEvent], now: datetime) -> frozenset[str]:
    """Sites at which an emergency order of one of `programs` (those that the operator allowed) is in force, its ramp
    out included."""
    return frozenset(
        event.site
        for event in events
        if event.emergency
        and event.program in programs
        and event.start <= now < event.end + timedelta(seconds=event.ramp_out_s)
    )


def clamp(
    orders: Mapping[str, PoolOrder], pools: Iterable[GpuPool], below_floor: Collection[str], now: datetime
) -> tuple[dict[str, PoolOrder], tuple[Note, ...]]:
    """Orders inside each pool's cap range, and at or above its floor but at the sites in `below_floor`."""
    clamped, notes = {}, []
    for pool in pools:
        order = orders.get(pool.id)
        if order is None:
            continue
        lowest = int(pool.min_cap_w) if pool.site in below_floor else lowest_cap_w(pool)
        cap = min(int(pool.max_cap_w), max(lowest, order.cap_w))
        if cap > order.cap_w and lowest > pool.min_cap_w:
            text = f"{pool.id} held at {cap} W, its floor of {pool.floor:.0%}, instead of {order.cap_w} W"
            notes.append(Note(Reason.SERVICE_FLOOR, pool.id, text, Severity.INFO, now))
        clamped[pool.id] = PoolOrder(cap, min(pool.count, max(0, order.active_gpus)))
    return clamped, tuple(notes)


def lease_s(interval: timedelta, events: Iterable[GridEvent], now: datetime) -> float:
    """How long an order holds without renewal: three intervals, or to the end of the events in progress with their
    ramps, so that a dead daemon still delivers what it promised."""
    longest = LEASE_INTERVALS * interval
    for event in events:
        if event.start <= now:
            longest = max(longest, event.end + timedelta(seconds=event.ramp_out_s) - now)
    return longest.total_seconds()
