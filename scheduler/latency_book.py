"""What was seen of a pool's latencies by load and cap: which caps the plan may use, and what it may expect of them.

The model is a table and no more: for a share of busy GPUs (tenths) and a throughput that the cap leaves (hundredths of
full), the objectives' quantiles over their thresholds, rising at once and falling slowly, for as long as they are
remembered. Only one thing is assumed: latency does not fall with the load, nor with a lower cap. So an objective that
slipped at some load and cap slips at every higher load and lower cap too, and one that was kept there is kept at every
lower load and higher cap. Where neither is known nothing is forecast, and the configured floor alone holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil, floor
from typing import Any

LOADS, SPEEDS = 10, 100
"""Steps of the busy share and of throughput."""

FALLING = 0.02
"""Part of the difference by which a cell follows a lower value, a second."""

Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Cell:
    """Worst quantile over threshold that was seen lately, and when last."""

    ratio: float
    at: datetime


class LatencyBook:
    """The table of one objective. `cells` is replaced, never changed: the plan, and who asks for the status, read it
    while the fast loop learns."""

    def __init__(self, remember: timedelta, cells: Mapping[Place, Cell] | None = None) -> None:
        self._remember = remember
        self.cells: dict[Place, Cell] = dict(cells or {})

    def see(self, place: Place, ratio: float, now: datetime) -> None:
        """Take in a quantile over its threshold."""
        old = self.cells.get(place)
        if old is not None and now - old.at < self._remember and ratio < old.ratio:
            ratio = old.ratio + FALLING * (ratio - old.ratio)
        self.cells = {**self.cells, place: Cell(ratio, now)}

    def put_back(self, place: Place, cell: Cell | None) -> None:
        """Have a cell as it was before (None: there was none)."""
        others = {at: known for at, known in self.cells.items() if at != place}
        self.cells = others if cell is None else {**others, place: cell}

    def forget(self, now: datetime) -> None:
        """Drop what is too old."""
        self.cells = {place: cell for place, cell in self.cells.items() if now - cell.at < self._remember}

    def missed(self, load: float, now: datetime) -> float:
        """Highest throughput (0 to 1) at which the objective is known to slip at a load; 0 where none is."""
        at = ceil(load * LOADS - 1e-9)
        known = [speed for (seen, speed), ratio in self._young(now) if seen <= at and ratio > 1.0]
        return max(known, default=0) / SPEEDS

    def least_speed(self, load: float, now: datetime) -> float:
        """Throughput (0 to 1) that the objective needs at a load: where it is known to slip, the lowest above that at
        which it was kept at this load or a higher one (1: at none), else 0."""
        at, slips = ceil(load * LOADS - 1e-9), self.missed(load, now)
        if slips <= 0:
            return 0.0
        kept = [
            speed / SPEEDS
            for (seen, speed), ratio in self._young(now)
            if seen >= at and ratio <= 1.0 and speed / SPEEDS > slips
        ]
        return min(1.0, *kept) if kept else 1.0

    def _young(self, now: datetime) -> list[tuple[Place, float]]:
        return [(place, cell.ratio) for place, cell in self.cells.items() if now - cell.at < self._remember]

    def forecast(self, load: float, speed: float, now: datetime) -> tuple[float | None, float | None]:
        """Least and most of the quantile over its threshold that is to be expected at a load and a throughput; None
        where nothing that was seen says so."""
        load_at, speed_at = place_of(load, speed)
        young = self._young(now)
        below = [ratio for (seen, fast), ratio in young if seen <= load_at and fast >= speed_at]
        above = [ratio for (seen, fast), ratio in young if seen >= load_at and fast <= speed_at]
        most = min(above, default=None)
        least = max(below, default=None)
        return (least if least is None or most is None else min(least, most)), most

    def as_record(self) -> list[list[Any]]:
        """The table for the books."""
        return [[load, speed, cell.ratio, cell.at.isoformat()] for (load, speed), cell in sorted(self.cells.items())]

    @classmethod
    def of_record(cls, remember: timedelta, rows: Any) -> LatencyBook:
        """The table from the books; rows in no form are left out."""
        cells = {}
        for row in rows if isinstance(rows, list) else []:
            try:
                load, speed, ratio, at = row
                cells[int(load), int(speed)] = Cell(float(ratio), datetime.fromisoformat(at))
            except (TypeError, ValueError):
                continue
        return cls(remember, cells)


def place_of(load: float, speed: float) -> Place:
    """Cell of a load, rounded up, and a speed, rounded down: what was kept there counts as kept up to a step further,
    and what was missed no earlier than it was."""
    return ceil(load * LOADS - 1e-9), floor(speed * SPEEDS + 1e-9)
