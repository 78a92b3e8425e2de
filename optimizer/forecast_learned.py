"""A signal's future as a fan of paths: what is expected of each hour, and how errors went on from where they are now.

Why one fan for all: its mean is the forecast, its quantiles are the bands, its paths are the scenarios; three models
would contradict each other. All is learned up to the last local midnight, so that a day is planned with one model, and
nothing but what `history` and `reference` hold is looked at: they must be public.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo

import numpy as np

from optimizer.domain import Series, Span
from optimizer.forecast_base import profile, samples, slots, smooth, step_of
from optimizer.forecast_errors import ErrorModel, Floats, learn, present, scale_of, size_of
from optimizer.timegrid import floor_time

HOUR = timedelta(hours=1)
TAIL_DAYS = 3
ERROR_HALF_LIFE_H = 6.0
"""How fast the last error fades beside a second signal, in the second opinion (docs/decisions/0034)."""


@dataclass(frozen=True)
class Fan:
    """Values [path, interval] of consecutive steps from `start` on. `second`: another opinion of what to reckon with,
    NaN where there is none. `practice`: the share of the days that could teach the paths which did (1: all)."""

    start: datetime
    step: timedelta
    paths: Floats
    scale: float = 1.0
    second: Floats | None = None
    practice: float = 1.0

    @property
    def mean(self) -> Floats:
        """What to expect: money is linear in prices, so the mean is what a plan needs."""
        values: Floats = self.paths.mean(axis=0)
        return values

    @property
    def middle(self) -> Floats:
        """The mean on the scale of asinh(value / scale), on which rare high paths weigh little."""
        values: Floats = self.scale * np.sinh(np.arcsinh(self.paths / self.scale).mean(axis=0))
        return values

    def reckoned(self, tail: float) -> Floats:
        """What a plan that is made anew in every interval should reckon with: `tail` 1 is the mean, 0 the middle.

        The mean holds all of the rare high paths, but who may still wait or hurry when one begins doesn't pay for all
        of them: E[min] <= min E. The less is known of an hour, the more the two differ, so that the mean alone makes
        hours look dearer for being far away. Where there is a second opinion, which nobody had to learn: halfway
        between the two, and so much nearer to it as the first was learned from less.
        """
        middle = self.middle
        first = middle + tail * (self.mean - middle)
        if self.second is None:
            return first
        return np.where(np.isfinite(self.second), self.second + self.practice / 2.0 * (first - self.second), first)

    def about(self, tail: float) -> Floats:
        """The paths, moved so that their mean is what is reckoned with: scenarios of the plan that it is made for."""
        paths: Floats = self.paths + (self.reckoned(tail) - self.mean)
        return paths

    def quantile(self, share: float) -> Floats:
        """The value that is not exceeded with this probability, for each step."""
        values: Floats = np.quantile(self.paths, share, axis=0)
        return values

    def series(self, name: str, unit: str, values: Floats, until: datetime) -> Series:
        """One value a step as a series that ends at `until`."""
        spans = []
        for number, value in enumerate(values.tolist()):
            left = self.start + number * self.step
            if left < until:
                spans.append(Span(left, min(until, left + self.step), value))
        return Series(name, unit, tuple(spans))


@dataclass(frozen=True)
class Learned:
    """A signal learned up to a local midnight. `base` is what is expected of each step from `start` on, on the asinh
    scale, through the history and as far ahead as was asked; `told` is what a second signal says of them (NaN: nothing;
    None: there is none); `midnight` is the number of the day's first step; `practice` is the share of the days to learn
    from that are known."""

    start: datetime
    step: timedelta
    midnight: int
    base: Floats
    model: ErrorModel
    told: Floats | None = None
    practice: float = 1.0

    def fan(self, recent: Floats, known: int, until: int, lead: int = 1) -> Fan | None:
        """Paths of steps `known` + `lead` - 1 up to `until`, where `known` steps are known and `recent` are the last of
        them (three days are enough). None where the last one is a gap."""
        model, step_h = self.model, self.step / HOUR
        tail = self.base[known - len(recent) : known]
        now = present(recent, tail, model.scale, step_h, known - self.midnight)
        first = known + lead - 1
        if now is None or until <= first:
            return None
        paths = model.ahead(now, self.base[first:until], lead)
        second = self._second(recent, known, first, until)
        return Fan(self.start + first * self.step, self.step, paths, model.scale, second, self.practice)

    def _second(self, recent: Floats, known: int, first: int, until: int) -> Floats | None:
        """What the second signal says of steps [first, until), and its last error in money, which fades: no further
        than what was seen lately or is told, since the error of a spike that didn't come is no error of quiet hours.

        Far from usual prices the same error is much less on the asinh scale; neither view is always right.
        """
        if self.told is None or not np.isfinite(self.told[known - 1]):
            return None
        told, error = self.told[first:until], float(recent[-1]) - float(self.told[known - 1])
        age_h = np.arange(first - known + 1, until - known + 1) * (self.step / HOUR)
        low, high = np.minimum(told, np.nanmin(recent)), np.maximum(told, np.nanmax(recent))
        second: Floats = np.clip(told + error * np.power(0.5, age_h / ERROR_HALF_LIFE_H), low, high)
        return second


@dataclass(frozen=True, slots=True)
class Recall:
    """How to learn: so many `days` of history; days begin at midnight in `zone`; what a day of the other kind (weekend
    for a weekday) counts for the shape of a day (prices: as much as any; loads: little)."""

    zone: tzinfo
    days: int = 60
    other_kind: float = 1.0


@dataclass(frozen=True)
class Past:
    """A signal up to a local midnight, and what is expected of it without its errors: `values` [step] from `start` on
    (NaN: a gap), `base` on the scale of asinh(value / scale), through them and as far ahead as was asked, and so far
    what a second signal tells (`told`, on its own scale; None: there is none)."""

    start: datetime
    step: timedelta
    values: Floats
    base: Floats
    scale: float
    told: Floats | None = None


def past_of(
    history: Series, reference: Series | None, midnight: datetime, until: datetime, recall: Recall
) -> Past | None:
    """The days before `midnight`, with what is expected up to `until`. None where nothing is known."""
    step = step_of(history)
    start = floor_time(midnight - timedelta(days=recall.days), step)
    known, total = (midnight - start) // step, -((start - until) // step)
    values = samples(history, start, step, known)
    if not np.isfinite(values).any():
        return None
    scale = scale_of(values)
    base = profile(size_of(values, scale), *slots(start, step, total, recall.zone), recall.other_kind)
    drawn = None
    if reference is not None:
        per_hour = round(HOUR / step)
        expected = samples(reference, floor_time(start, HOUR), step, total + per_hour)
        shift = (start - floor_time(start, HOUR)) // step
        drawn = smooth_known(expected, per_hour)[shift : shift + total]
        base = mixed(size_of(values, scale), base, size_of(drawn, scale))
    return Past(start, step, values, base, scale, drawn)


def learn_signal(
    history: Series, reference: Series | None, midnight: datetime, until: datetime, recall: Recall
) -> Learned | None:
    """Learn from the days before `midnight`, to look ahead up to `until`. None where too little is known."""
    past = past_of(history, reference, midnight, until, recall)
    return None if past is None else learned_of(past)


def learned_of(past: Past) -> Learned | None:
    """What a past teaches; None where that is too little."""
    known = len(past.values)
    model = learn(past.values, past.base[:known], past.scale, past.step / HOUR)
    practice = float(np.isfinite(past.values).mean())
    return None if model is None else Learned(past.start, past.step, known, past.base, model, past.told, practice)


def mixed(sizes: Floats, usual: Floats, told: Floats) -> Floats:
    """What is expected of each step from its usual day and a second signal (day-ahead prices), all on the asinh scale:
    the second, moved towards the usual day by the share that would have been best so far (least squares, 0 to 1). The
    usual day alone where the second is not known.

    Combining forecasts by their past errors: Bates and Granger, Oper. Res. Quarterly 20 (1969).
    """
    apart, error = (usual - told)[: len(sizes)], sizes - told[: len(sizes)]
    seen = np.isfinite(apart) & np.isfinite(error)
    square = float((apart[seen] ** 2).sum())
    share = min(1.0, max(0.0, float((apart[seen] * error[seen]).sum()) / square)) if square > 0 else 0.0
    both = np.where(np.isfinite(usual), told + share * (usual - told), told)
    result: Floats = np.where(np.isfinite(told), both, usual)
    return result


def smooth_known(values: Floats, per_hour: int) -> Floats:
    """`smooth` for each unbroken run of whole hours."""
    result = values.copy()
    finite = np.isfinite(values[: len(values) // per_hour * per_hour]).reshape(-1, per_hour).all(axis=1)
    edges = np.flatnonzero(np.diff(np.concatenate(([0], finite.astype(np.int8), [0]))))
    for left, right in zip(edges[::2] * per_hour, edges[1::2] * per_hour, strict=True):
        result[left:right] = smooth(values[left:right], per_hour)
    return result


def look_ahead(
    series: Series, reference: Series | None, start: datetime, until: datetime, recall: Recall
) -> Fan | None:
    """The fan of [start, until) for a signal that is known up to `start`; None where too little is known to learn from,
    or the last step before `start` is not."""
    learned = learn_signal(series, reference, midnight_before(start, recall.zone), until, recall)
    return None if learned is None else fan_of(learned, series, start, until)


def midnight_before(moment: datetime, zone: tzinfo) -> datetime:
    """The last local midnight until `moment`."""
    local = moment.astimezone(zone)
    return local.replace(hour=0, minute=0, second=0, microsecond=0).astimezone(moment.tzinfo)


def fan_of(learned: Learned, series: Series, start: datetime, until: datetime) -> Fan | None:
    """What a model says of [start, until) when the series is known up to `start`; None where its last step is not."""
    known = (start - learned.start) // learned.step  # a part of a step before `start` waits for its end
    tail = min(known, TAIL_DAYS * round(24 * HOUR / learned.step))
    recent = samples(series, learned.start + (known - tail) * learned.step, learned.step, tail)
    return learned.fan(recent, known, -((learned.start - until) // learned.step))
