"""Samples of a signal at one step length, and what is expected of each before its own errors are looked at.

Why samples: errors are compared over the same number of hours, which spans of any length don't allow. The day's shape
is that of the same local time of the last days, those of the same kind (weekend or not) counting most, each week half
as much as the next; or that of a second signal (day-ahead prices), drawn as slopes through its hours.
"""

from __future__ import annotations

from datetime import datetime, timedelta, tzinfo
from itertools import pairwise
from statistics import median_low

import numpy as np

from optimizer.domain import Series
from optimizer.forecast_errors import Floats

FINEST = timedelta(minutes=15)
HALF_LIFE_DAYS = 7.0


def step_of(series: Series) -> timedelta:
    """The usual length of its spans, between a quarter of an hour and an hour."""
    lengths = [span.end - span.start for span in series.spans[-200:]]
    usual = median_low(lengths) if lengths else timedelta(hours=1)
    return min(timedelta(hours=1), max(FINEST, usual))


def samples(series: Series, start: datetime, step: timedelta, count: int) -> Floats:
    """Means of `count` steps from `start` on, NaN where any part is a gap."""
    step_s = step.total_seconds()
    total, covered = np.zeros(count + 1), np.zeros(count + 1)
    for span in series.spans:
        left = (span.start - start).total_seconds() / step_s
        right = (span.end - start).total_seconds() / step_s
        if right <= 0 or left >= count:
            continue
        left, right = max(0.0, left), min(float(count), right)
        first, last = int(left), int(right)
        if first == last:
            total[first] += span.value * (right - left)
            covered[first] += right - left
            continue
        total[first] += span.value * (first + 1 - left)
        covered[first] += first + 1 - left
        total[first + 1 : last] += span.value
        covered[first + 1 : last] += 1.0
        total[last] += span.value * (right - last)
        covered[last] += right - last
    with np.errstate(invalid="ignore", divide="ignore"):
        values: Floats = np.where(covered > 1.0 - 1e-6, total / covered, np.nan)[:count]
    return values


def smooth(values: Floats, per_hour: int) -> Floats:
    """Hourly values, each repeated `per_hour` times from a whole hour on, drawn as one slope through every hour, which
    keeps its mean: the gentler one of those to its neighbours, none in a peak, a dip or at an end.

    Real-time prices don't jump at the hour as day-ahead ones do. A line from middle to middle, moved until the hour has
    its mean, would fall below all that was told where a peak ends (limited slopes: van Leer, J. Comput. Phys. 1979).
    """
    whole = len(values) // per_hour * per_hour
    hours = values[:whole].reshape(-1, per_hour)
    if per_hour == 1 or len(hours) < 2 or not np.isfinite(values).all() or np.ptp(hours, axis=1).any():
        return values
    steps = np.diff(hours[:, 0], prepend=hours[0, 0], append=hours[-1, 0])
    before, after = steps[:-1], steps[1:]
    slope = np.where(before * after > 0, np.sign(after) * np.minimum(np.abs(before), np.abs(after)), 0.0)
    place = (np.arange(per_hour) + 0.5) / per_hour - 0.5
    drawn = hours + slope[:, None] * place
    return np.concatenate((drawn.ravel(), values[whole:]))


def slots(start: datetime, step: timedelta, count: int, zone: tzinfo) -> tuple[Floats, Floats, Floats]:
    """Of each step: number of its local day from the first on, its place in the day, and whether it is a weekend."""
    day, place, weekend = np.empty(count), np.empty(count), np.empty(count)
    first, at = start.astimezone(zone).date(), start
    for index in range(count):
        local = at.astimezone(zone)
        day[index] = (local.date() - first).days
        place[index] = (local.hour * 60 + local.minute) // (step.total_seconds() / 60.0)
        weekend[index] = local.weekday() >= 5
        at += step
    return day, place, weekend


def profile(sizes: Floats, days: Floats, places: Floats, weekends: Floats, other_kind: float = 1.0) -> Floats:
    """What is expected of each sample from the days before its own: the weighted mean at the same local time. Days
    of the other kind (weekend for a weekday) count `other_kind`. Samples may reach beyond `sizes`. Nothing of a day is
    used for that day itself."""
    known = np.full(len(days), np.nan)
    known[: len(sizes)] = sizes
    width = int(places.max()) + 1
    expected = np.full(len(days), np.nan)
    sums, counts = np.zeros((2, width)), np.zeros((2, width))
    fade = 0.5 ** (1.0 / HALF_LIFE_DAYS)
    bounds = np.flatnonzero(np.diff(days, prepend=days[0] - 1, append=days[-1] + 1))
    for left, right in pairwise(bounds.tolist()):
        kind, place = int(weekends[left]), places[left:right].astype(np.int64)
        top = sums[kind] + other_kind * sums[1 - kind]
        bottom = counts[kind] + other_kind * counts[1 - kind]
        if bottom.sum() > 0:
            overall = top.sum() / bottom.sum()
            expected[left:right] = np.where(bottom > 0, top / np.maximum(bottom, 1e-12), overall)[place]
        sums *= fade
        counts *= fade
        seen = np.isfinite(known[left:right])
        np.add.at(sums[kind], place[seen], known[left:right][seen])
        np.add.at(counts[kind], place[seen], 1.0)
    return expected
