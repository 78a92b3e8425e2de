"""When the intervals of an OpenADR 3 event are: own times, defaults, follow-on, loops, truncation, a random start.

Why in one place: the same rules give caps, prices and the grid of reports. Everything steps in UTC, half-open, and only
inside a window, so that an event that loops for ever costs no more than one day of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from hashlib import sha256

from adapters.dr.openadr3.objects import Event, Interval, Period, ValuesMap
from adapters.dr.openadr3.times import FOREVER, Span3, read_duration, read_moment

MOST_SLOTS = 2000
"""Slots of one event inside a window; more are no order that anybody keeps."""
DRAWN = 2**32


@dataclass(frozen=True, slots=True)
class Slot:
    """One interval at its time, [start, end); `id` as the server numbers it, `loop` which repetition it is, `whole` its
    own times where only a part of it counts."""

    start: datetime
    end: datetime
    id: int
    payloads: tuple[ValuesMap, ...]
    loop: int = 0
    whole: tuple[datetime, datetime] | None = None

    def cut(self, start: datetime, end: datetime) -> Slot:
        """The part of it inside [start, end)."""
        begin, stop = max(self.start, start), min(self.end, end)
        if (begin, stop) == (self.start, self.end):
            return self
        return replace(self, start=begin, end=stop, whole=self.whole or (self.start, self.end))


@dataclass(frozen=True)
class Timeline:
    """An event's intervals once through, and how they go on: until `ends`, again every `every` where it loops."""

    slots: tuple[Slot, ...]
    start: datetime
    ends: datetime
    every: timedelta | None = None

    @property
    def standing(self) -> bool:
        """Whether it has no end, so that only a part of it can ever be held."""
        return self.ends >= FOREVER

    def between(self, start: datetime, end: datetime) -> tuple[Slot, ...]:
        """Slots that reach into [start, end), repetitions included, cut where the event is truncated."""
        found = []
        for slot in self._repeated(start, end):
            cut = slot.cut(slot.start, self.ends)
            if cut.start < cut.end and cut.end > start and cut.start < end:
                found.append(cut)
            if len(found) >= MOST_SLOTS:
                break
        return tuple(found)

    def _repeated(self, start: datetime, end: datetime) -> Iterator[Slot]:
        if self.every is None:
            yield from self.slots
            return
        loop = max(0, (start - self.start) // self.every)
        while (begin := self.start + loop * self.every) < min(end, self.ends):
            for slot in self.slots:
                shift = begin - self.start
                yield replace(slot, start=slot.start + shift, end=slot.end + shift, loop=loop)
            loop += 1


EMPTY = Timeline((), FOREVER, FOREVER)


def draw(*names: str) -> float:
    """A number in [-1, 1) that is as good as random between sites and always the same for these names: what is drawn
    once must outlive polls, restarts and a lost disk."""
    digest = sha256("\n".join(names).encode()).digest()
    return int.from_bytes(digest[:4]) / DRAWN * 2 - 1


def timeline(event: Event, seen_at: datetime, site: str, zone: tzinfo = UTC, randomized: bool = True) -> Timeline:
    """The event's intervals. `seen_at` is "now" for one that says so; `site` seeds the random start, which is left out
    unless `randomized`. Empty for a window of no length: that is a cancellation. Raises ValueError naming the field."""
    chance: Callable[[str, Period], float] = lambda name, period: (  # noqa: E731 - two values of one choice
        _offset_s(period, draw(site, event.id, name)) if randomized else 0.0
    )
    if _put_to_nothing(event, zone):
        return EMPTY
    slots = tuple(_once(event, seen_at, zone, chance))
    kept = tuple(slot for slot in slots if slot.end > slot.start)
    if not kept:
        return EMPTY
    first, last = min(slot.start for slot in kept), max(slot.end for slot in kept)
    length = _length(event.duration, "duration") if event.duration else None
    # The schema fills a missing duration with PT0S, so that zero says nothing here.
    if length is None or length.zero:
        return Timeline(kept, first, last)
    ends = length.after(first)
    every = last - first if ends > last and last < FOREVER else None
    return Timeline(kept, first, ends if every is not None else min(ends, last), every)


def _put_to_nothing(event: Event, zone: tzinfo) -> bool:
    """Whether the event's default period was put to the first year and no length, which cancels it (user guide 7.9)
    also where its intervals still have times of their own."""
    period = event.interval_period
    if period is None or not period.start or not period.duration:
        return False
    return _length(period.duration, "intervalPeriod.duration").zero and read_moment(period.start, zone) is None


def _once(event: Event, seen_at: datetime, zone: tzinfo, chance: Callable[[str, Period], float]) -> Iterator[Slot]:
    """The intervals once through, those of no length included."""
    default = event.interval_period or Period()
    shift_s, cursor = chance("", default), None
    for index, interval in enumerate(event.intervals):
        own = interval.interval_period or Period()
        place = f"intervals[{index}].intervalPeriod"
        if own.randomize_start is not None:
            shift_s = chance(str(index), own)
        start = _start(own.start, seen_at, zone, cursor, place)
        if start is None:
            start = cursor or _start(default.start, seen_at, zone, None, "intervalPeriod")
            if start is None:
                raise ValueError(f"{place}.start: neither the interval nor the event says when it begins")
            start = start if cursor is not None else _moved(start, shift_s)
        elif start is not cursor:
            start = _moved(start, shift_s)
        end = _end(start, own.duration or default.duration or _only(event), f"{place}.duration")
        cursor = end
        yield Slot(start, end, interval.id, tuple(interval.payloads))


def _start(text: str | None, seen_at: datetime, zone: tzinfo, cursor: datetime | None, place: str) -> datetime | None:
    """A stated start; "now" is when it was seen, or for a later interval when the one before ends. None: unstated."""
    if not text:
        return None
    try:
        return read_moment(text, zone) or cursor or seen_at
    except ValueError as error:
        raise ValueError(f"{place}.start: {error}") from None


def _end(start: datetime, text: str | None, place: str) -> datetime:
    if text is None:
        raise ValueError(f"{place}: neither the interval nor the event says how long it lasts")
    return _length(text, place).after(start)


def _only(event: Event) -> str | None:
    """The event's own duration stands for that of a single interval."""
    return event.duration if len(event.intervals) == 1 else None


def _length(text: str, place: str) -> Span3:
    try:
        length = read_duration(text)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None
    if length.negative:
        raise ValueError(f'{place}: "{text}" is negative')
    return length


def _offset_s(period: Period, share: float) -> float:
    if not period.randomize_start:
        return 0.0
    try:
        return read_duration(period.randomize_start).bound_s() * share
    except ValueError as error:
        raise ValueError(f"intervalPeriod.randomizeStart: {error}") from None


def _moved(start: datetime, seconds: float) -> datetime:
    try:
        return min(FOREVER, start + timedelta(seconds=seconds))
    except OverflowError:
        return FOREVER


def shared(slot: Slot, values: Sequence[object]) -> Iterator[tuple[datetime, datetime, object]]:
    """Several values in one interval divide the whole of it equally. Raises ValueError for one without an end."""
    begin, stop = slot.whole or (slot.start, slot.end)
    if len(values) > 1 and stop >= FOREVER:
        raise ValueError(f"{len(values)} values can't share an interval without an end")
    step = (stop - begin) / max(1, len(values))
    edges = [begin + index * step for index in range(len(values))] + [stop]
    for index, value in enumerate(values):
        start, end = max(edges[index], slot.start), min(edges[index + 1], slot.end)
        if start < end:
            yield start, end, value


__all__ = ["EMPTY", "Interval", "Slot", "Timeline", "draw", "shared", "timeline"]
