"""How likely an interval is the grid's coincident peak, from the forecast of the grid's load and the peaks so far.

The rule, in two factors. *Is this one of the peak days?* Days of a season are taken as exchangeable: any order of
their peaks is equally likely. Of `seen` days (past and forecast) a day has rank k; counting how the `unseen` ones can
fall between them, the number J of those that will lie above it has P(J = j) = C(k-1+j, j) * C(seen-k+unseen-j,
unseen-j) / C(seen+unseen, unseen), and the day is among the `top` highest with P(J <= top - k).
*Which interval of that day?* Each interval's load is its forecast plus an error; for independent Gumbel errors of scale
s the chance to be the highest is exp(load / s) over the sum of all (Luce 1959, McFadden 1974), s being `load_error`
times the day's peak. No figure of the site enters: the grid does not know us.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta, tzinfo
from math import comb, exp

from optimizer.domain import Series
from optimizer.timegrid import TimeGrid, local_day

LIKELY = 0.02
"""Sum of probabilities from which a window is worth a sentence."""


@dataclass(frozen=True)
class PeakRule:
    """What counts as coincident peak: the `top` highest days of each season, and in each of them the highest interval
    of length `interval`. A season is every one of `months` alone (`by_month`: 4CP, 12CP) or all of them together (5CP).
    `load_error` is the relative error of the load's forecast."""

    zone: tzinfo
    months: frozenset[int]
    by_month: bool = True
    top: int = 1
    interval: timedelta = timedelta(hours=1)
    load_error: float = 0.01

    def season(self, day: date) -> tuple[date, ...]:
        """All days of the season that holds `day`; none where no peak is counted."""
        if day.month not in self.months:
            return ()
        months = {day.month} if self.by_month else self.months
        first = date(day.year, 1, 1)
        return tuple(d for n in range(366) if (d := first + timedelta(days=n)).year == day.year and d.month in months)


def in_top(rank: int, seen: int, unseen: int, top: int) -> float:
    """Probability that the day with `rank` (1: the highest) of `seen` days is among the `top` highest when `unseen`
    days more are known."""
    above = range(min(unseen, top - rank) + 1)
    ways = sum(comb(rank - 1 + j, j) * comb(seen - rank + unseen - j, unseen - j) for j in above)
    return ways / comb(seen + unseen, unseen)


def shares(load: tuple[float, ...], load_error: float) -> tuple[float, ...]:
    """Probability of each interval to have the day's highest load, given that one of them has."""
    peak = max(load)
    scale = max(load_error * abs(peak), 1e-9)
    weights = [exp((value - peak) / scale) for value in load]
    return tuple(weight / sum(weights) for weight in weights)


def slots(day: date, rule: PeakRule) -> list[tuple[datetime, datetime]]:
    """The metering intervals of a local day, in UTC."""
    start, end = local_day(day, rule.zone)
    count = -(-(end - start) // rule.interval)
    return [(start + n * rule.interval, min(end, start + (n + 1) * rule.interval)) for n in range(count)]


def day_load(load: Series, day: date, rule: PeakRule, until: datetime | None = None) -> dict[datetime, float]:
    """Mean load of each metering interval of a local day that is known (and has ended by `until`), by its start."""
    found = {a: load.mean(a, b) for a, b in slots(day, rule) if until is None or b <= until}
    return {start: value for start, value in found.items() if value is not None}


def probabilities(grid: TimeGrid, load: Series, rule: PeakRule, past_peaks: Mapping[date, float]) -> tuple[float, ...]:
    """Expected coincident peaks in each interval of `grid` (see `CoincidentCharge.probability`).

    `load` is the grid's load, known or forecast, over the whole local days that the grid touches; an interval of it
    that is missing takes no part. `past_peaks`: highest load of days before, by local date.
    """
    chances = [0.0] * len(grid)
    first, last = (moment.astimezone(rule.zone).date() for moment in (grid.start, grid.starts[-1]))
    days = [first + timedelta(days=n) for n in range((last - first).days + 1)]
    loads = {day: values for day in days if rule.season(day) and (values := day_load(load, day, rule))}
    peaks = {day: peak for day, peak in past_peaks.items() if day < first}
    peaks |= {day: max(values.values()) for day, values in loads.items()}
    for day, values in loads.items():
        season = [d for d in rule.season(day) if d in peaks]
        rank = 1 + sum(peaks[d] > peaks[day] for d in season)
        likely = in_top(rank, len(season), len(rule.season(day)) - len(season), rule.top)
        for start, share in zip(values, shares(tuple(values.values()), rule.load_error), strict=True):
            _spread(grid, start, start + rule.interval, likely * share, chances)
    return tuple(chances)


def _spread(grid: TimeGrid, start: datetime, end: datetime, chance: float, chances: list[float]) -> None:
    """Add a metering interval's chance to the intervals of the plan that it overlaps, by the share of time."""
    if chance <= 0 or end <= grid.start or start >= grid.end:
        return
    for t in range(grid.index(max(start, grid.start)), len(grid)):
        if grid.edges[t] >= end:
            return
        chances[t] += chance * grid.overlap_h(t, start, end) * 3600.0 / (end - start).total_seconds()


def likely_window(grid: TimeGrid, probability: tuple[float, ...]) -> tuple[datetime, datetime, float] | None:
    """The unbroken run of intervals around the likeliest in which the peak is at least half as likely (per hour), and
    the sum of its probabilities; None where hardly anything is expected."""
    density = [chance / hours for chance, hours in zip(probability, grid.hours, strict=True)]
    top = max(range(len(grid)), key=density.__getitem__)
    first = last = top
    while first > 0 and density[first - 1] >= density[top] / 2:
        first -= 1
    while last + 1 < len(grid) and density[last + 1] >= density[top] / 2:
        last += 1
    total = sum(probability[first : last + 1])
    return (grid.edges[first], grid.edges[last + 1], total) if total >= LIKELY else None
