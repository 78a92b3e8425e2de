"""From measured power to how busy a pool is, and from an order to the power it will draw.

Why: a cap is not a reduction. What an order changes depends on how many GPUs really work, so the fast loop counts busy
GPUs from measured draw and predicts from the curve: draw = busy * draw_at_cap + (count - busy) * idle.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from optimizer.curves import draw_at_cap
from optimizer.domain import GpuPool
from scheduler.orders import PoolOrder

SMOOTHING = 0.5
"""Share of a new busy estimate that is taken over in one tick; half keeps noise out and follows a burst in two
ticks."""

FOREIGN_TICKS = 5
"""Readings that must agree before power without a job is taken for work."""

READINGS = 20
"""Over so many readings a limit that cards seem to have is averaged (later ones count by as little as the last of
these)."""


def measured_busy(pool: GpuPool, kw: float, order: PoolOrder) -> float:
    """Busy GPUs that explain a measured pool power under the order in force (0..count)."""
    per_gpu_w = draw_at_cap(pool.curve, order.cap_w) - pool.curve.idle_w
    if per_gpu_w <= 0:
        return float(pool.count)
    busy = (kw * 1000.0 - pool.count * pool.curve.idle_w) / per_gpu_w
    return min(float(pool.count), max(0.0, busy))


def busy_now(pool: GpuPool, kw: float | None, order: PoolOrder, last: float | None, planned: float) -> float:
    """Present estimate of busy GPUs: measured and smoothed, else the last one, else the plan's load."""
    if kw is None:
        return last if last is not None else planned
    fresh = measured_busy(pool, kw, order)
    return fresh if last is None else last + SMOOTHING * (fresh - last)


class Foreign:
    """Busy GPUs of a batch pool beyond those that jobs hold: work that nobody granted. It counts when it shows in every
    one of the last few readings, so that power that only lags behind an order does not."""

    def __init__(self) -> None:
        self._beyond: deque[float] = deque(maxlen=FOREIGN_TICKS)

    def see(self, beyond: float) -> None:
        """Take in one reading: busy GPUs as measured, less those that jobs hold. The first one counts at once, because
        no order of ours came before it."""
        self._beyond.extend([beyond] * (1 if self._beyond else FOREIGN_TICKS))

    @property
    def gpus(self) -> int:
        """Whole GPUs, as far as the readings agree."""
        return int(max(0.0, min(self._beyond, default=0.0)) + 0.25)


def pool_kw(pool: GpuPool, order: PoolOrder, busy: float) -> float:
    """Predicted draw of a pool under an order, in kW."""
    working = min(busy, float(pool.count))
    idle = pool.count - working
    return (working * draw_at_cap(pool.curve, order.cap_w) + idle * pool.curve.idle_w) / 1000.0


def import_kw(it_kw: float, other_it_kw: float, pue: float, bias_kw: float = 0.0) -> float:
    """Import at the site meter for an IT power, with what the model was last off by."""
    return (it_kw + other_it_kw) * pue + bias_kw


@dataclass(frozen=True, slots=True)
class Seeming:
    """The limit in W that `count` cards which are away seem to have: the mean of `readings`, in whole watts."""

    count: int
    mean_w: float
    readings: int = 1

    @property
    def limit_w(self) -> float:
        """In whole watts, so that it stands still."""
        return float(round(self.mean_w))

    def seen(self, limit_w: float) -> Seeming:
        """With one more reading."""
        readings = min(READINGS, self.readings + 1)
        return Seeming(self.count, self.mean_w + (limit_w - self.mean_w) / readings, readings)
