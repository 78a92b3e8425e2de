"""The checker's part about orders: what goes to the cards is the plan that was weighed (see `check.py`).

Why: cards follow cap and active GPUs, whatever draw and work stand beside them. A cap above the planned draw breaks a
limit that the plan keeps on paper; one below it breaks a floor, or leaves jobs undone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil

import numpy as np
from numpy.typing import NDArray

from optimizer.check_parking import saved_kw
from optimizer.curves import clipped, hull_from_idle, monotone
from optimizer.domain import GpuPool, Plan, PoolInputs, SiteInputs, Work

Floats = NDArray[np.float64]
TOL_KW = 1e-3
TOL = 1e-6
Fault = tuple[str, int, str]


@dataclass(frozen=True)
class _Curve:
    """One busy GPU of a pool: draw and throughput over the cap, and what the hull says that it does at a draw."""

    cap_w: Floats
    draw_w: Floats
    rate: Floats
    corner_w: Floats
    corner_rate: Floats


@lru_cache(maxsize=1024)
def _curve(pool: GpuPool) -> _Curve:
    curve = clipped(pool.curve, pool.min_cap_w, pool.max_cap_w)
    points = np.array([(point.cap_w, point.draw_w, point.throughput) for point in monotone(curve)]).T
    parts = hull_from_idle(curve).segments
    widths = np.array([0.0, *(part.width_w for part in parts)])
    gains = np.array([0.0, *(part.width_w * part.slope_per_w for part in parts)])
    return _Curve(points[0], points[1], points[2], curve.idle_w + np.cumsum(widths), np.cumsum(gains))


@dataclass(frozen=True)
class Ordered:
    """A pool under its orders, all [interval]: caps; GPUs with work; kW that these allow and that are planned; where
    they allow more than a plan and its rounding explain; and the kW that a batch pool is rounded up by, to a whole GPU.
    """

    pool: GpuPool
    curve: _Curve
    cap_w: Floats
    working: Floats
    allowed_kw: Floats
    planned_kw: Floats
    beyond: NDArray[np.bool_]
    rounded_kw: Floats


def ordered(plan: Plan, inputs: PoolInputs) -> Ordered:
    """What the cards of a pool draw at most: those with work under its cap, the others idle or parked. A lowest cap
    that is no whole watt is ordered as the next one."""
    pool, orders = inputs.pool, plan.pools[inputs.pool.id]
    cap, planned, curve = np.array(orders.cap_w, dtype=np.float64), np.array(orders.draw_kw), _curve(pool)
    lowest = cap <= ceil(pool.min_cap_w)
    above = np.interp(np.where(lowest, pool.min_cap_w, cap), curve.cap_w, curve.draw_w) - pool.curve.idle_w
    working = np.array(orders.active_gpus) if pool.work is Work.BATCH else np.array(inputs.load) * pool.count
    allowed = (pool.count * pool.curve.idle_w + working * above) / 1000.0 - saved_kw(plan, inputs, len(cap))
    over, tol = allowed - planned, TOL_KW + TOL * np.abs(planned)
    beyond = over > tol + (above / 1000.0 if pool.work is Work.BATCH else 0.0)
    rounded = np.where((over > tol) & ~beyond, over, 0.0)
    return Ordered(pool, curve, cap, working, allowed, planned, beyond, rounded)


def order_faults(plan: Plan, found: Ordered) -> Iterator[Fault]:
    """Orders that allow more draw than planned (a batch pool's by a whole GPU: see `rounding_faults`), and those under
    which the planned work can't be done, a watt and (of a batch pool) a GPU more given. An interactive or training pool
    whose planned work keeps its floor so keeps it under its cap."""
    pool, curve, work = found.pool, found.curve, np.array(plan.pools[found.pool.id].work_gpus)
    for t in np.flatnonzero(found.beyond).tolist():
        yield pool.id, t, _allow(plan, found, t)
    if pool.work is Work.BATCH:
        drawn = np.interp(found.cap_w + 1.0, curve.cap_w, curve.draw_w)
        most = np.minimum(found.working + 1.0, pool.count) * np.interp(drawn, curve.corner_w, curve.corner_rate)
    else:
        most = found.working * np.interp(found.cap_w + 1.0, curve.cap_w, curve.rate)
    for t in np.flatnonzero(work > most + 1e-4 * (1 + pool.count)).tolist():
        yield pool.id, t, f"{_told(plan, pool, t)} do {most[t]:.3f} of the planned work {work[t]:.3f}"


def rounding_faults(
    plan: Plan, site: SiteInputs, caps_kw: Sequence[Floats], pools: Sequence[Ordered]
) -> Iterator[Fault]:
    """Batch pools of a site that were rounded up to a whole GPU where it has no room for that under its limit and the
    events that it owes, whose caps are `caps_kw` [interval]."""
    if not any(pool.rounded_kw.any() for pool in pools):
        return
    bought, cap = np.array(plan.sites[site.id].import_kw), np.array(site.limit_kw)
    for other in caps_kw:
        cap = np.minimum(cap, other)
    room = np.maximum(0.0, cap - bought) / np.array(site.pue)
    over = np.sum([pool.rounded_kw for pool in pools], axis=0)
    for t in np.flatnonzero(over > room + TOL_KW + TOL * np.abs(bought)).tolist():
        for item in pools:
            if item.rounded_kw[t] > 0:
                yield item.pool.id, t, f"{_allow(plan, item, t)}, and the site has {room[t]:.3f} kW left"


def _allow(plan: Plan, item: Ordered, t: int) -> str:
    return f"{_told(plan, item.pool, t)} allow {item.allowed_kw[t]:.3f} kW, planned {item.planned_kw[t]:.3f}"


def _told(plan: Plan, pool: GpuPool, t: int) -> str:
    """Its orders in words."""
    orders = plan.pools[pool.id]
    gpus = f" on {orders.active_gpus[t]} GPUs" if pool.work is Work.BATCH else ""
    return f"orders of {orders.cap_w[t]} W{gpus}"
