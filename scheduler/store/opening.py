"""Opening the store's file whatever state it is in: fresh, older, newer, damaged, or on a disk that takes no writes.

Why so much care: the file holds what was acknowledged. A newer file is refused untouched; a damaged one is moved aside
under a dated name, and every row of it that still reads is carried over; where nothing can be written the books are
held in memory, so that control goes on while acknowledgements are refused.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from optimizer.reasons import Note, Reason, Severity
from scheduler.store.codec import Damaged, read_body
from scheduler.store.copy import sync_folder
from scheduler.store.schema import KEPT, MIGRATIONS, Migration, held_version, migrate
from scheduler.store.wal import commits, unread

_UNWRITABLE = {3, 8, 10, 13, 14, 23}  # PERM, READONLY, IOERR, FULL, CANTOPEN, AUTH
_IN_USE = {5, 6}  # BUSY, LOCKED
_TABLES = (*KEPT, "journal", "cycles", "latest")
BUSY_TIMEOUT_MS = 5000


class StoreError(Exception):
    """The store can't be opened; the text names the file. Nothing was changed."""


class NewerStore(StoreError):
    """The file was written by a newer Gridpace."""


@dataclass
class Opened:
    """An open database, what a person should know about it, and why it takes no acknowledgements ("": it does)."""

    connection: sqlite3.Connection
    notes: list[Note] = field(default_factory=list)
    trouble: str = ""
    quarantined: Path | None = None


def error_code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 11 (corrupt) for errors that the checks here raise themselves."""
    return int(getattr(error, "sqlite_errorcode", 11)) & 0xFF


def open_file(path: Path, now: datetime, migrations: Sequence[Migration] = MIGRATIONS) -> Opened:
    """Open or create the database at `path`. Raises NewerStore and StoreError, changing nothing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        refuse_newer(path, len(migrations))
        notes: list[Note] = []
        return Opened(_checked(path, now, migrations, notes), notes)
    except (sqlite3.Error, OSError) as error:
        code = error_code(error) if isinstance(error, sqlite3.Error) else 10
        if code in _IN_USE:
            raise StoreError(f"{path} is in use by another process: {error}") from error
        if code in _UNWRITABLE:
            return _in_memory(path, f"{path} can't be written: {error}", now, migrations)
        return _replaced(path, str(error), now, migrations)


def refuse_newer(path: Path, newest: int) -> None:
    """Raise NewerStore for a file of a later schema; sqlite3.DatabaseError for one that is damaged. Only reads."""
    if not path.exists() or path.stat().st_size == 0:
        return
    with closing(connect(path, "ro")) as connection:
        held = held_version(connection)
    if held > newest:
        raise NewerStore(
            f"{path} has schema version {held}, and this Gridpace knows versions up to {newest}: "
            "install the newer Gridpace again, or give the store another path. Nothing was changed."
        )


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """A connection without implicit transactions; `mode` is SQLite's (ro, rw, rwc)."""
    uri = f"file:{quote(str(path.absolute()))}?mode={mode}"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    # A flipped bit may leave bytes that are no text; they must reach the checksum, which refuses that row alone.
    connection.text_factory = _lenient_text
    return connection


def _lenient_text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _checked(
    path: Path, now: datetime, migrations: Sequence[Migration], notes: list[Note] | None = None
) -> sqlite3.Connection:
    """Connect for writing, check the pages, bring the schema up to date, see that every table is there; `notes` gets
    what the log beside the file has lost."""
    path.touch(mode=0o600)
    before = commits(path)
    connection = connect(path, "rw")
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        lost = unread(connection, path, before, now)
        if notes is not None:
            notes.extend(lost)
        connection.execute("PRAGMA synchronous = FULL")
        # The quick check would not see a row that its index no longer finds.
        found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if found != "ok":
            raise sqlite3.DatabaseError(found)
        held = held_version(connection)
        if 0 < held < len(migrations):
            _back_up(connection, path, held, now)
        migrate(connection, held, migrations)
        for table in _TABLES:
            connection.execute(f"SELECT 1 FROM {table} LIMIT 1")  # noqa: S608 - names from this package
    except BaseException:
        connection.close()
        raise
    sync_folder(path.parent)
    return connection


def _back_up(connection: sqlite3.Connection, path: Path, held: int, now: datetime) -> None:
    """A complete copy beside the file before its schema changes."""
    target = path.with_name(f"{path.name}.schema{held}-{now:%Y%m%dT%H%M%SZ}")
    with closing(sqlite3.connect(target)) as backup:
        connection.backup(backup)
    target.chmod(0o600)


def _replaced(path: Path, why: str, now: datetime, migrations: Sequence[Migration]) -> Opened:
    """Move a damaged file aside, open a fresh one and carry over what still reads."""
    aside = path.with_name(f"{path.name}.damaged-{now:%Y%m%dT%H%M%S.%fZ}")
    try:
        for suffix in ("", "-wal", "-shm"):
            part = path.with_name(path.name + suffix)
            if part.exists():
                part.rename(aside.with_name(aside.name + suffix))
        fresh = Opened(_checked(path, now, migrations), quarantined=aside)
    except (sqlite3.Error, OSError) as error:
        return _in_memory(path, f"{path} is damaged ({why}) and no fresh file can be made: {error}", now, migrations)
    rows = _salvage(aside, fresh.connection)
    text = f"{path} was damaged ({why}); it was moved to {aside.name}, {rows} readable rows were carried over"
    fresh.notes.append(Note(Reason.STORE_DEGRADED, "store", text, Severity.ALERT, now))
    return fresh


def _salvage(damaged: Path, fresh: sqlite3.Connection) -> int:
    """Copy every readable row, from both ends of each table; one whose checksum fails stays. Returns how many."""
    rows = 0
    try:
        source = connect(damaged, "ro")
    except sqlite3.Error:
        return 0
    with closing(source):
        # Without this SQLite reads nothing at all from a file that is shorter than its header says.
        source.execute("PRAGMA writable_schema = ON")
        for table, columns in KEPT.items():
            for order in ("ASC", "DESC"):
                rows += _salvage_table(source, fresh, table, columns, order)
    return rows


def _salvage_table(
    source: sqlite3.Connection, fresh: sqlite3.Connection, table: str, columns: tuple[str, ...], order: str
) -> int:
    names, marks = ", ".join(columns), ", ".join("?" * len(columns))
    place = "seq" if table == "records" else "id" if table == "log" else columns[0]
    rows: list[tuple[object, ...]] = []
    with suppress(sqlite3.Error):
        query = f"SELECT {names} FROM {table} ORDER BY {place} {order}"  # noqa: S608 - names from this package
        for row in source.execute(query):
            if _reads(table, row):
                rows.append(row)
    if table == "log":
        seen = set(fresh.execute(f"SELECT {names} FROM log"))  # noqa: S608
        rows = [row for row in rows if row not in seen]
    before = fresh.total_changes
    fresh.execute("BEGIN IMMEDIATE")
    fresh.executemany(f"INSERT OR IGNORE INTO {table} ({names}) VALUES ({marks})", rows)  # noqa: S608
    fresh.execute("COMMIT")
    return fresh.total_changes - before


def _reads(table: str, row: tuple[object, ...]) -> bool:
    """True for a row that is as it was written, as far as its checksum says."""
    if table == "meta":
        return row[0] in {"epoch", "generation"} and isinstance(row[1], int)
    if table not in {"records", "log"}:
        return True
    kind, key, body, crc = (row[0], row[1], row[2], row[3]) if table == "records" else (row[0], row[1], row[3], row[4])
    try:
        read_body(body, crc, kind, key)  # type: ignore[arg-type]
    except (Damaged, ValueError, TypeError):
        return False
    return True


def _in_memory(path: Path, why: str, now: datetime, migrations: Sequence[Migration]) -> Opened:
    """Books in memory, filled from the file as far as it reads; nothing is acknowledged until a restart finds room."""
    memory = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    with suppress(sqlite3.Error, OSError, IndexError):
        _fill_from_file(path, memory)
    try:
        held = held_version(memory)
    except sqlite3.Error:
        memory.close()
        memory, held = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False), 0
    migrate(memory, held, migrations)
    text = f"{why}; control goes on from memory, nothing is acknowledged until a restart can write"
    return Opened(memory, [Note(Reason.STORE_DEGRADED, "store", text, Severity.ALERT, now)], trouble=why)


def _fill_from_file(path: Path, memory: sqlite3.Connection) -> None:
    """Read file and log through a throw-away copy: a log can't be read where no lock file may be made."""
    if not path.exists():
        return
    try:
        with tempfile.TemporaryDirectory(prefix="gridpace-") as folder:
            twin = Path(folder) / path.name
            for suffix in ("", "-wal"):
                part = path.with_name(path.name + suffix)
                if part.exists():
                    shutil.copyfile(part, twin.with_name(twin.name + suffix))
            with closing(connect(twin, "rw")) as source:
                source.backup(memory)
    except OSError:
        with closing(sqlite3.connect(f"file:{quote(str(path.absolute()))}?immutable=1", uri=True)) as source:
            source.backup(memory)
