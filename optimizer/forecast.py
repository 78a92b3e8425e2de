"""What a signal will be past what is known of it, and any signal laid on the plan's grid.

Why so plain: the shape of the day repeats, and the mean of the same local hour over the last days is hard to beat
without weather and outages. What helps more is to say aloud from when on a price is a guess. The history used is what
the caller could know at the time: sources tell nothing that was not yet published.

Order of belief for each hour that is not known: a second signal (day-ahead prices for real-time ones) corrected by how
far off it was last; the same local hour of the last days, corrected likewise; the last value for a while; the declared
worst case; the mean of all that is known. Nothing is ever assumed to be 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import pairwise

from optimizer.domain import Series, Span
from optimizer.quality import Window, gaps, span_text, stamp
from optimizer.reasons import Note, Reason, Severity
from optimizer.timegrid import TimeGrid, floor_time

HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Outlook:
    """How to look ahead. `days` of history count; the latest error fades with `error_half_life` (0: no correction).

    Without a profile the last value is held for `hold`, then `worst` is assumed (None: the mean of what is known).
    `low` and `high` bound what a correction may produce (a load lies between 0 and 1).
    """

    zone: tzinfo = UTC
    days: int = 14
    error_half_life: timedelta = timedelta(hours=2)
    hold: timedelta = timedelta(hours=1)
    worst: float | None = None
    low: float = float("-inf")
    high: float = float("inf")


LOAD = Outlook(worst=1.0, low=0.0, high=1.0)
"""For the load of a pool: where nothing tells otherwise, every GPU is taken to be busy."""

Guess = tuple[float, str]


def extend(
    series: Series,
    start: datetime,
    until: datetime,
    outlook: Outlook,
    history: Series | None = None,
    reference: Series | None = None,
) -> tuple[Series, tuple[Note, ...]]:
    """`series` with every gap of [start, until) filled by a forecast, and a note that says from when on and how.

    `history` (default: the series itself) and `reference` must hold only what is public now. When nothing at all is
    known and `outlook.worst` is None, the series comes back as it is, with a SIGNAL_LOST note.
    """
    holes = gaps(series.spans, (start, until))
    if not holes:
        return series, ()
    past = series if history is None else history
    profile = _Profile(past, max((span.end for span in series.spans[-1:]), default=start), outlook)
    filled: list[tuple[Span, str]] = []
    for hole in holes:
        last = _last_known(series, hole[0]) or _last_known(past, hole[0])
        guess = _guesser(profile, last, reference, outlook)
        for left, right in _hours(hole):
            if (found := guess(left, right)) is not None:
                filled.append((Span(left, right, min(outlook.high, max(outlook.low, found[0]))), found[1]))
    if not filled:
        text = f"{series.name}: nothing is known of it, and nothing is declared to be assumed"
        return series, (Note(Reason.SIGNAL_LOST, series.name, text, Severity.ALERT, start),)
    spans = sorted((*series.spans, *(span for span, _ in filled)), key=lambda span: span.start)
    return replace(series, spans=tuple(spans)), (_forecast_note(series, holes, filled, until),)


def on_grid(series: Series, grid: TimeGrid) -> tuple[float, ...]:
    """Mean over each interval, so that value times hours adds up to the same; ValueError where a value is missing."""
    values = []
    for left, right in pairwise(grid.edges):
        value = series.mean(left, right)
        if value is None:
            raise ValueError(f"{series.name} has no value for some of {stamp(left)} to {stamp(right)}")
        values.append(value)
    return tuple(values)


def forecast_on_grid(
    series: Series, grid: TimeGrid, outlook: Outlook, history: Series | None = None, reference: Series | None = None
) -> tuple[tuple[float, ...], tuple[Note, ...]]:
    """`extend` over the whole grid, then `on_grid`; ValueError only when nothing at all is known or declared."""
    extended, notes = extend(series, grid.start, grid.end, outlook, history, reference)
    return on_grid(extended, grid), notes


# ---------------------------------------------------------------- the guesses, best first
def _guesser(
    profile: _Profile, last: Span | None, reference: Series | None, outlook: Outlook
) -> Callable[[datetime, datetime], Guess | None]:
    """A function that guesses the mean of [left, right) in a hole after `last`, or None when nothing is known."""
    by_reference = None if reference is None else _corrected(reference.mean, last, outlook)
    by_profile = _corrected(profile.mean, last, outlook)

    def guess(left: datetime, right: datetime) -> Guess | None:
        if by_reference and (value := by_reference(left, right)) is not None:
            return value, f"by {reference.name if reference else ''}"
        if (value := by_profile(left, right)) is not None:
            return value, f"by the same hour of the last {outlook.days} days"
        if last is not None and left - last.end < outlook.hold:
            return last.value, "by its last value"
        if outlook.worst is not None:
            return outlook.worst, f"as {outlook.worst:g}, the worst case"
        return None if profile.overall is None else (profile.overall, "by the mean of what is known")

    return guess


Mean = Callable[[datetime, datetime], float | None]


def _corrected(mean: Mean, last: Span | None, outlook: Outlook) -> Mean:
    """`mean` plus its error at the last known value, fading with the half-life."""
    half_life = outlook.error_half_life
    expected = mean(last.start, last.end) if last is not None and half_life else None
    if last is None or expected is None:
        return mean
    error = last.value - expected

    def corrected(left: datetime, right: datetime) -> float | None:
        value = mean(left, right)
        if value is None:
            return None
        age = max(timedelta(0), left + (right - left) / 2 - last.end)
        return value + error * math.pow(0.5, age / half_life)

    return corrected


class _Profile:
    """Mean by local hour of the last days: of the same kind of day (weekend or not) where there are two such, else of
    all days."""

    def __init__(self, history: Series, end: datetime, outlook: Outlook) -> None:
        self._zone = outlook.zone
        alike: dict[tuple[bool, int], list[float]] = {}
        hours: dict[int, list[float]] = {}
        everything: list[float] = []
        at = floor_time(end, HOUR) - timedelta(days=outlook.days)
        while at < end:
            value = history.mean(at, min(at + HOUR, end))
            if value is not None:
                local = at.astimezone(self._zone)
                alike.setdefault((local.weekday() >= 5, _minute(local)), []).append(value)
                hours.setdefault(_minute(local), []).append(value)
                everything.append(value)
            at += HOUR
        self._alike = {key: _mean(values) for key, values in alike.items() if len(values) >= 2}
        self._hours: Mapping[int, float] = {key: _mean(values) for key, values in hours.items()}
        self.overall = _mean(everything) if everything else None

    def mean(self, left: datetime, right: datetime) -> float | None:
        """Profile of the hour that holds `left` (guesses never span two)."""
        local = floor_time(left, HOUR).astimezone(self._zone)
        return self._alike.get((local.weekday() >= 5, _minute(local)), self._hours.get(_minute(local)))


def _minute(local: datetime) -> int:
    return local.hour * 60 + local.minute


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _last_known(series: Series, moment: datetime) -> Span | None:
    """The last value that began before `moment`; of a long one, only its last hour before then."""
    last = next((span for span in reversed(series.spans) if span.start < moment), None)
    return None if last is None else replace(last, start=max(last.start, last.end - HOUR))


def _hours(hole: Window) -> Iterator[Window]:
    """A hole cut at whole hours of UTC."""
    left, right = hole
    while left < right:
        end = min(right, floor_time(left, HOUR) + HOUR)
        yield left, end
        left = end


def _forecast_note(series: Series, holes: tuple[Window, ...], filled: list[tuple[Span, str]], until: datetime) -> Note:
    """One note: from when on the signal is forecast, which holes before were filled, and by what."""
    how = ", then ".join(dict.fromkeys(method for _, method in filled))
    ends = holes[-1][1] >= until
    inner = [Span(left, right, 0.0) for left, right in (holes[:-1] if ends else holes)]
    where = [f"for {span_text(inner)}"] if inner else []
    where += [f"from {stamp(holes[-1][0])} on"] if ends else []
    text = f"{series.name} is forecast {' and '.join(where)}, {how}"
    severity = Severity.WARNING if inner or "last value" in how or "worst" in how else Severity.INFO
    return Note(Reason.SIGNAL_FORECAST, series.name, text, severity, holes[0][0])
