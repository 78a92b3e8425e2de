"""What a site misses of its ceiling, reading by reading: whether that stays, and by how much.

Why by the mean of some readings: a meter's noise crosses the ceiling every few seconds, and a note that comes and goes
with it is read by nobody. Who was told stays told until the site is no longer above it in the mean of ten readings.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import fmean

OVER_SHARE, OVER_TICKS = 0.02, 10
"""A site that draws this much over its ceiling for so many ticks, where its orders should be enough, is told of."""
LEAST_SHARE = 0.0001
"""Of a ceiling: less above it is nothing, however long it stays."""


@dataclass(slots=True)
class Missed:
    """What a site without a lever left drew in the last readings, in kW, and in how many of the last it was far more
    than its orders should draw."""

    drawn_kw: deque[float] = field(default_factory=lambda: deque(maxlen=OVER_TICKS))
    told: bool = False
    far_ticks: int = 0

    def stays_kw(self, drawn_kw: float | None, ceiling_kw: float, spent: bool, readings: int) -> float:
        """Take in one reading (None: nothing is known of it); by how much the site stays above its ceiling of now, 0
        where it does not. `readings`: in so many it must have been, each without a lever left (`spent`), to be told
        of."""
        if drawn_kw is None or not (spent or self.told):
            self.drawn_kw.clear()
            self.told = False
            return 0.0
        self.drawn_kw.append(drawn_kw if spent else min(drawn_kw, ceiling_kw))
        lately_kw, mean_kw = fmean(list(self.drawn_kw)[-readings:]) - ceiling_kw, fmean(self.drawn_kw) - ceiling_kw
        begins = len(self.drawn_kw) >= min(readings, OVER_TICKS) and lately_kw > LEAST_SHARE * ceiling_kw
        self.told = begins or (self.told and mean_kw > 0.0)
        return max(lately_kw, mean_kw) if self.told else 0.0

    def far(self, drawn_kw: float | None, ceiling_kw: float) -> bool:
        """Take in one reading (None: one that says nothing of that); whether the site draws far more than its orders
        should, and goes on doing so."""
        if drawn_kw is None or drawn_kw <= ceiling_kw:
            self.far_ticks = 0
        elif drawn_kw > ceiling_kw * (1 + OVER_SHARE):
            self.far_ticks = min(self.far_ticks + 1, 2 * OVER_TICKS)
        else:
            self.far_ticks = max(0, self.far_ticks - 1)
        return self.far_ticks >= OVER_TICKS
