"""Rows of an answer with their own bounds into spans, each value doubted as far as its row can tell.

Why apart from the file's table: services that say both bounds in UTC need no calendar, only honesty: what is null is a
gap and not 0, what is text where a number belongs is an error with its row, and a row that is there twice is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite
from typing import Any, TypeVar

from adapters.ports import SourceError
from adapters.signals.live import Told
from optimizer.domain import Span
from optimizer.reasons import Note, Reason

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Row:
    """[start, end) in UTC, and its value (None: the source has none)."""

    start: datetime
    end: datetime
    value: float | None


def rows_of(place: str, items: Any, parse: Callable[[Any], T]) -> list[T]:
    """Each item of a list through `parse`; SourceError with the row's number where it has another form."""
    if not isinstance(items, list):
        raise SourceError(f"{place}: the answer has no list of values where one belongs")
    parsed = []
    for number, item in enumerate(items, 1):
        try:
            parsed.append(parse(item))
        except SourceError as error:
            raise SourceError(f"{place}: row {number}: {error}") from None
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            what = f"{error.args[0]} is missing" if isinstance(error, KeyError) else f"another form ({error})"
            raise SourceError(f"{place}: row {number}: {what}") from None
    return parsed


def instant(text: Any) -> datetime:
    """Aware UTC of an ISO 8601 stamp that carries its offset; SourceError for any other."""
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise SourceError(f'"{text}" is not an ISO 8601 time') from None
    if moment.tzinfo is None:
        raise SourceError(f'"{text}" says no offset from UTC')
    return moment.astimezone(UTC)


def epoch(seconds: Any) -> datetime:
    """Aware UTC of seconds since 1970; SourceError for what is no number."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise SourceError(f'"{seconds}" is not a time in seconds')
    return datetime.fromtimestamp(seconds, UTC)


def number(value: Any) -> float | None:
    """A number, or None for null and what is not finite; SourceError for texts and the rest."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SourceError(f'"{value}" is not a number')
    return float(value) if isfinite(value) else None


def told(name: str, rows: Sequence[Row], convert: Callable[[float], float], notes: Iterable[Note] = ()) -> Told:
    """Spans of the rows that have a value, by start; of two for the same time the later row counts. What was left out
    is in the notes."""
    latest: dict[tuple[datetime, datetime], Row] = {}
    twice: list[Row] = []
    for row in rows:
        key = (row.start, row.end)
        older = latest.get(key)
        if older is not None and older.value != row.value:
            twice.append(older)
        latest[key] = row
    placed = sorted(latest.values(), key=lambda row: row.start)
    empty = [row for row in placed if row.value is None]
    said = list(notes)
    if empty:
        said.append(_note(name, Reason.SIGNAL_NAN, empty, "without a value"))
    if twice:
        said.append(_note(name, Reason.SIGNAL_DUPLICATE, twice, "there again with another value; the later one counts"))
    spans = [Span(row.start, row.end, convert(row.value)) for row in placed if row.value is not None]
    return Told(tuple(spans), tuple(said))


def _note(name: str, code: Reason, rows: Sequence[Row], what: str) -> Note:
    many = "1 interval" if len(rows) == 1 else f"{len(rows)} intervals"
    return Note(code, name, f"{name}: {many} {what}; first {rows[0].start:%Y-%m-%dT%H:%MZ}", at=rows[0].start)
