"""Stamps as exports write them into UTC intervals: zones, hour-ending labels, 24:00, days of 23 and 25 hours.

Why its own file: each of these conventions shifts a whole series by an hour when it is misread, and none of them
raises an error by itself. The rule everywhere: an interval is placed by the wall time of its START; of two equal wall
times in autumn a flag or the order of the rows tells which is which; what cannot be placed is left out and reported.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from itertools import pairwise

from adapters.ports import SourceError
from adapters.signals.csvconfig import CsvConfig
from adapters.signals.table import Table
from optimizer.reasons import Reason

_AWARE = re.compile(r"\d{2}:?\d{2}.*(?:Z|[+-]\d{2}:?\d{2})$")
_MIDNIGHT = re.compile(r"[T ]24:00(?::00)?$")
_HOUR = re.compile(r"^(\d{1,2})(?::([0-5]\d))?(?::00)?$")
RUN = 4
_DAY_S = 86400


@dataclass(frozen=True, slots=True)
class Issue:
    """Something odd about one row: what, when (UTC), and `file:line: sentence`."""

    code: Reason
    at: datetime
    text: str


@dataclass(frozen=True)
class Placed:
    """Rows in time: `order` are row numbers by start, `starts` and `ends` their bounds in seconds of the UTC epoch."""

    order: tuple[int, ...]
    starts: tuple[int, ...]
    ends: tuple[int, ...]
    issues: tuple[Issue, ...]


def place_rows(table: Table, config: CsvConfig, zone: tzinfo) -> Placed:
    """Place every row on the UTC axis; SourceError with file:line for stamps that cannot be read or that overlap."""
    walls, aware = _stamps(table, config)
    declared = None if config.interval is None else round(config.interval.total_seconds())
    if config.hour == "ending":
        step = declared or _only_step(table, walls)
        walls = [wall - step for wall in walls]
    starts, issues = (list(walls), []) if aware else _to_utc(table, walls, zone)
    order = _in_order(table, starts, issues)
    sorted_starts = [_known(starts[row]) for row in order]
    lengths = _lengths(table, order, sorted_starts, declared)
    ends = tuple(start + length for start, length in zip(sorted_starts, lengths, strict=True))
    return Placed(tuple(order), tuple(sorted_starts), ends, tuple(issues))


def utc(seconds: float) -> datetime:
    """Aware UTC of epoch seconds."""
    return datetime.fromtimestamp(seconds, UTC)


def _known(second: int | None) -> int:
    assert second is not None
    return second


# ---------------------------------------------------------------- reading stamps
def _stamps(table: Table, config: CsvConfig) -> tuple[list[int], bool]:
    """Seconds of each stamp since the epoch, as wall time or (second result True) as UTC."""
    texts, late = _plain_texts(table, config)
    may_carry = config.time_format is None or "%z" in config.time_format
    aware = [may_carry and bool(_AWARE.search(text)) for text in texts]
    if any(aware) and not all(aware):
        row = aware.index(not aware[0])
        raise SourceError(f"{table.place(row)}: some stamps carry an offset from UTC and some do not")
    seconds = []
    for row, (text, extra) in enumerate(zip(texts, late, strict=True)):
        try:
            seconds.append(_seconds(text, config.time_format) + extra)
        except ValueError:
            how = f"as {config.time_format}" if config.time_format else "as ISO 8601; name its form in time_format"
            raise SourceError(f'{table.place(row)}: "{text}" cannot be read {how}') from None
    return seconds, aware[0]


@lru_cache(maxsize=4096)
def _seconds(text: str, form: str | None) -> int:
    """Whole seconds since the epoch of one stamp, as if in UTC when it has no offset; year first unless told."""
    plain = text.replace("/", "-")
    # strptime may give wall time, whose zone the caller applies
    moment = datetime.fromisoformat(plain) if form is None else datetime.strptime(text, form)  # noqa: DTZ007
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def _plain_texts(table: Table, config: CsvConfig) -> tuple[list[str], list[int]]:
    """Stamps without 24:00 and without a separate hour, and the seconds that this takes off each of them."""
    texts, late = [], []
    for row, value in enumerate(table.times):
        text = value.isoformat(sep=" ") if isinstance(value, datetime) else str(value)
        extra = 0
        if table.hours is not None:
            extra = _hour_s(table, row)
        elif match := _MIDNIGHT.search(text):
            text, extra = text[: match.start()] + text[match.start() :].replace("24", "00", 1), _DAY_S
        texts.append(text)
        late.append(extra)
    return texts, late


def _hour_s(table: Table, row: int) -> int:
    assert table.hours is not None
    match = _HOUR.match(table.hours[row])
    seconds = int(match[1]) * 3600 + int(match[2] or 0) * 60 if match else _DAY_S + 1
    if seconds > _DAY_S:
        raise SourceError(f'{table.place(row)}: "{table.hours[row]}" is not an hour between 0 and 24')
    return seconds


# ---------------------------------------------------------------- local to UTC
def _to_utc(table: Table, walls: Sequence[int], zone: tzinfo) -> tuple[list[int | None], list[Issue]]:
    """UTC seconds of wall times; None where a wall time does not exist. Of equal ones the order or the flag tells."""
    falling = sum(1 for left, right in pairwise(walls) if right < left) * 2 > len(walls)
    starts: list[int | None] = [None] * len(walls)
    issues: list[Issue] = []
    seen: Counter[int] = Counter()
    total = Counter(walls)
    for row in reversed(range(len(walls))) if falling else range(len(walls)):
        wall = walls[row]
        naive = utc(wall).replace(tzinfo=None)
        first, second = (naive.replace(tzinfo=zone, fold=fold).timestamp() for fold in (0, 1))
        if first > second:
            issues.append(_nonexistent(table, row, naive, second))
            continue
        later = table.repeated[row] if table.repeated is not None else seen[wall] > 0
        if first < second and total[wall] == 1 and table.repeated is None:
            issues.append(_lonely(table, row, naive, first))
        seen[wall] += 1
        starts[row] = round(second if later else first)
    return starts, issues


def _nonexistent(table: Table, row: int, naive: datetime, second: float) -> Issue:
    text = f"{table.place(row)}: {naive:%Y-%m-%d %H:%M} does not exist there (clocks go forward); the row is left out"
    return Issue(Reason.SIGNAL_GAP, utc(second), text)


def _lonely(table: Table, row: int, naive: datetime, first: float) -> Issue:
    text = f"{table.place(row)}: {naive:%Y-%m-%d %H:%M} happens twice there but has one row; it is taken as the first"
    return Issue(Reason.SIGNAL_GAP, utc(first), text)


# ---------------------------------------------------------------- order and length
def _in_order(table: Table, starts: Sequence[int | None], issues: list[Issue]) -> list[int]:
    """Row numbers by start; of two rows for one start the later in the file wins, and the other is reported."""
    latest: dict[int, int] = {}
    for row, start in enumerate(starts):
        if start is None:
            continue
        if start in latest:
            text = (
                f"{table.place(latest[start])}: {utc(start):%Y-%m-%dT%H:%MZ} is there again in line {table.lines[row]}"
            )
            issues.append(Issue(Reason.SIGNAL_DUPLICATE, utc(start), f"{text}; the later one is taken"))
        latest[start] = row
    if not latest:
        raise SourceError(f"{table.source}:1: no row can be placed in time")
    return [latest[start] for start in sorted(latest)]


def _lengths(table: Table, order: Sequence[int], starts: Sequence[int], declared: int | None) -> list[int]:
    """Length of each row's interval: as declared, or the spacing that is usual around it."""
    spacing = [right - left for left, right in pairwise(starts)]
    usual = {declared} if declared else _usual(spacing)
    if not usual:
        raise SourceError(f"{table.place(order[0])}: one row does not tell how long its interval is; give `interval`")
    common = declared or Counter(step for step in spacing if step in usual).most_common(1)[0][0]
    lengths = []
    for number, start in enumerate(starts):
        after = spacing[number] if number < len(spacing) else None
        before = spacing[number - 1] if number else None
        length = next((step for step in (after, before) if step in usual and (after is None or step <= after)), common)
        assert length is not None
        if after is not None and length > after:
            place, stamp = table.place(order[number + 1]), f"{utc(starts[number + 1]):%Y-%m-%dT%H:%MZ}"
            began = timedelta(seconds=length)
            raise SourceError(f"{place}: {stamp} overlaps the interval of {began} that begins at {utc(start):%H:%MZ}")
        lengths.append(length)
    return lengths


def _usual(spacing: Sequence[int]) -> set[int]:
    """Spacings that are the file's resolution: the most common, any that holds for a run of rows, and finer ones that
    divide the most common and are frequent. A hole of single rows is none of these, and stays a hole."""
    if not spacing:
        return set()
    counts = Counter(spacing)
    common = counts.most_common(1)[0][0]
    finer = {step for step in counts if common % step == 0 and counts[step] * 10 >= len(spacing)}
    usual = {common, *finer}
    run = 1
    for left, right in pairwise(spacing):
        run = run + 1 if left == right else 1
        if run >= RUN:
            usual.add(right)
    return usual


def _only_step(table: Table, walls: Sequence[int]) -> int:
    """The one spacing of an hour-ending file, whose starts cannot be known without it."""
    spacing = [right - left for left, right in pairwise(walls)]
    if spacing and sum(step < 0 for step in spacing) * 2 > len(spacing):
        spacing = [-step for step in spacing]
    steps = _usual([step for step in spacing if step > 0])
    if len(steps) != 1:
        raise SourceError(f"{table.place(0)}: the spacing of the rows does not tell the interval; give `interval`")
    return steps.pop()
