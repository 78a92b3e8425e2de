"""Which rows a transaction changed, as one message; and such a message made into rows again.

Why by triggers: whatever writes to the books, today or next year, is caught in the same place, so that no change can be
forgotten. Why rows and not statements: a row says the same in every version of the file, whatever made it, and books
that took the same messages in the same order are equal row for row. What only this machine's own past needs (the
dispatch journal, the list of cycles) is not told.
"""

from __future__ import annotations

import base64
import json
import sqlite3
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from scheduler.store.copy import MIRRORED

COLUMNS = {
    "records": ("seq", "kind", "key", "body", "crc", "forget_at"),
    "log": ("id", "kind", "key", "at", "body", "crc"),
    "samples": ("site", "at", "import_kw", "target_kw", "limit_kw", "planned_kw", "price"),
    "peaks": ("charge", "period", "kw"),
    "latest": ("name", "body"),
}
"""Tables that are told, with all their columns."""

KEYS = {
    "records": ("kind", "key"),
    "log": ("id",),
    "samples": ("site", "at"),
    "peaks": ("charge", "period"),
    "latest": ("name",),
}
"""What names a row of each."""

POSITION, STREAM = "stream_seq", "stream_id"
"""Meta rows: the last message that is in the books, and of which stream."""


@dataclass(frozen=True)
class Change:
    """Rows as they are now, and keys of rows that are gone, by table; `epoch` of who wrote them. A change without rows
    only says who leads from here on."""

    epoch: int
    rows: Mapping[str, list[list[Any]]] = field(default_factory=dict)
    gone: Mapping[str, list[list[Any]]] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """True where nothing that is told was changed."""
        return not self.rows and not self.gone


def watch(connection: sqlite3.Connection) -> None:
    """Note every changed row of this connection from now on."""
    connection.execute("CREATE TEMP TABLE touched (tab TEXT, key TEXT, PRIMARY KEY (tab, key))")
    for table, key in KEYS.items():
        for action, state in (("INSERT", "NEW"), ("UPDATE", "NEW"), ("DELETE", "OLD")):
            names = ", ".join(f"{state}.{name}" for name in key)
            note = f"INSERT OR IGNORE INTO touched VALUES ('{table}', json_array({names}))"  # noqa: S608 - from here
            name = f"told_{table}_{action}"
            connection.execute(f"CREATE TEMP TRIGGER {name} AFTER {action} ON main.{table} BEGIN {note}; END")


def taken(connection: sqlite3.Connection, epoch: int) -> Change:
    """What was changed since the last call, inside the running transaction."""
    touched = connection.execute("SELECT tab, key FROM touched ORDER BY rowid").fetchall()
    if not touched:
        return Change(epoch)
    connection.execute("DELETE FROM touched")
    rows: dict[str, list[list[Any]]] = {}
    gone: dict[str, list[list[Any]]] = {}
    for table, text in touched:
        key = json.loads(text)
        query = f"SELECT {', '.join(COLUMNS[table])} FROM {table} WHERE {_where(table)}"  # noqa: S608 - names from here
        row = connection.execute(query, key).fetchone()
        (gone if row is None else rows).setdefault(table, []).append(key if row is None else list(row))
    return Change(epoch, rows, gone)


def apply(connection: sqlite3.Connection, change: Change) -> None:
    """Make the rows what the change says, inside the running transaction."""
    for table, keys in change.gone.items():
        connection.executemany(f"DELETE FROM {table} WHERE {_where(table)}", keys)  # noqa: S608 - `table` is checked
    for table, rows in change.rows.items():
        columns = COLUMNS[table]
        names, marks = ", ".join(columns), ", ".join("?" * len(columns))
        connection.executemany(f"INSERT OR REPLACE INTO {table} ({names}) VALUES ({marks})", rows)  # noqa: S608
    if _mirrored(change):  # the small copy beside the file is older now, and must never win
        connection.execute(
            "INSERT INTO meta VALUES ('generation', 1) ON CONFLICT (key) DO UPDATE SET value = value + 1"
        )


def _where(table: str) -> str:
    return " AND ".join(f"{name} = ?" for name in KEYS[table])


def _mirrored(change: Change) -> bool:
    kinds = {row[1] for row in change.rows.get("records", ())} | {key[0] for key in change.gone.get("records", ())}
    return not kinds.isdisjoint(MIRRORED)


def encode(change: Change) -> bytes:
    """A change as compressed JSON."""
    body = {"epoch": change.epoch, "rows": change.rows, "gone": change.gone}
    return zlib.compress(json.dumps(body, default=_binary, separators=(",", ":")).encode(), 1)


def decode(data: bytes) -> Change:
    """The change of a message. ValueError when it isn't one, or names what these books don't have."""
    try:
        body = json.loads(zlib.decompress(data), object_hook=_bytes)
        rows, gone = dict(body["rows"]), dict(body["gone"])
        for table, held in rows.items():
            _check(held, len(COLUMNS[table]), table)
        for table, held in gone.items():
            _check(held, len(KEYS[table]), table)
        return Change(int(body["epoch"]), rows, gone)
    except (zlib.error, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a change of the books that this Gridpace reads: {error!r}") from error


def _check(rows: Iterable[Any], width: int, table: str) -> None:
    if any(len(row) != width for row in rows):
        raise ValueError(f"a row of {table} has not {width} columns; is the other daemon of another version?")


def _binary(value: object) -> dict[str, str]:
    if isinstance(value, bytes):
        return {"b64": base64.b64encode(value).decode("ascii")}
    raise TypeError(f"{type(value).__name__} cannot be told")


def _bytes(value: dict[str, Any]) -> Any:
    return base64.b64decode(value["b64"]) if value.keys() == {"b64"} else value


def get_meta(connection: sqlite3.Connection, key: str) -> int:
    """A number of the books' own; 0 where there is none."""
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return int(row[0]) if row else 0


def set_meta(connection: sqlite3.Connection, key: str, value: int) -> None:
    """Keep a number of the books' own."""
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))


def forget_position(connection: sqlite3.Connection) -> None:
    """The books go on alone from here: they are at no place of any stream. A disk that takes no writes leaves it."""
    with suppress(sqlite3.Error):
        connection.execute("DELETE FROM meta WHERE key IN (?, ?)", (POSITION, STREAM))
