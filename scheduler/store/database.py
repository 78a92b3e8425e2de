"""One connection, one writer lock, short transactions; and what happens when the disk says no.

Why one connection: the daemon's threads write small rows a few times a second; a lock in front of a single connection
is simple to reason about, and no second connection can checkpoint under a writer. A failed write raises StoreDegraded
to whoever is about to acknowledge something; history is dropped instead, with one note.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from optimizer.reasons import Note, Reason, Severity
from scheduler.store.opening import Opened

Row = tuple[Any, ...]


class StoreDegraded(Exception):
    """A write did not reach the disk: what depended on it must not be acknowledged. The text names file and cause."""

    overruled = False
    """True where it is not the disk: another daemon may lead by now, and this one must do nothing any more."""


class NotLeading(StoreDegraded):
    """A write of a daemon that does not lead (any more)."""

    overruled = True


class NotReplicated(sqlite3.OperationalError):
    """A change could not be told to those who stand by, so that it is not made here either."""


class Replica(Protocol):
    """Whoever stands by with the same books."""

    def begin(self, connection: sqlite3.Connection) -> None:
        """Look at this connection's changes from now on."""
        ...

    def commit(self, connection: sqlite3.Connection) -> None:
        """Tell what the running transaction changed, before it is committed here. Raises NotReplicated."""
        ...


class Database:
    """The store's connection. `wall` gives the real time for notes and expiry; a `replica` is told of each change
    before it is committed here."""

    def __init__(
        self, opened: Opened, path: Path | None, wall: Callable[[], datetime], replica: Replica | None = None
    ) -> None:
        self.path, self.wall = path, wall
        self.lock = threading.RLock()
        self._connection = opened.connection
        self._replica = replica
        if replica is not None:
            replica.begin(self._connection)
        self._blocked = opened.trouble
        self._trouble = opened.trouble
        self._notes: dict[str, Note] = {f"open-{number}": note for number, note in enumerate(opened.notes)}

    @property
    def trouble(self) -> str:
        """Why nothing can be acknowledged at present; empty when all is well."""
        return self._trouble

    def notes(self) -> tuple[Note, ...]:
        """What a person should know about the store now."""
        return tuple(self._notes.values())

    def note(self, key: str, text: str, severity: Severity = Severity.ALERT) -> None:
        """Show one fact; the same `key` is shown once."""
        self._notes.setdefault(key, Note(Reason.STORE_DEGRADED, "store", text, severity, self.wall()))

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One durable transaction: on disk when the block ends. Raises StoreDegraded, with nothing changed."""
        with self.lock:
            if self._blocked:
                raise StoreDegraded(self._blocked)
            try:
                with self._transaction() as connection:
                    yield connection
            except sqlite3.Error as error:
                self._failed(error)
                kind = NotLeading if isinstance(error, NotReplicated) else StoreDegraded
                raise kind(f"{self.path}: {error}") from error
            self._worked()

    def write_history(self, change: Callable[[sqlite3.Connection], object]) -> bool:
        """A transaction that may be lost: False (and one note) when it was."""
        with self.lock:
            try:
                with self._transaction() as connection:
                    change(connection)
            except sqlite3.Error as error:
                self._failed(error)
                self.note("history", f"history is not being written: {error}", Severity.WARNING)
                return False
            self._worked()
            return True

    def read(self, query: str, values: Sequence[object] = ()) -> list[Row]:
        """All rows of a query. Raises StoreDegraded when the file can't be read."""
        with self.lock:
            try:
                return self._connection.execute(query, values).fetchall()
            except sqlite3.Error as error:
                self._failed(error)
                raise StoreDegraded(f"{self.path}: {error}") from error

    def read_history(self, query: str, values: Sequence[object] = ()) -> list[Row]:
        """All rows of a query, or none (and a note) when the file can't be read."""
        try:
            return self.read(query, values)
        except StoreDegraded:
            return []

    def close(self) -> None:
        """Close the connection; the log is folded into the file."""
        with self.lock:
            self._connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            if self._replica is not None:
                self._replica.commit(connection)
            connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise

    def _failed(self, error: sqlite3.Error) -> None:
        self._trouble = f"{self.path}: {error}"
        self.note("write", f"{self._trouble}; events, jobs and orders are not acknowledged while this lasts")

    def _worked(self) -> None:
        """A write went through: what was said about failing ones no longer holds."""
        if self._blocked or not self._trouble:
            return
        self._trouble = ""
        self._notes.pop("write", None)
        self._notes.pop("history", None)
