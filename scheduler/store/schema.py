"""The tables of the store, one migration after the other, and how a file is brought up to date.

Why `records` is one generic table: events, jobs, first-found limits and orders are documents that are read whole and
written whole; one table with one checksum rule is one place where nothing may get lost. What grows (samples, journal,
cycles) has columns of its own. A migration is never edited after a release; a new one is appended.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

Migration = tuple[str, ...]

MIGRATIONS: tuple[Migration, ...] = (
    (
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
        """CREATE TABLE records (
             seq INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, key TEXT NOT NULL, body TEXT NOT NULL,
             crc INTEGER NOT NULL, forget_at TEXT, UNIQUE (kind, key))""",
        "CREATE INDEX records_forget ON records (forget_at) WHERE forget_at IS NOT NULL",
        """CREATE TABLE log (
             id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, key TEXT NOT NULL, at TEXT NOT NULL,
             body TEXT NOT NULL, crc INTEGER NOT NULL)""",
        "CREATE INDEX log_kind ON log (kind, key)",
        "CREATE TRIGGER log_kept BEFORE UPDATE ON log BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END",
        "CREATE TRIGGER log_held BEFORE DELETE ON log BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END",
        """CREATE TABLE journal (
             id INTEGER PRIMARY KEY AUTOINCREMENT, epoch INTEGER NOT NULL, at TEXT NOT NULL, orders TEXT NOT NULL,
             result TEXT)""",
        "CREATE INDEX journal_open ON journal (id) WHERE result IS NULL",
        """CREATE TABLE samples (
             site TEXT NOT NULL, at TEXT NOT NULL, import_kw REAL, target_kw REAL, limit_kw REAL, planned_kw REAL,
             price REAL, PRIMARY KEY (site, at)) WITHOUT ROWID""",
        """CREATE TABLE cycles (
             at TEXT PRIMARY KEY, cycle INTEGER, mode TEXT, rung TEXT, duration_s REAL, solve_s REAL, objective REAL,
             warnings INTEGER, sentence TEXT) WITHOUT ROWID""",
        """CREATE TABLE peaks (
             charge TEXT NOT NULL, period TEXT NOT NULL, kw REAL NOT NULL, PRIMARY KEY (charge, period))
             WITHOUT ROWID""",
        "CREATE TABLE latest (name TEXT PRIMARY KEY, body BLOB NOT NULL)",
    ),
)

KEPT = {
    "meta": ("key", "value"),
    "records": ("kind", "key", "body", "crc", "forget_at"),
    "log": ("kind", "key", "at", "body", "crc"),
    "peaks": ("charge", "period", "kw"),
    "samples": ("site", "at", "import_kw", "target_kw", "limit_kw", "planned_kw", "price"),
}
"""What is carried over from a damaged file, row by row, with the columns that identify nothing but themselves."""


def held_version(connection: sqlite3.Connection) -> int:
    """Schema version of a file: `user_version`, which the table `meta` must repeat (one flipped bit is damage, not a
    newer Gridpace). Raises sqlite3.DatabaseError when the two differ."""
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version == 0:
        return 0
    row = connection.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
    if row is None or row[0] != version:
        raise sqlite3.DatabaseError(f"the header says schema {version}, the table meta says {row and row[0]}")
    return version


def migrate(connection: sqlite3.Connection, held: int, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Bring a file from version `held` to the newest, one transaction for each step."""
    for version, statements in enumerate(migrations[held:], start=held + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in statements:
                connection.execute(statement)
            connection.execute("INSERT OR REPLACE INTO meta VALUES ('schema', ?)", (version,))
            connection.execute(f"PRAGMA user_version = {version:d}")
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
