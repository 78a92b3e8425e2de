"""The books of a daemon that stands by: a file that takes the stream's messages in order, and nothing else.

Why no merging: everything that was acknowledged is in the stream, so books that know something else were kept while
their daemon ran alone. They are moved aside whole, under a name that says when, with a count of what only they hold;
which of two histories is right is a person's to say.
"""

from __future__ import annotations

import gzip
import shutil
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from nats.js.api import RawStreamMsg

from adapters.ports import AdapterError
from scheduler.standby.stream import PART, PARTS, BooksStream, Extent
from scheduler.store import capture
from scheduler.store.copy import copy_path
from scheduler.store.opening import connect, open_file

AT_ONCE = 64
"""Messages that are fetched, and written, together."""

LOCAL = ("journal", "cycles")
"""Tables of a machine's own past: not in a snapshot."""


class Books:
    """The file at `path`, while its daemon stands by. Used from one thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position, self.stream, self.epoch = 0, 0, 0
        self.aside: Path | None = None
        self.extent: Extent | None = None
        self._connection: sqlite3.Connection | None = None
        self._parts: list[bytes] = []

    def open(self) -> None:
        """Open or make the file; a damaged one was moved aside and begins anew. StoreError for one that can't be used,
        AdapterError for a disk that takes no writes."""
        opened = open_file(self.path, datetime.now(UTC))
        if opened.trouble:
            opened.connection.close()
            raise AdapterError(opened.trouble)
        if opened.quarantined is not None:
            self.aside = opened.quarantined
            opened.connection.close()
            self._remove()
            opened = open_file(self.path, datetime.now(UTC))
        self._connection = opened.connection
        self._look()

    @property
    def is_open(self) -> bool:
        """Whether the file is ours now."""
        return self._connection is not None

    def close(self) -> None:
        """Let the file go; what was applied is on disk."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._parts = []

    def step(self, stream: BooksStream) -> int | None:
        """Apply what is new in the stream, a part of it where that is much: how many messages are left, or None where
        these books wait for a snapshot. AdapterError when bus or disk can't be reached."""
        extent = self.extent = stream.extent()
        if self.leads_anew(extent) or (extent.stream != self.stream and not self._join(extent)):
            return None
        begun = self.position + len(self._parts)
        if begun < extent.first - 1 or self.position == 0:
            if extent.snapshot < extent.first - 1:
                return None
            self._install(stream, extent)
            begun = self.position
        if begun < extent.last:
            self._apply(begun, stream.read(begun + 1, min(extent.last, begun + AT_ONCE)))
        return extent.last - self.position - len(self._parts)

    def catch_up(self, stream: BooksStream, until: int) -> None:
        """Apply everything up to message `until`. AdapterError when that can't be had."""
        while self.position < until:
            before = self.position + len(self._parts)
            if self.step(stream) is None or self.position + len(self._parts) == before:
                raise AdapterError(f"message {before + 1} of the books' stream is missing")

    # ------------------------------------------------------------ joining a stream
    def leads_anew(self, extent: Extent) -> bool:
        """Whether the stream has to begin with these books, should they lead: it has no snapshot, so that nothing was
        ever answered for in it; or its server has lost its end, which these books have."""
        return extent.snapshot < 0 or (extent.stream == self.stream and self.position > extent.last)

    def adopt(self, stream: int, position: int) -> None:
        """These books are what the stream has up to message `position`."""
        self._set(stream, position)

    def _join(self, extent: Extent) -> bool:
        """Begin with a stream that these books don't come from. False while it can't be begun with: its leader has not
        yet told what it began with."""
        if extent.snapshot < 0:
            return False
        if not self._empty():
            self._move_aside()
        self._set(extent.stream, 0)
        return True

    def _empty(self) -> bool:
        tables = ("records", "log", "samples")
        return not any(self._ask(f"SELECT 1 FROM {table} LIMIT 1") for table in tables)  # noqa: S608 - names from here

    def _move_aside(self) -> None:
        """Begin with an empty file; the one before stays under a dated name."""
        self.close()
        aside = self.path.with_name(f"{self.path.name}.aside-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
        with closing(connect(self.path, "rw")) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.path.rename(aside)
        self.aside = aside
        self._remove()
        self.open()

    def _remove(self) -> None:
        """Without the file, its log, and the copy, which would know better."""
        for path in (self.path, *(self.path.with_name(self.path.name + end) for end in ("-wal", "-shm"))):
            path.unlink(missing_ok=True)
        copy_path(self.path).unlink(missing_ok=True)

    def _install(self, stream: BooksStream, extent: Extent) -> None:
        """Begin with the snapshot in place of the file: whatever that held, the snapshot holds too."""
        packed, fresh = (self.path.with_name(self.path.name + end) for end in (".snapshot.gz", ".snapshot"))
        try:
            stream.get_snapshot(packed)
            with gzip.open(packed) as source, fresh.open("wb") as target:
                shutil.copyfileobj(source, target)
            fresh.chmod(0o600)
            epoch = self.epoch
            self.close()
            self._remove()
            fresh.rename(self.path)
            self.open()
            self._set(extent.stream, extent.snapshot)
            self.keep_epoch(epoch)
        except (OSError, EOFError, sqlite3.Error) as error:
            raise AdapterError(f"{self.path}: the snapshot can't be taken over: {error}") from error
        finally:
            packed.unlink(missing_ok=True)
            fresh.unlink(missing_ok=True)

    # ------------------------------------------------------------ applying
    def _apply(self, begun: int, messages: Sequence[RawStreamMsg]) -> None:
        """Apply whole changes, together with how far they go; parts of one wait for its last."""
        changes: list[capture.Change] = []
        position = self.position
        for number, message in enumerate(messages, begun + 1):
            headers = message.headers or {}
            part, parts = int(headers.get(PART, 0)), int(headers.get(PARTS, 1))
            if part != len(self._parts):  # a writer ended in the middle; what it had begun was never answered for
                self._parts = []
            self._parts.append(message.data or b"")
            if part == parts - 1:
                changes.append(self._decoded(number))
                self._parts, position = [], number
        self._write(changes, position)

    def _decoded(self, number: int) -> capture.Change:
        try:
            return capture.decode(b"".join(self._parts))
        except ValueError as error:
            raise AdapterError(f"message {number} of the books' stream: {error}") from error

    def _write(self, changes: Iterable[capture.Change], position: int) -> None:
        connection = self._connected()
        try:
            connection.execute("BEGIN IMMEDIATE")
            for change in changes:
                capture.apply(connection, change)
                self.epoch = max(self.epoch, change.epoch)
            capture.set_meta(connection, "epoch", self.epoch)
            capture.set_meta(connection, capture.POSITION, position)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise AdapterError(f"{self.path}: {error}") from error
        self.position = position

    def _set(self, stream: int, position: int) -> None:
        connection = self._connected()
        connection.execute("BEGIN IMMEDIATE")
        capture.set_meta(connection, capture.STREAM, stream)
        capture.set_meta(connection, capture.POSITION, position)
        connection.execute("COMMIT")
        self._look()

    def keep_epoch(self, epoch: int) -> None:
        """Somebody leads, or led, under this one: none that is as low is ever used again."""
        if epoch > self.epoch:
            capture.set_meta(self._connected(), "epoch", epoch)
            self.epoch = epoch

    def _look(self) -> None:
        connection = self._connected()
        self.stream = capture.get_meta(connection, capture.STREAM)
        self.position = capture.get_meta(connection, capture.POSITION) if self.stream else 0
        self.epoch = capture.get_meta(connection, "epoch")

    def _ask(self, query: str) -> list[tuple[object, ...]]:
        return self._connected().execute(query).fetchall()

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            raise AdapterError(f"{self.path}: not open")
        return self._connection


def snapshot(path: Path, packed: Path) -> int:
    """A consistent copy of the books in use at `path`, packed, without what is this machine's own; which message it
    goes up to. Raises sqlite3.Error and OSError."""
    plain = packed.with_suffix(".plain")
    plain.unlink(missing_ok=True)
    try:
        with closing(connect(path, "ro")) as source:
            source.execute("VACUUM INTO ?", (str(plain),))
        with closing(connect(plain, "rw")) as copy:
            for table in LOCAL:
                copy.execute(f"DELETE FROM {table}")  # noqa: S608 - names from here
            position = capture.get_meta(copy, capture.POSITION)
        with plain.open("rb") as file, gzip.open(packed, "wb", compresslevel=3) as target:
            shutil.copyfileobj(file, target)
    finally:
        plain.unlink(missing_ok=True)
    return position
