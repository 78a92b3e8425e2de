"""The gate that every signal passes before a plan may depend on it.

Why: most expensive mistakes begin with a quiet one on the way in: a missing price read as 0, cents taken for dollars, a
file that stopped growing days ago. Here each value is accepted, left out, or replaced by the last good one, and each
of these carries a reason that a person sees. Nothing is ever replaced by 0; negative prices and 9,000 $/MWh are real.
What is still missing afterwards is a gap, and gaps are the forecast's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, tzinfo
from enum import StrEnum
from math import isfinite
from statistics import median

from optimizer.domain import Series, Span
from optimizer.doubts import empty_zeros, out_of_shape, peak_at_night, restamped
from optimizer.reasons import Note, Reason, Severity
from optimizer.timegrid import local_day

Window = tuple[datetime, datetime]

# A revision corrects single values; when all of them move by this factor together, a unit has changed.
UNIT_JUMP = 100.0
LEAST_COMMON = 6


class Zero(StrEnum):
    """What a value of exactly 0 may be."""

    REAL = "real"
    DOUBTED = "doubted"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Due:
    """Until when, in minutes of the local day in `zone`, the next day's values must be there."""

    zone: tzinfo
    minutes: int


@dataclass(frozen=True, slots=True)
class GateRules:
    """What is asked of one signal. `cap` and `floor` are in `unit` (None: unbounded). When nine tenths of a day or more
    lie below `plausible_p90` in size, the unit is doubted aloud (values are kept: quiet markets exist).

    `zero`: whether 0 is a value like any other, never one, or none where it stands alone between large ones.
    `measured`: somebody else's values, which may come hours off; where `zone` is given, a daily peak in the dead of
    night is doubted aloud. `due`: when tomorrow is published, in minutes of the market's own day.
    """

    unit: str
    cap: float | None = None
    floor: float | None = None
    max_age_s: float = 48 * 3600.0
    plausible_p90: float | None = None
    zero: Zero = Zero.REAL
    measured: bool = False
    zone: tzinfo | None = None
    due: Due | None = None


class SignalState(StrEnum):
    """Verdict of the gate: as read; partly or wholly replaced by last good values; or not to be relied on."""

    OK = "ok"
    SUBSTITUTED = "substituted"
    LOST = "lost"


@dataclass(frozen=True)
class GateResult:
    """What passed. `age_s` is the age of the youngest knowledge used; a lost signal keeps only its past, as history.

    `series.published_at` dates the oldest part that was kept from before, so that it cannot be kept for ever.
    """

    series: Series
    notes: tuple[Note, ...]
    state: SignalState
    age_s: float


def gate(
    series: Series | None,
    previous: Series | None,
    rules: GateRules,
    now: datetime,
    window: Window,
    name: str = "signal",
) -> GateResult:
    """Judge what a source returned (None: it failed) against `rules`; `previous` is the last good series, if any.

    Every deviation is in the result's notes. `window` is what was asked of the source; `name` is used when there is
    no series to take it from.
    """
    if series is None:
        return _fall_back(name, previous, rules, now, ())
    if doubt := _unit_doubt(series, previous, rules) or _restamped(series, previous, rules, now):
        return _fall_back(series.name, previous, rules, now, (doubt,))
    spans, notes = _clean(series, rules)
    spans, shifted = _in_shape(series.name, spans, previous, rules, now)
    notes = (*notes, *shifted)
    if not spans:
        return _fall_back(series.name, previous, rules, now, (*series.notes, *notes))
    fresh = replace(series, spans=spans, notes=())
    kept, patches = _patched(fresh, previous, rules, now, window)
    age_s = max(_since(series.published_at, now), _coverage_age_s(kept.spans, now))
    doubts = (*_implausible(fresh, rules), *_at_night(fresh, rules), *_late(kept, rules, now, window))
    notes = (*series.notes, *notes, *patches, *doubts, *_gap_notes(kept, now, window))
    if age_s > rules.max_age_s:
        return _lost(kept, notes, age_s, rules, now)
    kept_by_source = any(note.code is Reason.STALE_SIGNAL for note in series.notes)
    replaced = len(spans) < len(series.spans) or bool(patches) or kept_by_source
    return GateResult(kept, notes, SignalState.SUBSTITUTED if replaced else SignalState.OK, age_s)


def _fall_back(
    name: str, previous: Series | None, rules: GateRules, now: datetime, notes: tuple[Note, ...]
) -> GateResult:
    """The last good series while it is young enough; otherwise the signal is lost."""
    if previous is None:
        empty = Series(name, rules.unit, ())
        text = f"{empty.name}: nothing usable was read, and there is no earlier reading"
        return GateResult(empty, (*notes, Note(Reason.SIGNAL_LOST, empty.name, text, Severity.ALERT, now)),
                          SignalState.LOST, float("inf"))  # fmt: skip
    age_s = max(_since(previous.published_at, now), _coverage_age_s(previous.spans, now))
    if age_s > rules.max_age_s:
        return _lost(previous, notes, age_s, rules, now)
    text = f"{previous.name}: not read now; the values known {duration_text(age_s)} ago are kept"
    stale = Note(Reason.STALE_SIGNAL, previous.name, text, Severity.WARNING, now)
    return GateResult(previous, (*notes, stale), SignalState.SUBSTITUTED, age_s)


def _lost(series: Series, notes: tuple[Note, ...], age_s: float, rules: GateRules, now: datetime) -> GateResult:
    """Too old: what it says about the future is dropped, what it recorded of the past stays as history."""
    past = tuple(Span(span.start, min(span.end, now), span.value) for span in series.spans if span.start < now)
    text = f"{series.name}: last known {duration_text(age_s)} ago, over {duration_text(rules.max_age_s)}; not relied on"
    note = Note(Reason.SIGNAL_LOST, series.name, text, Severity.ALERT, now)
    return GateResult(replace(series, spans=past), (*notes, note), SignalState.LOST, age_s)


# ---------------------------------------------------------------- values
def _clean(series: Series, rules: GateRules) -> tuple[tuple[Span, ...], tuple[Note, ...]]:
    """Spans that are finite, within bounds, in order and apart, and a note for each kind of fault left out."""
    empty = empty_zeros(series.spans, rules.zero is Zero.NEVER) if rules.zero is not Zero.REAL else []
    if not empty and _is_clean(series.spans, rules):
        return series.spans, ()
    low = float("-inf") if rules.floor is None else rules.floor
    high = float("inf") if rules.cap is None else rules.cap
    nans = [span for span in series.spans if not isfinite(span.value)]
    dropped = set(map(id, empty))
    numbers = [span for span in series.spans if isfinite(span.value) and id(span) not in dropped]
    spikes = [span for span in numbers if not low <= span.value <= high]
    spans, doubles = _apart([span for span in numbers if low <= span.value <= high])
    notes = []
    if nans:
        notes.append(_fault(series, Reason.SIGNAL_NAN, nans, "that are not numbers"))
    if empty:
        notes.append(_fault(series, Reason.SIGNAL_ZERO, empty, "of exactly 0, where there can be none,"))
    if spikes:
        bounds = f"outside {low:g} to {high:g} {rules.unit}"
        doubt = "; is the unit right?" if len(spikes) * 2 > len(numbers) else ""
        notes.append(_fault(series, Reason.SIGNAL_SPIKE, spikes, bounds + doubt))
    if doubles:
        notes.append(_fault(series, Reason.SIGNAL_DUPLICATE, doubles, "for a time that has another one"))
    return spans, tuple(notes)


def _is_clean(spans: Sequence[Span], rules: GateRules) -> bool:
    """One pass over a series that is usually faultless."""
    low = float("-inf") if rules.floor is None else rules.floor
    high = float("inf") if rules.cap is None else rules.cap
    if not spans:
        return True
    reached = spans[0].start
    for span in spans:
        if not (low <= span.value <= high and isfinite(span.value)) or span.start < reached or span.end <= span.start:
            return False
        reached = span.end
    return True


def _apart(spans: Iterable[Span]) -> tuple[tuple[Span, ...], list[Span]]:
    """Spans sorted and apart, and those left out. Of two with the same bounds the later in order wins: a revision."""
    latest: dict[Window, Span] = {}
    left_out = []
    for span in spans:
        if span.end <= span.start:
            left_out.append(span)
            continue
        older = latest.pop((span.start, span.end), None)
        if older is not None:
            left_out.append(older)
        latest[(span.start, span.end)] = span
    kept: list[Span] = []
    for span in sorted(latest.values(), key=lambda item: item.start):
        if kept and span.start < kept[-1].end:
            left_out.append(span)
        else:
            kept.append(span)
    return tuple(kept), left_out


def _fault(series: Series, code: Reason, spans: Sequence[Span], what: str) -> Note:
    first = spans[0]
    many = "1 value" if len(spans) == 1 else f"{len(spans)} values"
    text = f"{series.name}: {many} {what} left out; first {first.value:g} at {stamp(first.start)}"
    return Note(code, series.name, text, Severity.WARNING, first.start)


# ---------------------------------------------------------------- units
def _unit_doubt(series: Series, previous: Series | None, rules: GateRules) -> Note | None:
    """Why the whole series cannot be taken: another unit by name, or by a jump of all its values at once."""
    if series.unit != rules.unit:
        text = f"{series.name}: values come in {series.unit}, but {rules.unit} is needed; none is taken"
        return Note(Reason.SIGNAL_UNIT, series.name, text, Severity.ALERT)
    if previous is None:
        return None
    known = {span.start: span.value for span in previous.spans}
    common = [
        abs(span.value) / abs(known[span.start])
        for span in series.spans
        if known.get(span.start) and isfinite(span.value) and span.value
    ]
    if len(common) < LEAST_COMMON or 1 / UNIT_JUMP < (factor := median(common)) < UNIT_JUMP:
        return None
    text = f"{series.name}: values known before now come back {factor:.3g} times as large; refused: is the unit right?"
    return Note(Reason.SIGNAL_UNIT, series.name, text, Severity.ALERT)


# ---------------------------------------------------------------- time
def _restamped(series: Series, previous: Series | None, rules: GateRules, now: datetime) -> Note | None:
    """Why the whole series cannot be taken: what was known comes back at other times."""
    if not rules.measured or previous is None:
        return None
    hours = restamped(series.spans, previous.spans)
    if hours is None:
        return None
    text = f"{series.name}: values known before come back {_shift_text(hours)}; refused: is the time zone right?"
    return Note(Reason.SIGNAL_SHIFTED, series.name, text, Severity.ALERT, now)


def _in_shape(
    name: str, spans: tuple[Span, ...], previous: Series | None, rules: GateRules, now: datetime
) -> tuple[tuple[Span, ...], tuple[Note, ...]]:
    """Without a newest day that lies hours off the days before it; once these are too old, it is taken for what is."""
    if not rules.measured or previous is None or _coverage_age_s(previous.spans, now) > rules.max_age_s:
        return spans, ()
    hours = out_of_shape(spans, previous.spans)
    if hours is None:
        return spans, ()
    known_until = previous.spans[-1].end
    text = f"{name}: from {stamp(known_until)} on values look like those of the days before, but {_shift_text(hours)}"
    note = Note(Reason.SIGNAL_SHIFTED, name, f"{text}; not taken: is the time zone right?", Severity.ALERT, known_until)
    return tuple(span for span in spans if span.start < known_until), (note,)


def _shift_text(hours: int) -> str:
    return f"{abs(hours)} h {'later' if hours > 0 else 'earlier'}"


def _at_night(series: Series, rules: GateRules) -> tuple[Note, ...]:
    hour = peak_at_night(series.spans, rules.zone) if rules.measured and rules.zone is not None else None
    if hour is None:
        return ()
    text = f"{series.name}: its days peak at {hour:02d}:00 local time; is the time zone right?"
    return (Note(Reason.SIGNAL_SHIFTED, series.name, text),)


def _late(series: Series, rules: GateRules, now: datetime, window: Window) -> tuple[Note, ...]:
    """Tomorrow was due and is not there. Most of a day will do: some markets end it by another clock."""
    if rules.due is None:
        return ()
    local = now.astimezone(rules.due.zone)
    tomorrow = local_day(local.date() + timedelta(days=1), rules.due.zone)[0]
    wanted = min(window[1], tomorrow + timedelta(hours=20))
    if local.hour * 60 + local.minute < rules.due.minutes or series.spans[-1].end >= wanted:
        return ()
    due = f"{rules.due.minutes // 60:02d}:{rules.due.minutes % 60:02d}"
    text = f"{series.name}: tomorrow was due at {due} local time of the market and is known until "
    return (Note(Reason.SIGNAL_LATE, series.name, text + stamp(series.spans[-1].end), at=now),)


def _implausible(series: Series, rules: GateRules) -> tuple[Note, ...]:
    if rules.plausible_p90 is None or len(series.spans) < 24:
        return ()
    sizes = sorted(abs(span.value) for span in series.spans)
    high = sizes[int(0.9 * (len(sizes) - 1))]
    if high >= rules.plausible_p90 or sizes[-1] == 0.0:
        return ()
    text = f"{series.name}: nine in ten values are below {high:.3g} {rules.unit}; is the unit right?"
    return (Note(Reason.SIGNAL_UNIT, series.name, text),)


# ---------------------------------------------------------------- gaps and age
def _patched(
    fresh: Series, previous: Series | None, rules: GateRules, now: datetime, window: Window
) -> tuple[Series, tuple[Note, ...]]:
    """Holes of `fresh` inside the window filled with what was known before, while that is young enough."""
    if previous is None or previous.unit != fresh.unit or _since(previous.published_at, now) > rules.max_age_s:
        return fresh, ()
    holes = gaps(fresh.spans, window)
    patches = [
        Span(max(span.start, start), min(span.end, end), span.value)
        for start, end in holes
        for span in previous.spans
        if span.start < end and span.end > start
    ]
    if not patches:
        return fresh, ()
    spans = tuple(sorted((*fresh.spans, *patches), key=lambda span: span.start))
    text = f"{fresh.name}: {span_text(patches)} no longer given; the values known before are kept"
    ahead = any(span.end > now for span in patches)
    note = Note(Reason.STALE_SIGNAL, fresh.name, text, Severity.WARNING if ahead else Severity.INFO, patches[0].start)
    return replace(fresh, spans=spans, published_at=previous.published_at), (note,)


def gaps(spans: Sequence[Span], window: Window) -> tuple[Window, ...]:
    """Parts of `window` that no span covers, in order; `spans` are sorted and apart."""
    found = []
    reached, end = window
    for span in spans:
        if span.start >= end:
            break
        if span.start > reached:
            found.append((reached, span.start))
        reached = max(reached, span.end)
    if reached < end:
        found.append((reached, end))
    return tuple(found)


def _gap_notes(series: Series, now: datetime, window: Window) -> tuple[Note, ...]:
    """Holes between values; what lies before the first and after the last is not a hole but unpublished."""
    inner = (max(window[0], series.spans[0].start), min(window[1], series.spans[-1].end))
    holes = [Span(start, end, 0.0) for start, end in gaps(series.spans, inner)]
    if not holes:
        return ()
    severity = Severity.WARNING if holes[-1].end > now else Severity.INFO
    text = f"{series.name}: no values for {span_text(holes)}"
    return (Note(Reason.SIGNAL_GAP, series.name, text, severity, holes[0].start),)


def _since(moment: datetime | None, now: datetime) -> float:
    return 0.0 if moment is None else max(0.0, (now - moment).total_seconds())


def _coverage_age_s(spans: Sequence[Span], now: datetime) -> float:
    """Seconds since the last value ended; 0 while one is in force or ahead."""
    return _since(spans[-1].end, now) if spans else float("inf")


# ---------------------------------------------------------------- words
def stamp(moment: datetime) -> str:
    """UTC to the minute, as 2022-09-07T01:00Z."""
    return moment.strftime("%Y-%m-%dT%H:%MZ")


def duration_text(seconds: float) -> str:
    """A length of time in the largest unit that reads well: 45 s, 12 min, 3.5 h, 2.1 d."""
    for limit, length, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{round(seconds / length, 1):g} {unit}"
    return "ever" if seconds == float("inf") else f"{round(timedelta(seconds=seconds) / timedelta(days=1), 1):g} d"


def span_text(spans: Sequence[Span]) -> str:
    """Where the parts are: one by its bounds, several by the first one and the sum."""
    first = f"{stamp(spans[0].start)} to {stamp(spans[0].end)}"
    total_s = sum((span.end - span.start).total_seconds() for span in spans)
    return first if len(spans) == 1 else f"{duration_text(total_s)} in {len(spans)} parts, first {first}"
