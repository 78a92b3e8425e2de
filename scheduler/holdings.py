"""What books say is held, read beside whoever writes them."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from adapters.ports import AdapterError
from scheduler.store.codec import Damaged, read_body


@dataclass(frozen=True)
class Holding:
    """One thing that is held: its kind (`limit`, `clock`, `parked`, `job`; `event` or `site` of what a stop left to
    agents; of a gateway `batch`, `sale`), what it is on, and what was done."""

    kind: str
    subject: str
    text: str


def records_in(path: Path, kinds: Sequence[str]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Kind, key and body of the records of these kinds, oldest first; none where there are no books. Raises
    AdapterError where they can't be read."""
    if not path.exists():
        return []
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=5.0)) as books:
            marks = ", ".join("?" * len(kinds))
            query = f"SELECT kind, key, body, crc FROM records WHERE kind IN ({marks}) ORDER BY seq"  # noqa: S608
            rows = books.execute(query, tuple(kinds)).fetchall()
        return [(kind, key, read_body(body, crc, kind, key)) for kind, key, body, crc in rows]
    except (sqlite3.Error, Damaged) as error:
        raise AdapterError(f"{path}: the books can't be read: {error}") from error
