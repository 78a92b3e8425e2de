"""Documents that must not get lost (events, jobs, orders, first-found limits), the append-only log, and their copy.

Why with the copy: the kinds that a destroyed database is restored from are mirrored in the moment in which they
change, under the same lock; the fencing epoch goes the same way, because a node must never meet an old one again.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from optimizer.reasons import Severity
from scheduler.store.codec import Damaged, checksum, json_text, read_body, text_time, time_text
from scheduler.store.copy import MIRRORED, Mirrored, SmallCopy
from scheduler.store.database import Database, StoreDegraded

UPDATE = "UPDATE SET body = excluded.body, crc = excluded.crc, forget_at = excluded.forget_at"


@dataclass(frozen=True)
class Record:
    """One document to keep. `log_at` also appends it to the append-only log, as of that time, in the same transaction;
    `log_only` appends it without touching the record of that key. `once`: only where there is none of that key yet."""

    kind: str
    key: str
    value: Mapping[str, Any]
    log_at: datetime | None = None
    log_only: bool = False
    once: bool = False


class KeptBefore(Exception):
    """A record that is kept once was there already."""


@dataclass
class _Waiting:
    """One caller's rows, and what became of them."""

    rows: list[tuple[Record, str]]
    done: bool = False
    kept_before: bool = False
    error: Exception | None = None


class Records:
    """Records over the database, mirrored in `copy` where their kind asks for it. Opening raises the epoch by one,
    and to `least_epoch` at least."""

    def __init__(self, database: Database, copy: SmallCopy | None, least_epoch: int = 0) -> None:
        self._database, self._copy = database, copy
        self._waiting: deque[_Waiting] = deque()
        self._restore_from_copy()
        self.epoch = max(self._meta("epoch") + 1, least_epoch)
        database.write_history(lambda db: _set_meta(db, "epoch", self.epoch))
        self._save_copy()

    def put_all(self, records: Iterable[Record]) -> None:
        """Keep several records in one transaction: all of them or, with StoreDegraded, none. Who waits for the disk
        meanwhile is written by whoever gets to it next, in one go: most of the time of a write is the disk's. Raises
        KeptBefore where one that is kept `once` was there."""
        mine = _Waiting([(record, json_text(record.value)) for record in records])
        self._waiting.append(mine)
        with self._database.lock:
            if not mine.done:
                self._write_waiting()
        if mine.error is not None:
            raise mine.error
        if mine.kept_before:
            raise KeptBefore

    def _write_waiting(self) -> None:
        """Commit all that waits; where that fails, each by itself, so that nobody fails for another's fault."""
        batch = [self._waiting.popleft() for _ in range(len(self._waiting))]
        try:
            self._commit(batch)
        except Exception as error:  # noqa: BLE001 - it is raised by those whom it concerns
            for one in batch:
                one.error = error if len(batch) == 1 else self._alone(one)
        except BaseException:
            for one in batch:
                one.error = StoreDegraded("the write was interrupted")
            raise
        finally:
            for one in batch:
                one.done = True

    def _alone(self, one: _Waiting) -> Exception | None:
        try:
            self._commit([one])
        except Exception as error:  # noqa: BLE001 - as above
            return error
        return None

    def _commit(self, batch: Sequence[_Waiting]) -> None:
        mirrored = any(record.kind in MIRRORED for one in batch for record, _ in one.rows)
        with self._database.write() as db:
            for one in batch:
                written = [self._write(db, record, body) for record, body in one.rows]
                one.kept_before = not all(written)
            if mirrored:
                _set_meta(db, "generation", self._meta("generation") + 1)
        if mirrored:
            self._save_copy()

    def get(self, kind: str, key: str) -> dict[str, Any] | None:
        """One record or None. Raises StoreDegraded when the file can't be read."""
        rows = self._database.read("SELECT body, crc FROM records WHERE kind = ? AND key = ?", (kind, key))
        return self._body(kind, key, rows[0][0], rows[0][1]) if rows else None

    def all(self, kind: str) -> dict[str, dict[str, Any]]:
        """Every record of a kind by key, oldest first; a damaged one is left out, with an alert."""
        rows = self._database.read("SELECT key, body, crc FROM records WHERE kind = ? ORDER BY seq", (kind,))
        found = {key: self._body(kind, key, body, crc) for key, body, crc in rows}
        return {key: body for key, body in found.items() if body is not None}

    def log(self, kind: str, key: str | None = None) -> list[tuple[datetime, dict[str, Any]]]:
        """What was appended under a kind (and key), oldest first, with its time."""
        query = "SELECT at, key, body, crc FROM log WHERE kind = ? AND (? IS NULL OR key = ?) ORDER BY id"
        rows = self._database.read(query, (kind, key, key))
        bodies = [(text_time(at), self._body(kind, name, body, crc)) for at, name, body, crc in rows]
        return [(at, body) for at, body in bodies if body is not None]

    def forget(self, kind: str, keys: Sequence[str]) -> bool:
        """Delete records; False when the disk says no and they stay."""

        def change(db: sqlite3.Connection) -> None:
            db.executemany("DELETE FROM records WHERE kind = ? AND key = ?", [(kind, key) for key in keys])
            _set_meta(db, "generation", self._meta("generation") + 1)

        with self._database.lock:
            gone = self._database.write_history(change)
            if gone and kind in MIRRORED:
                self._save_copy()
        return gone

    def _write(self, db: sqlite3.Connection, record: Record, body: str) -> bool:
        """Write one record; False where it is kept once and was there."""
        crc = checksum(record.kind, record.key, body)
        if record.log_at is not None:
            db.execute(
                "INSERT INTO log (kind, key, at, body, crc) VALUES (?, ?, ?, ?, ?)",
                (record.kind, record.key, time_text(record.log_at), body, crc),
            )
        if record.log_only:
            return True
        now, age = self._database.wall(), record.value.get("forget_after_s")
        forget_at = None if age is None else time_text(now + timedelta(seconds=float(age)))
        if forget_at is not None:
            db.execute("DELETE FROM records WHERE forget_at < ?", (time_text(now),))
        conflict = "NOTHING" if record.once else UPDATE
        done = db.execute(
            "INSERT INTO records (kind, key, body, crc, forget_at) VALUES (?, ?, ?, ?, ?)"  # noqa: S608 - our own text
            f" ON CONFLICT (kind, key) DO {conflict}",
            (record.kind, record.key, body, crc, forget_at),
        )
        return done.rowcount == 1

    def _body(self, kind: str, key: str, body: str, crc: int) -> dict[str, Any] | None:
        try:
            return read_body(body, crc, kind, key)
        except (Damaged, ValueError):
            self._database.note(f"damaged-{kind}-{key}", f"{kind} {key}: the record is damaged and was left out")
            return None

    def _meta(self, key: str) -> int:
        rows = self._database.read_history("SELECT value FROM meta WHERE key = ?", (key,))
        return int(rows[0][0]) if rows else 0

    def _restore_from_copy(self) -> None:
        """The copy's records replace the database's where it has seen more changes, or as many and the database's are
        damaged."""
        held = self._copy.load() if self._copy is not None else None
        generation, epoch = self._meta("generation"), self._meta("epoch")
        if held is None:
            return
        behind = held.generation > generation or (held.generation == generation and self._mirror_differs(held.records))
        if not behind and held.epoch <= epoch:
            return

        def change(db: sqlite3.Connection) -> None:
            _set_meta(db, "epoch", max(held.epoch, epoch))
            if behind:
                _set_meta(db, "generation", held.generation)
                self._replace_mirrored(db, held.records)

        self._database.write_history(change)
        text = "first-found limits, orders and epoch were restored from the copy: the database knew less"
        self._database.note("restored", text, Severity.WARNING)

    def _mirror_differs(self, kinds: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> bool:
        """True where a record that both should hold is damaged in the database."""
        return any(set(self.all(kind)) != set(kinds.get(kind, {})) for kind in MIRRORED)

    def _replace_mirrored(self, db: sqlite3.Connection, kinds: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
        for kind in MIRRORED:
            db.execute("DELETE FROM records WHERE kind = ?", (kind,))
            for key, value in kinds.get(kind, {}).items():
                self._write(db, Record(kind, key, value), json_text(value))

    def _save_copy(self) -> None:
        if self._copy is None or self._database.trouble:
            return
        try:  # what was committed is committed, whatever becomes of its copy
            kinds = {kind: self.all(kind) for kind in MIRRORED}
            self._copy.save(Mirrored(self._meta("generation"), self.epoch, kinds))
        except (OSError, StoreDegraded) as error:
            self._database.note("copy", f"{self._copy.path} can't be written: {error}", Severity.WARNING)


def _set_meta(db: sqlite3.Connection, key: str, value: int) -> None:
    db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))
