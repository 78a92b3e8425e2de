"""When an event's reports are due, and which intervals each of them covers.

The text contradicts itself about `startInterval`; the two diagrams of the user guide (7.5) fix it: a report on the past
is made at the end of interval `startInterval` and covers the `numIntervals` up to it; where so many do not precede, it
covers those from `startInterval` on and is made at the end of the last. A forecast is made when its first interval
begins. Each further one comes `frequency` intervals later. A looping event reports at the end of each loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

from adapters.dr.openadr3.intervals import Slot, Timeline
from adapters.dr.openadr3.objects import Event, ReportDescriptor
from adapters.dr.openadr3.times import read_duration, read_moment

MOST_IMPLIED = 1000
CAUGHT_UP = 20
MOST_REPORTS = 100_000


@dataclass(frozen=True)
class Due:
    """One report: its number from 0, when it is made, and what it covers."""

    number: int
    at: datetime
    slots: tuple[Slot, ...]


def due_reports(
    event: Event,
    line: Timeline,
    asked: ReportDescriptor,
    seen_at: datetime,
    now: datetime,
    last: int | None,
    zone: tzinfo = UTC,
) -> list[Due]:
    """Reports that are due at `now` and come after number `last` (None: none was sent yet), at most the last few of a
    server that was lost for long. Of those that were due when the event was first seen only the latest, and none where
    others follow, since the past is not made up for. `zone` is that of times without one. Raises ValueError where the
    grid can't be told."""
    found = []
    for due in _all_due(_Grid(event, line, asked, seen_at, zone), asked, now):
        if due.at > now:
            break
        found.append(due)
    if last is None:
        return [due for due in found if due.at > seen_at] or found[-1:]
    return [due for due in found if due.number > last]


def next_due_at(
    event: Event, line: Timeline, asked: ReportDescriptor, seen_at: datetime, now: datetime, zone: tzinfo = UTC
) -> datetime | None:
    """When the next report is due after `now`; None when there is none."""
    grid = _Grid(event, line, asked, seen_at, zone)
    return next((due.at for due in _all_due(grid, asked, now) if due.at > now), None)


def _all_due(grid: _Grid, asked: ReportDescriptor, now: datetime) -> Iterator[Due]:
    """Reports in the order of their times, those long before `now` left out."""
    count, every = grid.count, grid.every
    first, repeat = 0, asked.repeat if asked.repeat >= 0 else MOST_REPORTS
    if grid.looping and asked.start_interval < 0:
        every, repeat = grid.loop, MOST_REPORTS
    if repeat > 1 and every > 0:  # skip what lies long behind
        first = max(0, min(repeat - 1, grid.passed(now) // every - CAUGHT_UP))
    for number in range(first, repeat):
        due = _due(grid, asked, number, number * every, count)
        if due is None:
            return
        yield due


def _due(grid: _Grid, asked: ReportDescriptor, number: int, shift: int, count: int) -> Due | None:
    start = asked.start_interval
    if not asked.historical:
        begin = max(0, start) + shift
        slots = grid.slots(begin, begin + count)
        return Due(number, slots[0].start, slots) if slots else None
    if start < 0:
        stop = grid.loop + shift
        begin = stop - count
    else:
        preceded = start + 1 >= count
        stop = (start + 1 if preceded else start + count) + shift
        begin = stop - count
    slots = grid.slots(max(0, begin), stop)
    complete = len(slots) == stop - max(0, begin)
    return Due(number, slots[-1].end, slots) if slots and complete else None


class _Grid:
    """The intervals of an event by their number, repetitions counted on; implied ones where the event has none."""

    def __init__(self, event: Event, line: Timeline, asked: ReportDescriptor, seen_at: datetime, zone: tzinfo) -> None:
        self._line = line
        self._implied = None if line.slots else _implied(event, seen_at, zone)
        if self._implied is None:
            self.loop, self.looping = len(line.slots), line.every is not None
        else:
            self.loop, self.looping = max(1, asked.num_intervals), False
        self.count = asked.num_intervals if asked.num_intervals > 0 else self.loop
        self.every = asked.frequency if asked.frequency > 0 else self.count

    def slots(self, begin: int, stop: int) -> tuple[Slot, ...]:
        """Intervals `begin` to `stop`, fewer where the event ends."""
        return tuple(slot for number in range(begin, stop) if (slot := self._slot(number)) is not None)

    def passed(self, now: datetime) -> int:
        """About how many intervals have ended at `now`."""
        start, step = self._implied or (self._line.start, self._mean())
        return max(0, int((now - start) / step)) if step else 0

    def _mean(self) -> timedelta:
        slots = self._line.slots
        length = self._line.every or (slots[-1].end - self._line.start)
        return length / max(1, len(slots))

    def _slot(self, number: int) -> Slot | None:
        if self._implied is not None:
            start, step = self._implied
            return Slot(start + number * step, start + (number + 1) * step, number, ())
        loop, index = divmod(number, self.loop)
        slot = self._line.slots[index]
        if loop == 0:
            return slot if slot.start < self._line.ends else None
        if self._line.every is None:
            return None
        shift = loop * self._line.every
        moved = Slot(slot.start + shift, slot.end + shift, slot.id, slot.payloads, loop)
        return moved if moved.start < self._line.ends else None


def _implied(event: Event, seen_at: datetime, zone: tzinfo) -> tuple[datetime, timedelta]:
    """The grid that a default period implies: its start, and its duration again and again."""
    period = event.interval_period
    if period is None or not period.duration:
        raise ValueError("intervalPeriod: a report needs intervals, or a default period that implies them")
    step = timedelta(seconds=read_duration(period.duration).bound_s())
    if step <= timedelta(0) or step > timedelta(days=366):
        raise ValueError(f'intervalPeriod.duration: "{period.duration}" implies no intervals')
    return (read_moment(period.start, zone) if period.start else None) or seen_at, step


def sub_slots(slots: Sequence[Slot], length: timedelta) -> tuple[Slot, ...]:
    """Slots cut into parts of at most `length`, each with the number of the interval that it is a part of."""
    found: list[Slot] = []
    for slot in slots:
        at = slot.start
        while at < slot.end and len(found) < MOST_IMPLIED:
            found.append(slot.cut(at, min(slot.end, at + length)))
            at += length
    return tuple(found)
