"""A market year and a site that can shift within the day: what perfect foresight saves, and what a controller gets.

Why this site: 7 MW that must run and 3 MW on average that may run at up to 6 MW at any hour of the same local day. Its
best schedule is known by sorting, so every dollar that a controller misses is the controller's.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby, pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np

from optimizer.domain import Series, Span
from optimizer.facts import Floats

Days = Sequence[tuple[int, int]]
"""[first, last) interval of each."""
FIRM_KW, MEAN_KW, MOST_KW = 7000.0, 3000.0, 6000.0
DUTY = MEAN_KW / MOST_KW


@dataclass(frozen=True)
class Market:
    """A recorded year: real-time (settlement) prices, and the prices of the day before, both per interval; None where
    the market has none. `published`: the real-time price itself is known from the day before on."""

    name: str
    zone: ZoneInfo
    starts: tuple[datetime, ...]
    step: timedelta
    price: Floats
    day_ahead: Floats | None
    published: bool = False

    @property
    def hours(self) -> float:
        """Length of an interval."""
        return self.step / timedelta(hours=1)

    def days(self) -> list[tuple[int, int]]:
        """[first, last) interval of every local day, the parts of days at both ends included."""
        found, at = [], 0
        for _, group in groupby(self.starts, lambda start: start.astimezone(self.zone).date()):
            count = len(list(group))
            found.append((at, at + count))
            at += count
        return found

    def day_end(self, index: int) -> int:
        """Where the local day of an interval ends."""
        return next(last for first, last in self.days() if first <= index < last)

    def series(self, values: Floats, first: int, last: int, name: str = "price") -> Series:
        """Intervals [first, last) as a signal."""
        pairs = zip(self.starts[first:last], values[first:last].tolist(), strict=True)
        return Series(name, "USD/MWh", tuple(Span(start, start + self.step, value) for start, value in pairs))

    def perfect(self) -> Floats:
        """Share of the most power in every interval for one who knows the whole day."""
        run = np.zeros(len(self.price))
        for first, last in self.days():
            order = first + np.argsort(self.price[first:last], kind="stable")
            need = DUTY * (last - first)
            run[order] = np.clip(need - np.arange(last - first), 0.0, 1.0)
        return run

    def saving(self, run: Floats, days: Days) -> float:
        """Money saved against the same energy spread evenly. ValueError where a day got another amount of it."""
        total = 0.0
        for first, last in days:
            if abs(run[first:last].sum() - DUTY * (last - first)) > 1e-5 * (last - first):
                raise ValueError(f"{self.name}: the day at {self.starts[first]:%Y-%m-%d} got another amount of energy")
            total += float((self.price[first:last] * (DUTY - run[first:last])).sum())
        return total * MOST_KW / 1000.0 * self.hours

    def share(self, run: Floats, days: Days | None = None) -> float:
        """Saving over the even spread as a share of perfect foresight's, of all days or of some."""
        days = self.days() if days is None else days
        return self.saving(run, days) / self.saving(self.perfect(), days)


def market(
    name: str, zone: str, prices: Sequence[Path], day_ahead: Path | None = None, published: bool = False
) -> Market:
    """Read a market from price files, one after the other; hourly day-ahead prices are spread over the intervals of
    their hour."""
    values = dict(row for path in prices for row in _rows(path))
    starts = tuple(sorted(values))
    step = min(right - left for left, right in pairwise(starts))
    ahead = None
    if day_ahead is not None:
        hourly = dict(_rows(day_ahead))
        ahead = np.array([hourly[start.replace(minute=0)] for start in starts])
    return Market(name, ZoneInfo(zone), starts, step, np.array([values[start] for start in starts]), ahead, published)


def _rows(path: Path) -> Iterator[tuple[datetime, float]]:
    """Start and price of every row; the price is the first column that is not the start."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open(encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            price = next(value for name, value in row.items() if name != "interval_start_utc")
            yield datetime.fromisoformat(row["interval_start_utc"].replace("Z", "+00:00")).astimezone(UTC), float(price)


Chooser = Callable[[int, int, float], float]
"""From interval, end of its day and intervals of full power still owed to the share of full power now."""


def walk(made: Market, choose: Chooser, days: Days | None = None) -> Floats:
    """Live through the days (all of them): what is chosen is kept inside what the day still allows and owes."""
    run = np.zeros(len(made.price))
    for first, last in made.days() if days is None else days:
        owed = DUTY * (last - first)
        for index in range(first, last):
            if owed <= 1e-9:
                break
            asked = choose(index, last, owed)
            run[index] = max(0.0, owed - (last - index - 1), min(1.0, owed, asked))
            owed -= run[index]
    return run
