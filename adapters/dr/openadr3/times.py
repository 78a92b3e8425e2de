"""Times and durations as OpenADR 3 servers write them, read so that nothing in them can raise or run over.

Why not datetime's own parser: "now" is written as year 1 or year 0, infinity as P9999Y, and leap seconds, nine digits
of fraction, a space for the T and a missing zone all occur in servers that are in use. Nothing here adds to a moment
without a bound: what lies beyond `FOREVER` is `FOREVER`.
"""

from __future__ import annotations

import re
from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

FOREVER = datetime(9000, 1, 1, tzinfo=UTC)
"""Stands for an end that never comes; far enough from the last year that ramps can be added to it."""
ENDLESS_YEARS = 1000
"""A duration of that many years is meant as infinity (the text says P9999Y)."""

_MOMENT = re.compile(
    r"^(\d{4})-(\d\d)-(\d\d)(?:[Tt ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d+))?)?)?\s*(?:([Zz])|([+-])(\d\d):?(\d\d))?$"
)
_DURATION = re.compile(
    r"^(-?)P(?=\d|T\d)(?:(\d+)Y)?(?:(\d+)M)?(?:(\d+)W)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?$"
)


@dataclass(frozen=True, slots=True)
class Span3:
    """A duration of ISO 8601 by its calendar part and its seconds. `negative` ones occur as bounds only."""

    months: int = 0
    seconds: float = 0.0
    endless: bool = False
    negative: bool = False

    @property
    def zero(self) -> bool:
        """Whether it has no length."""
        return not self.endless and self.months == 0 and self.seconds <= 0

    def after(self, moment: datetime) -> datetime:
        """`moment` and this duration, months by the calendar of UTC; `FOREVER` where it lies beyond."""
        if self.endless:
            return FOREVER
        try:
            month = moment.month - 1 + self.months
            year, month = moment.year + month // 12, month % 12 + 1
            day = min(moment.day, monthrange(year, month)[1])
            return min(FOREVER, moment.replace(year=year, month=month, day=day) + timedelta(seconds=self.seconds))
        except (OverflowError, ValueError):
            return FOREVER

    def bound_s(self) -> float:
        """Its length in seconds, a month as 30 days: for bounds of a random offset, where it matters little."""
        return self.months * 30 * 86_400.0 + self.seconds


def read_duration(text: str) -> Span3:
    """A duration of ISO 8601. Raises ValueError."""
    match = _DURATION.match(text.strip())
    if match is None:
        raise ValueError(f'"{text[:64]}" is not a duration of ISO 8601')
    sign, years, months, weeks, days, hours, minutes, seconds = match.groups()
    if int(years or 0) >= ENDLESS_YEARS:
        return Span3(endless=True)
    length_s = int(weeks or 0) * 604_800.0 + int(days or 0) * 86_400.0
    length_s += int(hours or 0) * 3600.0 + int(minutes or 0) * 60.0 + float(seconds or 0)
    return Span3(int(years or 0) * 12 + int(months or 0), min(length_s, 1e12), negative=bool(sign))


def read_moment(text: str, zone: tzinfo = UTC) -> datetime | None:
    """A moment in UTC, or None for "now" (year 0 or 1). Without an offset it is local time of `zone`. Raises
    ValueError."""
    match = _MOMENT.match(text.strip())
    if match is None:
        raise ValueError(f'"{text[:64]}" is not a time')
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[:6])
    fraction, zulu, sign, ahead_h, ahead_min = match.groups()[6:]
    if year <= 1:
        return None
    leap = second == 60  # a leap second is the first one of the next minute
    moment = datetime(year, month, day, hour, minute, 59 if leap else second, tzinfo=UTC)
    moment += timedelta(seconds=1) if leap else timedelta(microseconds=int((fraction or "0")[:6].ljust(6, "0")))
    try:
        if sign:
            ahead = timedelta(hours=int(ahead_h), minutes=int(ahead_min))
            moment -= ahead if sign == "+" else -ahead
        elif not zulu:
            moment = moment.replace(tzinfo=zone).astimezone(UTC)
    except OverflowError:
        return FOREVER
    return min(moment, FOREVER)


def written(moment: datetime) -> str:
    """A moment as we send it: UTC with a Z."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def written_duration(length: timedelta) -> str:
    """A duration as we send it."""
    return f"PT{length.total_seconds():.6f}".rstrip("0").rstrip(".") + "S"
