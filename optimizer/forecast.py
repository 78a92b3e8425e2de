"""What a signal will be past what is known of it, and any signal laid on the plan's grid.

Why so plain: the shape of the day repeats, and the mean of the same local hour over the last days is hard to beat
without weather and outages. What helps more is to say aloud from when on a price is a guess. The history used is what
the caller could know at the time: sources tell nothing that was not yet published.

Order of belief for each hour that is not known: what is learned from the errors of the last weeks, where there are
two of them or more (`forecast_learned`); a second signal (day-ahead prices for real-time ones) corrected by how far off
it was last; the last day again, where it was like none before; the same local hour of the last days, corrected
likewise; the last value for a while; the declared worst case; the mean of all that is known. Nothing is ever assumed to
be 0, and a forecast that reads 0 is not believed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import pairwise

import numpy as np

from optimizer.domain import Series, Span
from optimizer.forecast_errors import Floats
from optimizer.forecast_learned import Fan, Recall, look_ahead
from optimizer.forecasters import Forecaster
from optimizer.quality import Window, gaps, span_text, stamp
from optimizer.reasons import Note, Reason, Severity
from optimizer.timegrid import TimeGrid, floor_time

HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Outlook:
    """How to look ahead. `days` of history count; the latest error fades with `error_half_life` (0: no correction).

    Without a profile the last value is held for `hold`, then `worst` is assumed (None: the mean of what is known).
    `low` and `high` bound what a correction may produce (a load lies between 0 and 1). With `recall_days` of history
    errors are learned (0: never), a day of the other kind (weekend for a weekday) counting `other_kind`. `share`: not
    the mean but the value that is not exceeded with this probability, to be on the safe side. `tail`: how much of what
    rare high paths add to the middle counts in what is reckoned with (1: all of it, the mean). `forecaster` learns.
    """

    zone: tzinfo = UTC
    days: int = 14
    error_half_life: timedelta = timedelta(hours=2)
    hold: timedelta = timedelta(hours=1)
    worst: float | None = None
    low: float = float("-inf")
    high: float = float("inf")
    recall_days: int = 60
    other_kind: float = 1.0
    share: float | None = None
    tail: float = 1.0
    forecaster: Forecaster = look_ahead

    @property
    def recall(self) -> Recall | None:
        """How errors are learned; None: not at all."""
        return (
            Recall(self.zone, self.recall_days, self.other_kind) if self.recall_days and self.error_half_life else None
        )


LOAD = Outlook(worst=1.0, low=0.0, high=1.0, other_kind=0.1)
"""For the load of a pool: where nothing tells otherwise, every GPU is taken to be busy."""

PRICE = Outlook(tail=0.5)
"""For a price that is planned anew in every interval (docs/decisions/0008)."""

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
    extended, notes, _ = _extended(series, (start, until), outlook, history, reference)
    return extended, notes


def _extended(
    series: Series, window: Window, outlook: Outlook, history: Series | None, reference: Series | None
) -> tuple[Series, tuple[Note, ...], Fan | None]:
    """`extend`, and the fan behind the end of the window where one was learned."""
    start, until = window
    holes = gaps(series.spans, window)
    if not holes:
        return series, (), None
    past = series if history is None else history
    known, doubts = _believed(reference, start)
    profile = _Profile(past, max((span.end for span in series.spans[-1:]), default=start), outlook)
    filled: list[tuple[Span, str]] = []
    fan = None
    for hole in holes:
        fan = _fan(past, known, hole, outlook) if hole[1] >= until else None
        if fan is not None:
            filled += _learned(fan, past, known, hole, outlook)
            continue
        last = _last_known(series, hole[0]) or _last_known(past, hole[0])
        guess = _guesser(profile, last, known, outlook)
        for left, right in _hours(hole):
            if (found := guess(left, right)) is not None:
                filled.append((Span(left, right, min(outlook.high, max(outlook.low, found[0]))), found[1]))
    if not filled:
        text = f"{series.name}: nothing is known of it, and nothing is declared to be assumed"
        return series, (Note(Reason.SIGNAL_LOST, series.name, text, Severity.ALERT, start),), None
    spans = sorted((*series.spans, *(span for span, _ in filled)), key=lambda span: span.start)
    said = (*doubts, _forecast_note(series, holes, filled, until))
    return replace(series, spans=tuple(spans)), said, fan


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
    expected = expect(series, grid, outlook, history, reference)
    return expected.values, expected.notes


@dataclass(frozen=True)
class Expected:
    """A signal on a grid, with what is to be said of it. `paths` [path, interval] are ways in which it may come; None
    where all is known, or too little to learn from."""

    values: tuple[float, ...]
    notes: tuple[Note, ...]
    paths: Floats | None = None


def expect(
    series: Series, grid: TimeGrid, outlook: Outlook, history: Series | None = None, reference: Series | None = None
) -> Expected:
    """`forecast_on_grid`, with the paths behind it. What is known is the same in all of them."""
    window = (grid.start, grid.end)
    extended, notes, fan = _extended(series, window, outlook, history, reference)
    values = on_grid(extended, grid)
    if fan is None:
        return Expected(values, notes)
    begin = gaps(series.spans, window)[-1][0]
    return Expected(values, notes, _paths(extended, fan, begin, grid, outlook))


def _paths(extended: Series, fan: Fan, begin: datetime, grid: TimeGrid, outlook: Outlook) -> Floats:
    """The fan's paths on the grid from `begin` on, and before it what is known: means over each interval."""
    step = np.arange(fan.paths.shape[1])
    edges = np.array([(edge - fan.start) / fan.step for edge in grid.edges])
    left = np.maximum(edges[:-1], (begin - fan.start) / fan.step)
    inside = np.clip(np.minimum(edges[1:, None], step + 1) - np.maximum(left[:, None], step), 0.0, None)
    share = inside / np.diff(edges)[:, None]
    known = np.zeros(len(grid))
    for t, (start, end) in enumerate(pairwise(grid.edges)):
        if start < begin:
            ends = min(end, begin)
            known[t] = (extended.mean(start, ends) or 0.0) * ((ends - start) / (end - start))
    paths: Floats = known + np.clip(fan.about(outlook.tail), outlook.low, outlook.high) @ share.T
    return paths


def without_zeros(series: Series, start: datetime) -> tuple[Series, tuple[Note, ...]]:
    """The series without what it says to be exactly 0 from `start` on: sources write 0 for what they don't know yet.

    Where one in a hundred of its past values is 0 it is a signal that can be (a free tariff, a load at rest).
    """
    doubted = [span for span in series.spans if span.start >= start and span.value == 0.0]
    past = [span.value == 0.0 for span in series.spans if span.start < start]
    if not doubted or sum(past) * 100 > len(past):
        return series, ()
    text = f"{series.name}: reads 0 for {span_text(doubted)}; a forecast of 0 is not believed"
    kept = tuple(span for span in series.spans if span.start < start or span.value != 0.0)
    return replace(series, spans=kept), (Note(Reason.FORECAST_ZERO, series.name, text, Severity.WARNING, start),)


def _believed(reference: Series | None, start: datetime) -> tuple[Series | None, tuple[Note, ...]]:
    return (None, ()) if reference is None else without_zeros(reference, start)


def _fan(past: Series, reference: Series | None, hole: Window, outlook: Outlook) -> Fan | None:
    """What the errors of the last weeks teach of a hole; None where there is too little to learn from."""
    recall = outlook.recall
    return outlook.forecaster(past, reference, *hole, recall) if recall else None


def _learned(
    fan: Fan, past: Series, reference: Series | None, hole: Window, outlook: Outlook
) -> list[tuple[Span, str]]:
    """Spans of a hole by a fan."""
    values = fan.reckoned(outlook.tail) if outlook.share is None else fan.quantile(outlook.share)
    guessed = np.clip(values, outlook.low, outlook.high)
    of = "its usual day" if reference is None else reference.name
    how = f"by {of} and the errors of the last {outlook.recall_days} days"
    spans = fan.series(past.name, past.unit, guessed, hole[1]).spans
    return [(replace(span, start=max(span.start, hole[0])), how) for span in spans if span.end > hole[0]]


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
        if (value := profile.again(left)) is not None:
            return value, f"by its last day again, which is like none of the last {outlook.days}"
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
    all days. After a day like none of them, that day: what was never seen before is not to be trusted to end soon."""

    def __init__(self, history: Series, end: datetime, outlook: Outlook) -> None:
        self._zone = outlook.zone
        alike: dict[tuple[bool, int], list[float]] = {}
        hours: dict[int, list[float]] = {}
        everything: list[tuple[int, float]] = []
        at = floor_time(end, HOUR) - timedelta(days=outlook.days)
        while at < end:
            value = history.mean(at, min(at + HOUR, end))
            if value is not None:
                local = at.astimezone(self._zone)
                alike.setdefault((local.weekday() >= 5, _minute(local)), []).append(value)
                hours.setdefault(_minute(local), []).append(value)
                everything.append((_minute(local), value))
            at += HOUR
        self._alike = {key: _level(values, outlook.share) for key, values in alike.items() if len(values) >= 2}
        self._hours: Mapping[int, float] = {key: _level(values, outlook.share) for key, values in hours.items()}
        self.overall = _mean([value for _, value in everything]) if everything else None
        self._again = dict(everything[-24:]) if _like_none_before([value for _, value in everything]) else {}

    def mean(self, left: datetime, right: datetime) -> float | None:
        """Profile of the hour that holds `left` (guesses never span two)."""
        local = floor_time(left, HOUR).astimezone(self._zone)
        return self._alike.get((local.weekday() >= 5, _minute(local)), self._hours.get(_minute(local)))

    def again(self, left: datetime) -> float | None:
        """The same hour of a last day that was like none before it; None after a usual day."""
        return self._again.get(_minute(floor_time(left, HOUR).astimezone(self._zone)))


def _like_none_before(hours: list[float]) -> bool:
    """Whether the last day of hourly values is another world: half of it further from the usual value than that is from
    0 and than the middle half of all hours before is wide (where prices are about 0, twice nothing is nothing), and
    beyond three quarters of them. Medians, so that a spike of an hour or a night is no such day; at least two days must
    be known before it."""
    before, day = np.array(hours[:-24]), hours[-24:]
    if len(before) < 48:
        return False
    usual, level = float(np.median(before)), float(np.median(day))
    low, high = np.quantile(before, (0.25, 0.75)).tolist()
    return abs(level - usual) > max(abs(usual), high - low) and not low <= level <= high


def _minute(local: datetime) -> int:
    return local.hour * 60 + local.minute


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _level(values: list[float], share: float | None) -> float:
    """The mean, or the value that is not exceeded with a probability."""
    return _mean(values) if share is None else float(np.quantile(values, share))


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
