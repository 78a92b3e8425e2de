"""What a site misses of its ceiling, reading by reading: whether that stays, and by how much.

Why by the middle of some readings: a meter's noise crosses the ceiling every few seconds, and a note that comes and
goes with it is read by nobody; and what a site draws while it falls says nothing of where it stays.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import median, median_low

OVER_SHARE, OVER_TICKS = 0.02, 10
"""A site that draws this much over its ceiling for so many ticks, where its orders should be enough, is told of."""
LEAST_SHARE = 0.0001
"""Of a ceiling: less above it is nothing, however long it stays."""
OTHER_SHARE = 0.01
"""A ceiling that is so much another one begins anew."""


@dataclass(slots=True)
class Missed:
    """What a site without a lever left drew in the last readings and its ceiling then, both in kW, and in how many of
    the last it was far more than its orders should draw."""

    readings: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=OVER_TICKS))
    told: bool = False
    far_ticks: int = 0

    def stays_kw(self, drawn_kw: float | None, ceiling_kw: float, spent: bool, least: int) -> float:
        """Take in one reading (None: nothing is known of it); by how much the site stays above its ceiling, 0 where it
        does not. To be told of it must have been in `least` readings, or in most of ten, each without a lever left
        (`spent`); it is until it was not in half of them. No reading is held against another ceiling than its own,
        but one that was raised since."""
        changed = bool(self.readings) and abs(self.readings[-1][1] - ceiling_kw) > OTHER_SHARE * ceiling_kw
        if changed or drawn_kw is None or not (spent or self.told):
            self.readings.clear()
            self.told = False
        if drawn_kw is None or not (spent or self.told):
            return 0.0
        self.readings.append((drawn_kw if spent else min(drawn_kw, ceiling_kw), ceiling_kw))
        over_kw = [drawn - max(then, ceiling_kw) for drawn, then in self.readings]
        lately_kw, middle_kw = over_kw[-least:], median(over_kw)
        begins = len(over_kw) >= min(least, OVER_TICKS) and median_low(lately_kw) > LEAST_SHARE * ceiling_kw
        begins |= len(over_kw) == OVER_TICKS and middle_kw > LEAST_SHARE * ceiling_kw
        self.told = begins or (self.told and middle_kw > 0.0)
        return max(median_low(lately_kw), middle_kw) if self.told else 0.0

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
