"""A pool on the grid, before anything is decided: who may work, what the curve gives, the floor.

Why hulls by interval: the GPUs of a batch pool share one cap, so its tightest job decides how slow they may run, and no
job may count on more than that speed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from optimizer.curves import Hull, Segment, draw_at_cap, hull_from_idle, throughput_at_cap, throughput_of_knee
from optimizer.domain import GpuPool, PowerCurve, Work
from optimizer.parked import Parked

Floats = NDArray[np.float64]

SPEED_STEP = 0.02
"""Speeds are rounded up to this, so that a pool has few different hulls."""

SLACK = 1e-6
"""Part of a step that is rounding."""


OF_HULLS = (
    "_kinds", "seg_width_w", "seg_slope_per_kw", "base_throughput", "base_w", "top_w", "top_throughput", "kw_per_work",
    "_floor_w", "_floor_throughput", "from_idle",
)  # fmt: skip
"""What follows from the hulls and the floor of a pool alone."""


def stacked(pools: Sequence[PoolFacts], name: str, count: int) -> Floats:
    """An array [interval] of every pool, as [pool, interval]."""
    return np.array([getattr(pool, name) for pool in pools], dtype=np.float64).reshape(len(pools), count)


def stacked_segments(pools: Sequence[PoolFacts], name: str, count: int) -> Floats:
    """An array [interval, segment] of every pool, as [pool, interval, segment]; 0 where a pool has fewer segments."""
    widest = max((pool.seg_width_w.shape[1] for pool in pools), default=0)
    found = np.zeros((len(pools), count, widest))
    for number, pool in enumerate(pools):
        part = getattr(pool, name)
        found[number, :, : part.shape[1]] = part
    return found


def hulls_at(curve: PowerCurve, speed: Floats, slack: float = 0.0, most: float = 1.0) -> tuple[Hull, ...]:
    """Hulls whose GPUs with work are never slower than `speed` [interval], rounded up to few steps (none that is less
    than `slack` of a step away) of at most `most`."""
    fast = speed > throughput_of_knee(curve)
    steps = np.where(fast, np.minimum(most, np.ceil(speed / SPEED_STEP - slack) * SPEED_STEP), 0.0)
    hulls = {step: hull_from_idle(curve, step) for step in set(steps.tolist())}
    return tuple(hulls[step] for step in steps.tolist())


@dataclass(frozen=True)
class PoolFacts:
    """A pool on the grid. `hulls[t]` is throughput over draw of one working GPU; `working[t]` how many may work,
    `floor_caps_w[t]` the lowest cap in whole W that keeps the floor."""

    pool: GpuPool
    index: int
    site: int
    curve: PowerCurve
    working: Floats
    hulls: tuple[Hull, ...]
    floor_caps_w: NDArray[np.int64]
    may_break_floor: NDArray[np.bool_]
    draw_now_kw: float | None
    parked: Parked | None = None
    """How it parks GPUs; None: not at all."""
    speed: Floats | None = None
    """Throughput under which none of its GPUs with work runs, per interval: what every job may count on for each of its
    GPUs. None: pools whose jobs aren't held to that, and bounds that let every GPU have a cap of its own."""
    lone_gpus: Floats | None = None
    """GPUs that may work where each of the jobs that are in time could use all of them (most often it is one job), else
    0, per interval: what these jobs do together makes the pool as fast as each of them needs it."""
    alone: NDArray[np.bool_] | None = None
    """Where nobody else works, so that no speed need be given."""

    @property
    def batch(self) -> bool:
        """Whether the pool runs queued jobs (its GPUs may idle)."""
        return self.pool.work is Work.BATCH

    def with_load(self, working: Floats, draw_now_kw: float | None) -> PoolFacts:
        """The pool with other GPUs at work and another present draw; what follows from its hulls and its floor alone
        is taken over."""
        made = replace(self, working=working, draw_now_kw=draw_now_kw)
        made.__dict__.update({name: self.__dict__[name] for name in OF_HULLS if name in self.__dict__})
        return made

    @property
    def top_work(self) -> float:
        """Work of all GPUs under the highest cap, in GPU equivalents."""
        return self.pool.count * self.hulls[0].top_throughput

    def _by_hull(self, number: Callable[[Hull], float]) -> Floats:
        """A number of the hull of every interval; pools have few different hulls."""
        kinds, which = self._kinds
        return np.array([number(hull) for hull in kinds])[which]

    @cached_property
    def _kinds(self) -> tuple[list[Hull], NDArray[np.int64]]:
        """The different hulls, and which of them each interval has; by identity, since hashing one is slow."""
        kinds: dict[int, int] = {}
        which = [kinds.setdefault(id(hull), len(kinds)) for hull in self.hulls]
        first = {number: hull for hull, number in zip(self.hulls, which, strict=True)}
        return [first[number] for number in range(len(kinds))], np.array(which, dtype=np.int64)

    @cached_property
    def seg_width_w(self) -> Floats:
        """Widths of the hull's segments in W of one GPU [interval, segment]; 0 where a hull has fewer."""
        return self._segments(lambda part: part.width_w)

    @cached_property
    def seg_slope_per_kw(self) -> Floats:
        """Slopes of the hull's segments in GPU equivalents per kW [interval, segment]."""
        return self._segments(lambda part: part.slope_per_w * 1000.0)

    def _segments(self, number: Callable[[Segment], float]) -> Floats:
        kinds, which = self._kinds
        most = max((len(hull.segments) for hull in kinds), default=0)
        rows = [[number(part) for part in hull.segments] + [0.0] * (most - len(hull.segments)) for hull in kinds]
        found: Floats = np.array(rows).reshape(len(kinds), most)[which]
        return found

    @cached_property
    def from_idle(self) -> Hull:
        """The hull of its curve from idle, whatever its speed."""
        return hull_from_idle(self.curve)

    @cached_property
    def base_throughput(self) -> Floats:
        """Throughput of a GPU at the hull's lower end, per interval."""
        return self._by_hull(lambda hull: hull.base_throughput)

    @cached_property
    def base_w(self) -> Floats:
        """Draw of a working GPU at the hull's lower end, per interval."""
        return self._by_hull(lambda hull: hull.base_w)

    @cached_property
    def top_w(self) -> Floats:
        """Draw of a working GPU at its best throughput, per interval."""
        return self._by_hull(lambda hull: hull.top_w)

    @cached_property
    def top_throughput(self) -> Floats:
        """Best throughput of a working GPU, per interval."""
        return self._by_hull(lambda hull: hull.top_throughput)

    @cached_property
    def speed_share(self) -> Floats:
        """That speed over the best one, per interval: no job may be planned at more of its highest rate."""
        if self.speed is None:
            return np.ones(len(self.hulls))
        share = np.minimum(1.0, self.speed / np.maximum(self.top_throughput, 1e-12))
        found: Floats = share if self.alone is None else np.where(self.alone, 1.0, share)
        return found

    def at_speed(self, speed: Floats, alone: NDArray[np.bool_]) -> PoolFacts:
        """The pool at other speeds, with nobody but the lone jobs in some intervals."""
        speed = np.minimum(speed, self.hulls[0].top_throughput)
        lone = self.working if self.lone_gpus is None else np.minimum(self.lone_gpus, self.working)
        working, hulls = (
            np.where(alone, lone, self.working),
            hulls_at(self.curve, np.where(alone, 0.0, speed), SLACK, np.inf),
        )
        return replace(self, speed=speed, alone=alone, working=working, hulls=hulls)

    @cached_property
    def kw_per_work(self) -> Floats:
        """Power above the hull's lower end, in kW, that a GPU equivalent takes at full speed, per interval."""
        return self._by_hull(lambda hull: (hull.top_w - hull.base_w) / hull.top_throughput / 1000.0)

    @cached_property
    def base_kw(self) -> Floats:
        """Draw that no order can go below: idle GPUs, and for pools that only take caps their lowest cap."""
        idle_w = self.curve.idle_w
        above = self._by_hull(lambda hull: hull.base_w - idle_w)
        draw: Floats = (self.pool.count * idle_w + self.working * above) / 1000.0
        return draw

    @cached_property
    def top_kw(self) -> Floats:
        """Draw at the best throughput of all GPUs that may work."""
        widths = self._by_hull(lambda hull: hull.top_w - hull.base_w)
        draw: Floats = self.base_kw + self.working * widths / 1000.0
        return draw

    @cached_property
    def least_kw(self) -> Floats:
        """Least draw that keeps the service floor."""
        if self.batch:
            return self.base_kw
        floor_w = self._floor_w
        need = np.maximum(0.0, np.minimum(floor_w, self.top_w) - self.base_w)
        draw: Floats = self.base_kw + self.working * need / 1000.0
        return draw

    @cached_property
    def floor_work(self) -> Floats:
        """Work in GPU equivalents under the floor's cap (interactive and training pools)."""
        work: Floats = self.working * self._floor_throughput
        return work

    @cached_property
    def _floor_w(self) -> Floats:
        """Draw of a working GPU under the floor's cap, per interval."""
        return self._at_floors(draw_at_cap)

    @cached_property
    def _floor_throughput(self) -> Floats:
        """Throughput of a working GPU under the floor's cap, per interval."""
        return self._at_floors(throughput_at_cap)

    def _at_floors(self, number: Callable[[PowerCurve, float], float]) -> Floats:
        """What the curve says at the cap of every interval's floor; few of them differ."""
        caps, which = np.unique(self.floor_caps_w, return_inverse=True)
        found: Floats = np.array([number(self.curve, float(cap)) for cap in caps])[which]
        return found

    def work_at(self, index: int, draw_kw: float) -> float:
        """Work in GPU equivalents that a draw of the pool does."""
        working, hull = float(self.working[index]), self.hulls[index]
        if working <= 0:
            return 0.0
        return working * hull.throughput(hull.base_w + (draw_kw - float(self.base_kw[index])) * 1000.0 / working)

    def draws_for(self, work: Floats, fastest: Floats | None = None) -> Floats:
        """Least draw of the pool in kW that does `work` GPU equivalents, both [interval]; `fastest`: throughput that
        some job needs of each of its GPUs, and so of all, which share one cap."""
        some = self.working > 0
        left = work / np.where(some, self.working, 1.0) - self.base_throughput
        slope_per_w = self.seg_slope_per_kw / 1000.0
        above_w = np.zeros_like(left)
        for k in range(self.seg_width_w.shape[1]):
            step = np.clip(left, 0.0, self.seg_width_w[:, k] * slope_per_w[:, k])
            above_w += np.divide(step, slope_per_w[:, k], out=np.zeros_like(step), where=slope_per_w[:, k] > 0)
            left = left - step
        draw: Floats = self.base_kw + np.where(some, self.working * above_w, 0.0) / 1000.0
        if fastest is None or self.speed is None:
            return draw
        return np.maximum(draw, self.base_kw + work * self.kw_at(fastest))

    def kw_at(self, speed: Floats) -> Floats:
        """Power above idle in kW for a GPU equivalent, from GPUs that are at least as fast as `speed` [interval]."""
        kinds, which = np.unique(np.ceil(speed / SPEED_STEP - 1e-9) * SPEED_STEP, return_inverse=True)
        slopes = [hull_from_idle(self.curve, kind).segments[0].slope_per_w for kind in kinds.tolist()]
        found: Floats = 1.0 / (1000.0 * np.array(slopes)[which])
        return found

    def draw_for(self, index: int, work: float, fastest: float = 0.0) -> float:
        """Least draw of the pool in kW that does `work` GPU equivalents; `fastest`: see `draws_for`."""
        working, hull = float(self.working[index]), self.hulls[index]
        if working <= 0:
            return float(self.base_kw[index])
        above_w = working * (hull.draw_w(work / working) - hull.base_w)
        if fastest <= 0 or self.speed is None:
            return float(self.base_kw[index]) + above_w / 1000.0
        return float(self.base_kw[index]) + max(above_w / 1000.0, work * float(self.kw_at(np.array([fastest]))[0]))
