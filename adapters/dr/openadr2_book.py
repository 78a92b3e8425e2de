"""What the ledger was told of each OpenADR 2.0b event, on disk: versions, random starts, how far an open end is told.

Steps that ask nothing (SIMPLE 0) are gaps; each run of others is a part, one event in the ledger. An event mostly has
one part, and is then known by its own id.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from adapters.dr.openadr2_event import Asked, Step
from adapters.ports import EventMessage, EventTarget, RecordStore

BOOK = "oadr2_book"


@dataclass(frozen=True, slots=True)
class Held:
    """One event as it was last told: versions rise with every change, whatever the server's modification numbers.
    `told`: what the server was last answered."""

    modification: int
    version: int
    digest: str
    parts: int
    late_s: float
    until: str = ""
    told: str = ""


class Book:
    """Events by id; each change is on disk when it returns. `records` None: in memory alone."""

    def __init__(self, records: RecordStore | None, program: str) -> None:
        self._records, self._program = records, program
        kept = records.get(BOOK, program) if records is not None else None
        self.held = {event_id: Held(**fields) for event_id, fields in (kept or {"held": {}})["held"].items()}

    def keep(self, event_id: str, held: Held | None) -> None:
        """Remember or forget an event."""
        changed = {**self.held, event_id: held}
        kept = {name: entry for name, entry in changed.items() if entry is not None}
        if self._records is not None:
            body = {"held": {name: asdict(entry) for name, entry in kept.items()}}
            self._records.put(BOOK, self._program, body)
        self.held = kept


def next_held(held: Held | None, asked: Asked, now: datetime, most: timedelta) -> Held:
    """The event as it is to be told now: the same version where nothing is new. `most`: how much of an open end is
    told at once. A random start is drawn once."""
    if held is None:
        late_s = random.uniform(0.0, max(0.0, asked.start_after.total_seconds()))
        return _told(Held(asked.modification, 0, asked.digest, 0, late_s), asked, now, most)
    changed = asked.digest != held.digest
    due = bool(held.until) and datetime.fromisoformat(held.until) - now <= most / 2
    if not changed and not due:
        return held
    newer = replace(held, modification=asked.modification, version=held.version + 1, digest=asked.digest)
    return _told(newer, asked, now, most)


def _told(held: Held, asked: Asked, now: datetime, most: timedelta) -> Held:
    open_end = bool(asked.steps) and asked.steps[-1].end is None
    begin = asked.steps[-1].start + timedelta(seconds=held.late_s) if asked.steps else now
    until = (max(now, begin) + most).isoformat() if open_end else ""
    return replace(held, until=until, parts=max(held.parts, len(_parts(asked.steps))))


def messages(asked: Asked, held: Held, now: datetime, about: Mapping[str, Any]) -> list[EventMessage]:
    """What the ledger is told: each part, and the end of parts that are there no more. `about` holds the fields that
    are the same for all messages of the program."""
    late = timedelta(seconds=held.late_s)
    until = datetime.fromisoformat(held.until) if held.until else None
    found = []
    for number, part in enumerate(_parts(asked.steps)):
        steps = [replace(s, start=s.start + late, end=s.end + late if s.end else until) for s in part]
        if until is not None and steps[-1].end == until:  # of an open end, what is past was told before
            steps = [replace(s, start=max(s.start, now)) for s in steps if s.end is not None and s.end > now]
        targets = tuple(EventTarget(s.start, s.end, **s.target) for s in steps if s.end is not None)
        if not targets or targets[-1].end <= now:
            continue
        found.append(
            EventMessage(
                id=part_id(asked.id, number), version=held.version, start=targets[0].start, end=targets[-1].end,
                targets=targets, priority=asked.priority, name=asked.name,
                raw={"digest": asked.digest, "modification": asked.modification, "version": held.version}, **about,
            )
        )  # fmt: skip
    gone = range(len(_parts(asked.steps)), held.parts)
    return found + [withdrawal(asked.id, number, held.version, now, about) for number in gone]


def withdrawal(event_id: str, part: int, version: int, now: datetime, about: Mapping[str, Any]) -> EventMessage:
    """The end of one part."""
    return EventMessage(
        id=part_id(event_id, part), version=version, start=now, end=now + timedelta(seconds=1), targets=(),
        cancelled=True, raw={"version": version, "cancelled": True}, **about,
    )  # fmt: skip


def part_id(event_id: str, part: int) -> str:
    """Id of a part in the ledger."""
    return f"{event_id}.{part}" if part else event_id


def _parts(steps: tuple[Step, ...]) -> list[list[Step]]:
    """Steps that ask something, those together that follow each other."""
    found: list[list[Step]] = []
    for step in steps:
        if not step.target:
            continue
        if found and found[-1][-1].end == step.start:
            found[-1].append(step)
        else:
            found.append([step])
    return found
