"""The checker's part about orders: what goes to the cards is the plan that was weighed (see `check.py`).

Why: cards follow cap and active GPUs, whatever draw and work stand beside them. A cap above the planned draw breaks a
limit that the plan keeps on paper; one below it breaks a floor, or leaves jobs undone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from optimizer.check_pools import Fault, Flags, Told, along
from optimizer.curves import clipped, hull_from_idle, monotone
from optimizer.domain import GpuPool, Plan, SiteInputs, Work

Floats = NDArray[np.float64]
TOL_KW = 1e-3
TOL = 1e-6


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
    """All pools under their orders, [pool, interval]: GPUs with work; kW that the orders allow; where that is more than
    a plan and its rounding explain; and the kW that a batch pool is rounded up by, to a whole GPU."""

    told: Told
    curves: tuple[_Curve, ...]
    working: Floats
    allowed_kw: Floats
    beyond: Flags
    rounded_kw: Floats


def ordered(told: Told) -> Ordered:
    """What the cards of all pools draw at most: those with work under their cap, the others idle or parked. A lowest
    cap that is no whole watt is ordered as the next one."""
    curves, lowest_w = tuple(_curve(pool) for pool in told.pools), told.column(lambda pool: pool.min_cap_w)
    batch = _batch(told)
    working = np.where(batch, told.active, told.busy)
    cap = np.where(told.cap_w <= np.ceil(lowest_w), lowest_w, told.cap_w)
    above = along(cap, ((curve.cap_w, curve.draw_w) for curve in curves)) - told.idle_w
    allowed = (told.count * told.idle_w + working * above) / 1000.0 - told.saved_kw
    over, tol = allowed - told.draw_kw, TOL_KW + TOL * np.abs(told.draw_kw)
    beyond = over > tol + np.where(batch, above / 1000.0, 0.0)
    rounded = np.where((over > tol) & ~beyond, over, 0.0)
    return Ordered(told, curves, working, allowed, beyond, rounded)


def _batch(told: Told) -> Flags:
    """Which pools run queued jobs [pool, 1]."""
    return np.array([pool.work is Work.BATCH for pool in told.pools], dtype=np.bool_).reshape(-1, 1)


def order_faults(plan: Plan, found: Ordered) -> list[Fault]:
    """Orders that allow more draw than planned (a batch pool's by a whole GPU: see `rounding_faults`), and those under
    which the planned work can't be done, a watt and (of a batch pool) a GPU more given. An interactive or training pool
    whose planned work keeps its floor so keeps it under its cap."""
    told, cap, curves = found.told, found.told.cap_w + 1.0, found.curves
    drawn = along(cap, ((curve.cap_w, curve.draw_w) for curve in curves))
    at_hull = along(drawn, ((curve.corner_w, curve.corner_rate) for curve in curves))
    at_cap = along(cap, ((curve.cap_w, curve.rate) for curve in curves))
    queued = np.minimum(found.working + 1.0, told.count) * at_hull
    most = np.where(_batch(told), queued, found.working * at_cap)
    missed = told.work > most + 1e-4 * (1 + told.count)
    return [
        *told.faults(found.beyond, lambda g, t: _allow(plan, found, g, t)),
        *told.faults(missed, lambda g, t: f"{_said(plan, told.pools[g], t)} do {most[g, t]:.3f} of the planned work "
                                          f"{told.work[g, t]:.3f}"),
    ]  # fmt: skip


def rounding_faults(
    plan: Plan, site: SiteInputs, caps_kw: Sequence[Floats], found: Ordered | None
) -> Iterator[tuple[str, int, str]]:
    """Batch pools of a site that were rounded up to a whole GPU where it has no room for that under its limit and the
    events that it owes, whose caps are `caps_kw` [interval]."""
    if found is None or not found.rounded_kw.any():
        return
    here = np.array([pool.site == site.id for pool in found.told.pools], dtype=np.bool_).reshape(-1, 1)
    rounded = np.where(here, found.rounded_kw, 0.0)
    bought, cap = np.array(plan.sites[site.id].import_kw), np.array(site.limit_kw)
    for other in caps_kw:
        cap = np.minimum(cap, other)
    room = np.maximum(0.0, cap - bought) / np.array(site.pue)
    over = rounded.sum(axis=0)
    for t in np.flatnonzero(over > room + TOL_KW + TOL * np.abs(bought)).tolist():
        for g in np.flatnonzero(rounded[:, t] > 0).tolist():
            yield (
                found.told.pools[g].id,
                t,
                f"{_allow(plan, found, g, t)}, and the site has {room[t]:.3f} kW left",
            )


def _allow(plan: Plan, found: Ordered, g: int, t: int) -> str:
    told = found.told
    text = f"allow {found.allowed_kw[g, t]:.3f} kW, planned {told.draw_kw[g, t]:.3f}"
    return f"{_said(plan, told.pools[g], t)} {text}"


def _said(plan: Plan, pool: GpuPool, t: int) -> str:
    """Its orders in words."""
    orders = plan.pools[pool.id]
    gpus = f" on {orders.active_gpus[t]} GPUs" if pool.work is Work.BATCH else ""
    return f"orders of {orders.cap_w[t]} W{gpus}"
