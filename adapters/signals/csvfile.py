"""A signal from a file, read again whenever the file changes, and told only as far as it was public at the time.

Why the publication rule sits here: a recorded year knows its own future. A backtest that reads it must see each value
no earlier than a daemon of that day could have, or its savings are fiction.

Why the last good content outlives a bad file: exports are often written in place. A file caught half-written is
reported with its line, and what was known a moment ago stays known, ageing, until the gate's limit.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from itertools import groupby

from adapters.context import AdapterContext
from adapters.fields import parse_time_of_day, parse_zone
from adapters.ports import AdapterError, SourceError
from adapters.registry import import_extra
from adapters.signals.base import unit_of
from adapters.signals.csvconfig import CsvConfig, Publication
from adapters.signals.table import read_table
from optimizer.domain import Series, Span
from optimizer.reasons import Note, Reason
from optimizer.timegrid import local_day


@dataclass(frozen=True)
class _Content:
    """A file's values in order, and what was odd about its rows."""

    spans: tuple[Span, ...]
    starts: tuple[datetime, ...]
    ends: tuple[datetime, ...]
    issues: tuple[tuple[Reason, datetime, str], ...]
    open_end: bool


@dataclass(frozen=True)
class _Seen:
    """A state of the file that was tried: its stamp, and what went wrong (None: nothing)."""

    stamp: tuple[int, ...]
    fault: str | None


class CsvSource:
    """Prices, carbon, weather, loads or limits from a CSV or Parquet file."""

    Config = CsvConfig

    def __init__(self, config: CsvConfig, context: AdapterContext) -> None:
        self._config, self._path = config, context.path(config.path)
        self._unit = unit_of(config.kind, config.unit, context.currency)
        self._zone = parse_zone(config.timezone)
        self._market = parse_zone(config.market_timezone or config.timezone)
        self._content: _Content | None = None
        self._seen: _Seen | None = None
        self._good_at: datetime | None = None
        if self._path.suffix == ".parquet":
            import_extra("pyarrow")

    def read(self, start: datetime, end: datetime, now: datetime) -> Series:
        """What the file tells about [start, end) and was public at `now`. Raises SourceError with file:line.

        While the file is unreadable the last good content is returned, with a note and its age.
        """
        content, fault = self._current(now)
        first = bisect_right(content.ends, start)
        last = min(bisect_left(content.starts, end), self._known(content, now))
        notes = self._notes(content, start, end)
        if fault is not None:
            notes = (*notes, Note(Reason.STALE_SIGNAL, self._config.id, f"{fault}; its last good content is kept"))
        published_at = None if fault is None else self._good_at
        return Series(self._config.id, self._unit.canonical, content.spans[first:last], published_at, notes)

    # ------------------------------------------------------------ the file
    def _current(self, now: datetime) -> tuple[_Content, str | None]:
        """Content of the file as it is now, or the last good one and what is wrong with the file."""
        try:
            fault = self._refresh()
        except OSError as error:
            self._seen, fault = None, f"{self._path}: {error.strerror or error}"
        if self._content is None:
            raise SourceError(fault or f"{self._path}: nothing was read")
        if fault is None:
            self._good_at = now
        return self._content, fault

    def _refresh(self) -> str | None:
        """Load the file unless this state of it was tried; returns what is wrong with it (None: nothing)."""
        status = self._path.stat()
        stamp = (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)
        same = self._seen is not None and self._seen.stamp == stamp
        if same and not (self._content is not None and self._content.open_end):
            return self._seen.fault if self._seen else None
        fault = None
        try:
            self._content = self._load(accept_open_end=same)
        except AdapterError as error:
            fault = str(error)
        self._seen = _Seen(stamp, fault)
        return fault

    def _load(self, accept_open_end: bool) -> _Content:
        from adapters.signals.timestamps import place_rows, utc

        table = read_table(self._path, self._config, accept_open_end)
        placed = place_rows(table, self._config, self._zone)
        spans = []
        issues = [(issue.code, issue.at, issue.text) for issue in placed.issues]
        for row, start, end in zip(placed.order, placed.starts, placed.ends, strict=True):
            value = table.values[row]
            if value is None:
                issues.append((Reason.SIGNAL_NAN, utc(start), f"{table.place(row)}: no value"))
            else:
                spans.append(Span(utc(start), utc(end), self._unit.convert(value)))
        starts, ends = tuple(span.start for span in spans), tuple(span.end for span in spans)
        return _Content(tuple(spans), starts, ends, tuple(issues), table.open_end)

    # ------------------------------------------------------------ what is told
    def _known(self, content: _Content, now: datetime) -> int:
        """How many of the file's values were public at `now`."""
        match self._config.publication:
            case Publication.DAY_AHEAD:
                return bisect_left(content.starts, self._day_ahead_until(now, self._market))
            case Publication.REAL_TIME:
                return bisect_right(content.starts, now)
            case Publication.REAL_TIME_LAGGED:
                return bisect_right(content.ends, now)
            case _:
                return len(content.spans)

    def _day_ahead_until(self, now: datetime, zone: tzinfo) -> datetime:
        """End of the market days that were published at `now`: today, and tomorrow after the publication time."""
        local = now.astimezone(zone)
        published = local.hour * 60 + local.minute >= parse_time_of_day(self._config.publication_time)
        return local_day(local.date() + timedelta(days=1 if published else 0), zone)[1]

    def _notes(self, content: _Content, start: datetime, end: datetime) -> tuple[Note, ...]:
        """One note for each kind of oddity inside the window, with the first place and the number of rows."""
        inside = sorted((issue for issue in content.issues if start <= issue[1] < end), key=lambda issue: issue[0])
        notes = []
        for code, group in groupby(inside, key=lambda issue: issue[0]):
            found = sorted(group, key=lambda issue: issue[1])
            more = f" (and {len(found) - 1} more rows)" if len(found) > 1 else ""
            notes.append(Note(code, self._config.id, found[0][2] + more, at=found[0][1]))
        if content.open_end:
            text = f"{self._path}: the last line has no end yet; it is left out until the file stands still"
            notes.append(Note(Reason.SIGNAL_GAP, self._config.id, text))
        return tuple(notes)
