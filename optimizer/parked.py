"""Parked GPUs on the grid: what they save, and when woken ones work again.

Why apart: model, bill, orders and rules must agree about the minutes in which a GPU that was woken does no work.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from optimizer.assets import Parking
from optimizer.domain import PoolInputs

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Parked:
    """A pool that may park GPUs: how many are parked and waking now, and how long the waking ones still take."""

    parking: Parking
    hours: Floats
    count: int
    idle_w: float
    now: int
    waking: int
    wake_left_h: float

    @property
    def saves_kw(self) -> float:
        """Power that a parked GPU draws less than an idle one, in kW."""
        return max(0.0, self.idle_w - self.parking.parked_w) / 1000.0

    @property
    def step(self) -> int:
        """GPUs that are parked at once."""
        return max(1, self.parking.step)

    @property
    def wake_cost(self) -> float:
        """Money for waking a GPU."""
        return self.parking.wake_cost

    @property
    def most_steps(self) -> int:
        """How many steps of GPUs may be parked."""
        return self.count // self.step

    @cached_property
    def asleep_after(self) -> Floats:
        """Share of interval t [u, t] in which a GPU that was woken at the start of interval u does no work yet."""
        ends = np.cumsum(self.hours)
        begins = ends - self.hours
        wake_h = self.parking.wake_s / 3600.0
        overlap = np.minimum(ends, begins[:, None] + wake_h) - np.maximum(begins, begins[:, None])
        found: Floats = np.triu(np.clip(overlap, 0.0, None) / self.hours)
        return found

    @cached_property
    def waking_now(self) -> Floats:
        """GPUs [interval] that were woken before now and do no work yet, as a mean."""
        ends = np.cumsum(self.hours)
        inside = np.clip(self.wake_left_h - (ends - self.hours), 0.0, self.hours)
        found: Floats = self.waking * inside / self.hours
        return found

    @cached_property
    def most_awake(self) -> Floats:
        """GPUs [interval] that can work if all are woken now."""
        found: Floats = self.count - self.waking_now - self.now * self.asleep_after[0]
        return found

    def woken(self, parked: Floats) -> Floats:
        """GPUs woken at the start of each interval, from those that are parked in it [interval]."""
        found: Floats = np.clip(np.concatenate(([self.now], parked[:-1])) - parked, 0.0, None)
        return found

    def awake(self, parked: Floats) -> Floats:
        """GPUs [interval] that can work beside parked and waking ones, as a mean."""
        found: Floats = self.count - parked - self.waking_now - self.woken(parked) @ self.asleep_after
        return found

    def cost(self, parked: Floats) -> float:
        """Money for waking what is woken, and what is still parked at the end."""
        return self.parking.wake_cost * float(self.woken(parked).sum() + parked[-1])


def parked_of(inputs: PoolInputs, hours: Floats, held: float) -> Parked | None:
    """How a pool parks (None: not at all); `held`: GPUs of runs that can't be stopped, none of which is parked."""
    pool = inputs.pool
    if pool.parking is None:
        return None
    free = max(0, int(np.floor(pool.count - held + 1e-9)))
    now = min(inputs.parked_now, free)
    waking = min(inputs.waking_now, free - now)
    left_h = inputs.wake_left_s / 3600.0
    return Parked(pool.parking, hours, pool.count, pool.curve.idle_w, now, waking, left_h)
