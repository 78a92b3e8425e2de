"""The merit order between two plans: which watts to take first, and which to give back first.

Why apart from the model: the fast loop runs every second and never waits for a solver. Along concave curves the
greedy order is the optimum: take the watt that loses the least value, give back the one that brings the most. Orders
are rounded to whole watts and whole GPUs so that the pool never draws more than was asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, inf

from optimizer.curves import cap_for_draw, clipped, draw_at_cap, hull_from_idle, hull_of_caps
from optimizer.domain import PowerCurve

EPS_W = 1e-6


@dataclass(frozen=True)
class ShedPool:
    """A pool as the fast loop sees it now. `busy` GPUs of `count` work, under `cap_w` each.

    `low_cap_w` is the lowest cap allowed (the service floor, or less under an allowed emergency), `high_cap_w` the
    highest. `value_per_gpu_h` weighs lost throughput. `may_idle`: after its knee the pool may also idle GPUs, down to
    `low_busy` and, when giving back, up to `high_busy` (batch pools). `given_w`: what it draws above idle now, where it
    gives already; down to that, watts are worth `stays` (a share) less, so that among equals those give on who do.
    """

    id: str
    curve: PowerCurve
    count: int
    busy: float
    cap_w: int
    low_cap_w: int
    high_cap_w: int
    value_per_gpu_h: float
    may_idle: bool = False
    low_busy: float = 0.0
    high_busy: float = 0.0
    given_w: float = inf
    stays: float = 0.0


@dataclass(frozen=True, slots=True)
class ShedOrder:
    """New cap of each busy GPU, GPUs that may be busy, and the draw of the whole pool that follows."""

    cap_w: int
    active_gpus: int
    draw_kw: float


@dataclass(frozen=True)
class ShedResult:
    """Orders by pool; IT power in kW still to shed (positive) or to give back (negative); value lost per hour."""

    orders: dict[str, ShedOrder]
    remaining_kw: float
    lost_value_per_h: float


@dataclass(frozen=True, slots=True)
class _Step:
    """A straight piece of one pool's merit order: watts of the whole pool, what each is worth per hour, and what it
    counts for in the order."""

    value_per_w: float
    pool: int
    watts: float
    rank: float


def shed(pools: Sequence[ShedPool], shed_kw: float) -> ShedResult:
    """Shed `shed_kw` of IT power at the least loss of value, or give `-shed_kw` back where it is worth most.

    Never below a pool's lowest cap or busy count: what can't be shed is returned as `remaining_kw`. Within each pool
    caps go first, down to the knee where the pool may idle, then whole GPUs.
    """
    draws_w = [_active_w(pool, pool.cap_w, pool.busy) for pool in pools]
    wanted_w = abs(shed_kw) * 1000.0
    steps = _steps_down(pools, draws_w) if shed_kw >= 0 else _steps_up(pools, draws_w)
    lost, left_w, sign = 0.0, wanted_w, 1.0 if shed_kw >= 0 else -1.0
    for step in steps:
        taken = min(step.watts, left_w)
        draws_w[step.pool] -= sign * taken
        lost += sign * taken * step.value_per_w
        left_w -= taken
        if left_w <= EPS_W:
            break
    orders = {pool.id: _order(pool, draw_w) for pool, draw_w in zip(pools, draws_w, strict=True)}
    return ShedResult(orders, sign * left_w / 1000.0 if left_w > EPS_W else 0.0, lost)


def _active_w(pool: ShedPool, cap_w: float, busy: float) -> float:
    """Draw of the busy GPUs above idle, in W of the whole pool."""
    return busy * (draw_at_cap(pool.curve, cap_w) - pool.curve.idle_w)


def _pieces(pool: ShedPool, low_cap_w: float, high_cap_w: float, busy: float) -> list[tuple[float, float, float]]:
    """The pool's merit order from its lowest draw up: (from W, to W, value per W), value falling."""
    curve = clipped(pool.curve, low_cap_w, max(low_cap_w, high_cap_w))
    hull = hull_from_idle(curve) if pool.may_idle else hull_of_caps(curve)
    at = busy * (hull.base_w - curve.idle_w)
    pieces = []
    for segment in hull.segments:
        width = busy * segment.width_w
        pieces.append((at, at + width, pool.value_per_gpu_h * segment.slope_per_w))
        at += width
    ceiling_w = _active_w(pool, high_cap_w, busy)
    if ceiling_w > at + EPS_W:  # power past the best throughput buys nothing: it goes first
        pieces.append((at, ceiling_w, 0.0))
    return pieces


def _steps_down(pools: Sequence[ShedPool], draws_w: Sequence[float]) -> list[_Step]:
    """What can be taken, cheapest first."""
    steps = []
    for number, pool in enumerate(pools):
        lowest_w = _active_w(pool, pool.low_cap_w, min(pool.busy, pool.low_busy)) if pool.may_idle else 0.0
        for start, end, value in _pieces(pool, pool.low_cap_w, max(pool.cap_w, pool.low_cap_w), pool.busy):
            top_w, least_w = min(end, draws_w[number]), max(start, lowest_w)
            parts = (pool.given_w, top_w, value * (1.0 - pool.stays)), (least_w, min(top_w, pool.given_w), value)
            for low_w, high_w, rank in parts:
                if high_w - max(low_w, least_w) > EPS_W:
                    steps.append(_Step(value, number, high_w - max(low_w, least_w), rank))
    return sorted(steps, key=lambda step: (step.rank, step.pool))


def _steps_up(pools: Sequence[ShedPool], draws_w: Sequence[float]) -> list[_Step]:
    """What can be given back, most valuable first."""
    steps = []
    for number, pool in enumerate(pools):
        busy = max(pool.busy, pool.high_busy) if pool.may_idle else pool.busy
        for start, end, value in _pieces(pool, pool.low_cap_w, pool.high_cap_w, busy):
            watts = end - max(start, draws_w[number])
            if watts > EPS_W:
                steps.append(_Step(value, number, watts, value))
    return sorted(steps, key=lambda step: (-step.rank, step.pool))


def _order(pool: ShedPool, active_w: float) -> ShedOrder:
    """Whole-watt cap and whole GPUs that draw at most `active_w` above idle, not below the pool's lowest."""
    idle_w, busy = pool.curve.idle_w, max(pool.busy, pool.high_busy if pool.may_idle else 0.0)
    active = pool.count
    if pool.may_idle:
        knee = hull_from_idle(clipped(pool.curve, pool.low_cap_w, max(pool.low_cap_w, pool.high_cap_w)))
        step_w = knee.segments[0].width_w if knee.segments else 0.0
        needed = floor(active_w / step_w + EPS_W) if step_w > 0 else pool.count
        kept = min(round(busy), ceil(pool.low_busy))  # they go on working, below the knee where nothing else is left
        busy = float(max(kept, min(needed, round(busy))))
        active = min(pool.count, int(busy))
    cap_w = pool.high_cap_w
    if busy > 0:
        cap_w = cap_for_draw(clipped(pool.curve, pool.low_cap_w, pool.high_cap_w), idle_w + active_w / busy)
        cap_w = min(pool.high_cap_w, max(pool.low_cap_w, cap_w))
    draw_w = pool.count * idle_w + _active_w(pool, cap_w, busy)
    return ShedOrder(cap_w, active, draw_w / 1000.0)
