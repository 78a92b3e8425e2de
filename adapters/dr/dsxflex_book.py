"""The load targets of one feed over time, and the events that they are.

Why painted: a message replaces what was ordered for its interval and leaves the rest, null included; messages come
twice, late and in disorder, so that each piece remembers the time at which its message was made, and only newer ones
cover it. What lies together without a gap is one event, whatever number of messages made it: the site must not leave by
its ramp between two targets that follow each other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count, groupby
from typing import Any

FOREVER = datetime(9999, 1, 1, tzinfo=UTC)
KEPT = timedelta(hours=1)
"""How long an event that is over is remembered, so that a message that continues it at once continues it."""

Stamp = tuple[str, str, int]
"""When a message was made, its id, the place of the target in it: the order in which targets cover each other."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A cap in kW (None: removed) over [start, end), by the message that said so."""

    start: datetime
    end: datetime
    kw: float | None
    best_effort: bool
    stamp: Stamp
    correlation: str


@dataclass(frozen=True, slots=True)
class Sent:
    """What the ledger was last told of an event; `until` is where a part of an open end was cut."""

    version: int
    start: datetime
    end: datetime
    digest: str
    until: datetime
    refused: bool = False


@dataclass(frozen=True)
class Book:
    """All pieces in order of time, and what the ledger holds of them, by event id."""

    pieces: tuple[Piece, ...] = ()
    sent: Mapping[str, Sent] = field(default_factory=dict)

    def painted(self, pieces: Iterable[Piece]) -> Book:
        """The book after further targets."""
        held = self.pieces
        for piece in pieces:
            held = _painted(held, piece)
        return replace(self, pieces=held)

    def without_past(self, now: datetime, oldest: timedelta) -> Book:
        """The book without events that are long over, and without removals that nothing late can come under."""
        limit = (now - oldest).isoformat()
        kept = [piece for piece in self.pieces if piece.kw is None and piece.stamp[0] > limit]
        kept += [piece for group in groups(self.pieces) if group[-1].end > now - KEPT for piece in group]
        sent = {name: told for name, told in self.sent.items() if told.end > now - KEPT}
        return Book(tuple(sorted(kept, key=lambda piece: piece.start)), sent)


@dataclass(frozen=True, slots=True)
class Order:
    """What the ledger is to be told: an event with its pieces, or (none) that it is withdrawn."""

    id: str
    version: int
    pieces: tuple[Piece, ...]
    sent: Sent | None


def groups(pieces: Iterable[Piece]) -> list[list[Piece]]:
    """Caps that follow each other without a gap."""
    found: list[list[Piece]] = []
    for piece in pieces:
        if piece.kw is None:
            continue
        if found and found[-1][-1].end == piece.start:
            found[-1].append(piece)
        else:
            found.append([piece])
    return found


def orders(book: Book, now: datetime, most: timedelta) -> list[Order]:
    """What the ledger does not know yet. `most`: how much of an open end it is told at once; it is told of more when
    half of that is left."""
    free = dict(sorted(dict(book.sent).items(), key=lambda entry: entry[1].start))
    found: list[Order] = []
    for group in groups(book.pieces):
        start, end = group[0].start, group[-1].end
        if end <= now:
            free = {name: told for name, told in free.items() if told.end > end or told.end < start}
            continue
        name = next((name for name, told in free.items() if told.start <= end and start <= told.end), None)
        told = free.pop(name) if name is not None else None
        digest = _digest(group)
        if told is not None and told.digest == digest and (told.until == end or told.until - now > most / 2):
            continue
        begin = max(start, now)
        until = min(end, begin + most) if end == FOREVER else end
        version = told.version + 1 if told is not None else 0
        name = name or _new_name(group[0], {*book.sent, *(order.id for order in found)})
        cut = tuple(
            replace(piece, start=max(piece.start, begin), end=min(piece.end, until))
            for piece in group
            if piece.end > begin and piece.start < until
        )
        found.append(Order(name, version, cut, Sent(version, start, end, digest, until)))
    gone = [Order(name, told.version + 1, (), None) for name, told in free.items() if told.end > now]
    return gone + found


def _new_name(first: Piece, taken: Container[str]) -> str:
    """The message's id and the place of the target in it; numbered where a removal cut the target in two."""
    name = f"{first.stamp[1]}-{first.stamp[2]}"
    return next(found for number in count() if (found := f"{name}.{number}" if number else name) not in taken)


def _painted(held: tuple[Piece, ...], new: Piece) -> tuple[Piece, ...]:
    result = [piece for piece in held if piece.end <= new.start or piece.start >= new.end]
    cursor = new.start
    for piece in held:
        if piece.end <= new.start or piece.start >= new.end:
            continue
        if piece.stamp >= new.stamp:
            result.append(piece)
            if piece.start > cursor:
                result.append(replace(new, start=cursor, end=piece.start))
            cursor = max(cursor, piece.end)
            continue
        if piece.start < new.start:
            result.append(replace(piece, end=new.start))
        if piece.end > new.end:
            result.append(replace(piece, start=new.end))
    if cursor < new.end:
        result.append(replace(new, start=cursor))
    return _joined(sorted(result, key=lambda piece: piece.start))


def _joined(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """Neighbours of the same message put together again."""
    result: list[Piece] = []
    for piece in pieces:
        if (
            result
            and replace(result[-1], end=piece.end) == replace(piece, start=result[-1].start)
            and (result[-1].end == piece.start)
        ):
            result[-1] = replace(result[-1], end=piece.end)
        else:
            result.append(piece)
    return tuple(result)


def _digest(group: Sequence[Piece]) -> str:
    """What a group asks, whoever said it."""
    runs = [list(run) for _, run in groupby(group, key=lambda piece: (piece.kw, piece.best_effort))]
    said = [(run[0].start.isoformat(), run[-1].end.isoformat(), run[0].kw, run[0].best_effort) for run in runs]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def to_record(book: Book) -> dict[str, Any]:
    """The book as it is kept."""
    pieces = [
        [p.start.isoformat(), p.end.isoformat(), p.kw, p.best_effort, list(p.stamp), p.correlation] for p in book.pieces
    ]
    sent = {
        name: [s.version, s.start.isoformat(), s.end.isoformat(), s.digest, s.until.isoformat(), s.refused]
        for name, s in dict(book.sent).items()
    }
    return {"pieces": pieces, "sent": sent}


def from_record(record: Mapping[str, Any] | None) -> Book:
    """The book as it was kept."""
    if record is None:
        return Book((), {})
    at = datetime.fromisoformat
    pieces = tuple(
        Piece(at(start), at(end), kw, best, (stamp[0], stamp[1], stamp[2]), correlation)
        for start, end, kw, best, stamp, correlation in record["pieces"]
    )
    sent = {
        name: Sent(version, at(start), at(end), digest, at(until), refused)
        for name, (version, start, end, digest, until, refused) in record["sent"].items()
    }
    return Book(pieces, sent)
