"""Faults that no single value shows: zeros that stand for nothing, and a series that is hours early or late.

Why here and not in the sources: each of these has come from more than one of them. A null read as 0 looks like free
power, which a plan falls for at once; a stamp read in the wrong zone moves every cheap hour into a dear one, and every
value of it is a price that could be.
Each rule asks for so much evidence that real markets hardly ever give it: the tests hold them to storms and heat waves,
in which nothing may be doubted.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from datetime import datetime, timedelta, tzinfo
from itertools import groupby
from math import isfinite, sqrt
from statistics import fmean, median

from optimizer.domain import Span

HOUR = timedelta(hours=1)
FURTHEST = 12
"""Hours by which a series is tried to be shifted, both ways."""
LEAST_SHIFT = 3
"""A shape moves by an hour or two from day to day; only more than this is a doubt of its own."""
NEW_HOURS = 20
SAMPLE = 64
DAYS = 7
ALIKE, UNLIKE, STEADY = 0.85, 0.2, 0.5
"""Correlations with the profile of the last days: of a new day at its best shift; unshifted; and of each day before."""
SAME = 0.9
NIGHT = range(1, 5)
"""Local hours in which hardly any market's days have their peak for weeks."""


# ---------------------------------------------------------------- zeros
def empty_zeros(spans: Sequence[Span], never: bool) -> list[Span]:
    """Values of exactly 0 that stand for no value. `never`: 0 cannot be (a grid's load, its carbon).

    Otherwise those that stand alone between values far from 0, and those with which the series ends after such: a price
    comes to 0 by way of small ones.
    """
    if not any(span.value == 0.0 for span in spans):
        return []
    if never:
        return [span for span in spans if span.value == 0.0]
    far = median(abs(span.value) for span in spans if span.value != 0.0) / 2 if any(s.value for s in spans) else 0.0
    found: list[Span] = []
    before: Span | None = None
    runs = [list(run) for _, run in groupby(spans, key=lambda span: span.value == 0.0)]
    for number, run in enumerate(runs):
        after = runs[number + 1][0] if number + 1 < len(runs) else None
        if run[0].value == 0.0 and before is not None:
            beside = [before.value] if after is None else [before.value, after.value]
            if all(abs(value) > far for value in beside):
                found += run
        before = run[-1]
    return found


# ---------------------------------------------------------------- shifts
def restamped(fresh: Sequence[Span], known: Sequence[Span]) -> int | None:
    """Hours by which values known before come back later (negative: earlier); None where they are where they were."""
    if _mostly_where_they_were(fresh, known):
        return None
    values = {span.start: span.value for span in fresh}
    before = {span.start: span.value for span in known}
    common = [start for start in values if start in before]
    if len(common) < NEW_HOURS or _share_equal(values, before, timedelta(0), common) > 1 - SAME:
        return None
    for hours in sorted(range(-FURTHEST, FURTHEST + 1), key=abs):
        starts = [start for start in values if start - hours * HOUR in before]
        if hours and len(starts) >= NEW_HOURS and _share_equal(values, before, hours * HOUR, starts) > SAME:
            distinct = {values[start] for start in starts}
            return hours if len(distinct) > NEW_HOURS / 2 else None
    return None


def _mostly_where_they_were(fresh: Sequence[Span], known: Sequence[Span]) -> bool:
    """A look at a few values, which is enough nearly always; `known` is in order."""
    sample = fresh[:: max(1, len(fresh) // SAMPLE)]
    equal = 0
    for span in sample:
        place = bisect_left(known, span.start, key=lambda one: one.start)
        same_time = place < len(known) and known[place].start == span.start
        equal += same_time and abs(known[place].value - span.value) <= 1e-6 * max(1.0, abs(span.value))
    return equal * 4 > len(sample)


def _share_equal(
    values: dict[datetime, float], before: dict[datetime, float], shift: timedelta, starts: Sequence[datetime]
) -> float:
    equal = sum(abs(values[at] - before[at - shift]) <= 1e-6 * max(1.0, abs(values[at])) for at in starts)
    return equal / len(starts)


def out_of_shape(fresh: Sequence[Span], known: Sequence[Span]) -> int | None:
    """Hours by which the newest day of `fresh` lies later (negative: earlier) than the days before it did; None where
    it does not, or where the days before are too few or too unlike each other to tell.

    A day is 24 values, by the hour of UTC; each is compared in shape (correlation) with the mean of the days before.
    Both are in order.
    """
    if not fresh or not known:
        return None
    newer = fresh[bisect_left(fresh, known[-1].end, key=lambda span: span.start) :]
    if not newer or newer[-1].end - newer[0].start < NEW_HOURS * HOUR:
        return None
    new = _hourly(newer)
    if len(new) < NEW_HOURS:
        return None
    first = min(new)
    old = _hourly(known)
    days = [[old.get(first - back * 24 * HOUR + n * HOUR) for n in range(24)] for back in range(1, DAYS + 1)]
    whole = [[value for value in day if value is not None] for day in days]
    if any(len(day) < 24 for day in whole):
        return None
    shapes = [_shape(day) for day in whole]
    profile = [fmean(values) for values in zip(*shapes, strict=True)]
    if min(_alike(shape, profile) for shape in shapes) < STEADY:
        return None
    today = [(n, new[first + n * HOUR]) for n in range(24) if first + n * HOUR in new]
    scores = {
        hours: _alike([value for _, value in today], [profile[(n - hours) % 24] for n, _ in today])
        for hours in range(-FURTHEST + 1, FURTHEST + 1)
    }
    best = max(scores, key=lambda hours: scores[hours])
    return best if abs(best) >= LEAST_SHIFT and scores[best] >= ALIKE and scores[0] <= UNLIKE else None


def peak_at_night(spans: Sequence[Span], zone: tzinfo) -> int | None:
    """The local hour of the usual day's peak, where that lies in the dead of night over the last ten days or a week.

    Of finer intervals those on the hour are looked at: this is asked of every reading.
    """
    by_hour: dict[int, list[float]] = {}
    for start, value in _on_the_hour(spans):
        by_hour.setdefault(start.astimezone(zone).hour, []).append(value)
    if len(by_hour) < 24 or min(map(len, by_hour.values())) < DAYS:
        return None
    mean = {hour: median(values) for hour, values in by_hour.items()}
    peak = max(mean, key=lambda hour: mean[hour])
    low, high = min(mean.values()), mean[peak]
    flat = high - low <= 0.1 * max(abs(high), abs(low))
    return peak if peak in NIGHT and not flat else None


def _on_the_hour(spans: Sequence[Span]) -> list[tuple[datetime, float]]:
    """Start and value of the intervals that begin with an hour, in the last ten days of the series."""
    if not spans:
        return []
    since = spans[-1].end - 10 * 24 * HOUR
    first = bisect_left(spans, since, key=lambda span: span.start)
    return [(span.start, span.value) for span in spans[first:] if span.start.minute == 0 and span.start.second == 0]


def _hourly(spans: Sequence[Span]) -> dict[datetime, float]:
    """Mean of each whole hour of UTC that the spans touch, by its start; spans of more than an hour fill each."""
    sums: dict[datetime, tuple[float, float]] = {}
    for span in spans:
        at = span.start
        while at < span.end:
            hour = at.replace(minute=0, second=0, microsecond=0)
            until = min(span.end, hour + HOUR)
            seconds = (until - at).total_seconds()
            total, weight = sums.get(hour, (0.0, 0.0))
            sums[hour] = (total + span.value * seconds, weight + seconds)
            at = until
    return {hour: total / weight for hour, (total, weight) in sums.items() if isfinite(total)}


def _shape(values: Sequence[float]) -> list[float]:
    """The day without its level and height."""
    mean = fmean(values)
    size = sqrt(fmean((value - mean) ** 2 for value in values))
    return [(value - mean) / size if size else 0.0 for value in values]


def _alike(left: Sequence[float], right: Sequence[float]) -> float:
    """Pearson's correlation; 0 where one of the two is flat."""
    return fmean(a * b for a, b in zip(_shape(left), _shape(right), strict=True))
