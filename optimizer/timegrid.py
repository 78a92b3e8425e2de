"""The UTC interval grid that plans live on: fine now, coarse later.

Why: a plan must be exact about the next minutes and only roughly right about tomorrow, and a solver pays for every
interval. All blocks are anchored to the clock (a 15-minute block starts at :00, :15, :30 or :45), so that successive
plans share their blocks; local days are used only to answer "which day is it there", and have 23, 24 or 25 hours.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import cached_property

HOUR_S = 3600.0


def require_utc(moment: datetime, name: str = "time") -> datetime:
    """Return `moment` in UTC; raise ValueError when it is naive (a naive time has no place on the grid)."""
    if moment.tzinfo is None:
        raise ValueError(f"{name} has no time zone: {moment.isoformat()}")
    return moment.astimezone(UTC)


@dataclass(frozen=True)
class TimeGrid:
    """Consecutive intervals; `edges` has one more entry than there are intervals, strictly increasing, aware UTC."""

    edges: tuple[datetime, ...]

    def __post_init__(self) -> None:
        if len(self.edges) < 2:
            raise ValueError("a grid needs at least one interval")
        for left, right in zip(self.edges, self.edges[1:], strict=False):
            if require_utc(left) >= require_utc(right):
                raise ValueError(f"grid edges must increase: {left.isoformat()} then {right.isoformat()}")

    def __len__(self) -> int:
        return len(self.edges) - 1

    @property
    def start(self) -> datetime:
        """First edge."""
        return self.edges[0]

    @property
    def end(self) -> datetime:
        """Last edge."""
        return self.edges[-1]

    @cached_property
    def starts(self) -> tuple[datetime, ...]:
        """Start of every interval."""
        return self.edges[:-1]

    @cached_property
    def hours(self) -> tuple[float, ...]:
        """Length of every interval in hours."""
        return tuple((b - a).total_seconds() / HOUR_S for a, b in zip(self.edges, self.edges[1:], strict=False))

    def index(self, moment: datetime) -> int:
        """Index of the interval that holds `moment`; IndexError outside the grid."""
        position = bisect_right(self.edges, moment) - 1
        if position < 0 or position >= len(self):
            raise IndexError(
                f"{moment.isoformat()} is outside the grid {self.start.isoformat()}..{self.end.isoformat()}"
            )
        return position

    def overlap_h(self, index: int, start: datetime, end: datetime) -> float:
        """Hours of interval `index` that lie inside [start, end)."""
        left, right = max(self.edges[index], start), min(self.edges[index + 1], end)
        return max(0.0, (right - left).total_seconds() / HOUR_S)


def floor_time(moment: datetime, step: timedelta) -> datetime:
    """The latest multiple of `step` (counted from the UTC epoch) that is not after `moment`."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return moment - (require_utc(moment) - epoch) % step


def uniform_grid(start: datetime, end: datetime, step: timedelta) -> TimeGrid:
    """Equal intervals from `start` (floored to `step`) until `end` is covered."""
    edges = [floor_time(start, step)]
    while edges[-1] < end or len(edges) < 2:
        edges.append(edges[-1] + step)
    return TimeGrid(tuple(edges))


def planning_grid(
    now: datetime,
    horizon: timedelta,
    step: timedelta = timedelta(minutes=5),
    tiers: tuple[tuple[timedelta, timedelta], ...] = (
        (timedelta(hours=2), timedelta(minutes=5)),
        (timedelta(hours=12), timedelta(minutes=15)),
        (timedelta(days=366), timedelta(hours=1)),
    ),
) -> TimeGrid:
    """Clock-anchored multi-resolution grid: each tier is (until this far ahead, block length), never finer than `step`.

    The first interval is the `step` block that holds `now`. A coarser block starts only on its own multiple, so the
    grid stays on the finer lengths until the next such multiple: from 19:10 a quarter of an hour's tier and then an
    hour's go on with 19:15, 19:30, 19:45 and 20:00. A block, once cut, is cut further and never put together again.
    """
    start = floor_time(now, step)
    edges, lengths = [start], [step]
    for until, block in tiers:
        lengths.append(max(block, step))
        tier_end = start + min(until, horizon)
        while edges[-1] < tier_end:
            edges.append(_next_edge(edges[-1], lengths))
    return TimeGrid(tuple(edges))


def _next_edge(edge: datetime, lengths: list[timedelta]) -> datetime:
    """Next edge: the end of the longest block that may start at `edge`; a longer one's next start comes before it."""
    longest = max(length for length in lengths if floor_time(edge, length) == edge)
    return min(edge + longest, *(floor_time(edge, length) + length for length in lengths if length >= longest))


def local_day(day: date, tz: tzinfo) -> tuple[datetime, datetime]:
    """UTC start and end of a local calendar day (23, 24 or 25 hours long)."""
    start = datetime.combine(day, time(), tz).astimezone(UTC)
    return start, datetime.combine(day + timedelta(days=1), time(), tz).astimezone(UTC)
