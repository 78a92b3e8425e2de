"""Which lever moves a pool's power: its limits, or, where no limit binds, its locked SM clocks.

Why learned: whether a cap binds depends on the work. The decode phase of a served model may draw 140 to 300 W of 700 W
(measured on H200 cards, arXiv 2605.11999): a limit of 400 W sheds nothing there, while a lower clock does. So a pool
whose busy GPUs draw less than the lowest limit, or go on drawing more than a limit that was accepted, is moved by its
clocks from then on, until its draw at free clocks is large enough for limits again. Only where the operator allows it:
no driver tells who locked a clock before.

A pool that is moved by clocks has another power curve: an order of so many watts means the highest clock at which a
busy GPU draws no more. Draw above idle falls by a part (`follows`, learned) with the square of the clock; throughput
counts as falling in proportion to it, which is the worst there is, so that floors hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import ceil, sqrt

from optimizer.domain import CurvePoint, GpuPool, PowerCurve

TICKS = 10
"""Readings in a row that must agree before the lever is changed."""

BELOW, ABOVE, WORKS = 0.98, 1.10, 1.25
"""Draw over the lowest limit below which no limit binds; draw over a limit (or over the lowest one, when a pool returns
to limits) that says that it does not; draw over idle from which a GPU counts as working."""

LEAST_CLOCK = 0.4
"""Clocks are not locked below this share of the highest one."""

FOLLOWS, LEAST_FOLLOWS, MOST_FOLLOWS, LEARNING = 0.6, 0.2, 1.0, 0.05
"""Part of the draw above idle that falls with the square of the clock, as assumed at first; its bounds; and the weight
of one reading."""

POINTS = 9
SOURCE = "clocks"


@dataclass(frozen=True, slots=True)
class Clocked:
    """A pool that is moved by clocks: range in MHz, draw in W of a busy GPU at free clocks, how much of it follows."""

    min_mhz: int
    max_mhz: int
    full_w: float
    follows: float = FOLLOWS

    def draw_w(self, idle_w: float, share: float) -> float:
        """Draw of a busy GPU at a share of the highest clock."""
        return idle_w + (self.full_w - idle_w) * (1.0 - self.follows * (1.0 - share**2))

    @property
    def lowest(self) -> float:
        """Least share of the highest clock."""
        return max(LEAST_CLOCK, self.min_mhz / self.max_mhz)

    def curve(self, idle_w: float) -> PowerCurve:
        """The pool's power curve by clocks: "caps" are the draws that clocks are set for."""
        shares = [self.lowest + (1.0 - self.lowest) * k / (POINTS - 1) for k in range(POINTS)]
        draws = [self.draw_w(idle_w, share) for share in shares]
        points = tuple(CurvePoint(w, w, share) for w, share in zip(draws, shares, strict=True))
        return PowerCurve(f"{SOURCE} {self.min_mhz} to {self.max_mhz} MHz", idle_w, points, SOURCE)

    def pool(self, pool: GpuPool) -> GpuPool:
        """The pool as it is ordered about by clocks."""
        curve = self.curve(pool.curve.idle_w)
        low_w, high_w = curve.points[0].cap_w, curve.points[-1].cap_w
        return replace(pool, curve=curve, min_cap_w=float(ceil(low_w)), max_cap_w=float(ceil(high_w)))

    def mhz(self, idle_w: float, order_w: float) -> int | None:
        """The clock for an order, rounded up, since a floor stands behind it; None: free, which whole watts count as
        when they miss the full draw by less than one."""
        if order_w > self.full_w - 1.0:
            return None
        part = (order_w - idle_w) / (self.full_w - idle_w)
        share = sqrt(max(0.0, 1.0 - (1.0 - part) / self.follows))
        return ceil(self.max_mhz * max(self.lowest, share) - 1e-6)

    def learned(self, idle_w: float, draw_w: float, share: float) -> Clocked:
        """With what a reading at a locked clock says of how much of the draw follows."""
        if share > 0.95:
            return self
        seen = (1.0 - (draw_w - idle_w) / (self.full_w - idle_w)) / (1.0 - share**2)
        follows = self.follows + LEARNING * (min(MOST_FOLLOWS, max(LEAST_FOLLOWS, seen)) - self.follows)
        return replace(self, follows=follows)


@dataclass
class Levers:
    """The lever of each pool. `ranges` are the clocks (MHz) of the pools that may be moved by them."""

    ranges: Mapping[str, tuple[int, int]]
    clocked: dict[str, Clocked] = field(default_factory=dict)
    _agree: dict[str, int] = field(default_factory=dict)

    def see(self, pool: GpuPool, lowest_w: float, draw_w: float | None, most_w: float | None, mhz: int | None) -> bool:
        """Take in one reading of a pool as its limits move it: the lowest limit that may be ordered, draw of a busy GPU
        (None: nobody knows), what the limits that its GPUs enforce let it draw, and the clock that they are locked to
        (None: free). True when the lever has changed."""
        if pool.id not in self.ranges or draw_w is None or draw_w < WORKS * pool.curve.idle_w:
            self._agree.pop(pool.id, None)
            return False
        held = self.clocked.get(pool.id)
        if held is None:
            useless = draw_w < BELOW * lowest_w or (most_w is not None and draw_w > ABOVE * most_w)
            return self._after(pool.id, useless) and self._to_clocks(pool.id, draw_w)
        if mhz is not None:
            self.clocked[pool.id] = held.learned(pool.curve.idle_w, draw_w, mhz / held.max_mhz)
            return False
        full_w = held.full_w + LEARNING * (draw_w - held.full_w)
        self.clocked[pool.id] = replace(held, full_w=full_w)
        if self._after(pool.id, draw_w > ABOVE * lowest_w and (most_w is None or draw_w < most_w)):
            del self.clocked[pool.id]
            return True
        return False

    def _to_clocks(self, pool: str, draw_w: float) -> bool:
        self.clocked[pool] = Clocked(*self.ranges[pool], draw_w)
        return True

    def _after(self, pool: str, agrees: bool) -> bool:
        """True when so many readings in a row agree."""
        self._agree[pool] = self._agree.get(pool, 0) + 1 if agrees else 0
        if self._agree[pool] < TICKS:
            return False
        self._agree[pool] = 0
        return True
