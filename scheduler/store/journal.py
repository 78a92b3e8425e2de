"""What the dispatcher writes down: limits found before the first write, and every dispatch with how it ended.

Why apart from history: after a kill in the middle of a dispatch these rows are all that says which GPUs were being
written and what they must get back. Limits are on disk before the first write or the write does not happen; the
journal is dropped with a note when the disk says no, because control goes on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from scheduler.store.codec import json_text, plain_values, text_time, time_text, typed_value
from scheduler.store.database import Database
from scheduler.store.records import Record, Records

KEEP_JOURNAL = timedelta(days=30)


@dataclass(frozen=True)
class FirstLimit:
    """A GPU's limit in W as found before the first write."""

    gpu: str
    limit_w: float
    model: str
    found_at: datetime


class FirstLimits:
    """Limits to give back, insert-if-absent; reads are served from memory, so that a dead disk can't hide them."""

    def __init__(self, records: Records, database: Database) -> None:
        self._records, self._lock = records, database.lock
        self._held = {gpu: typed_value(FirstLimit, body) for gpu, body in records.all("first_limit").items()}

    def remember(self, limits: Mapping[str, tuple[float, str]], now: datetime) -> None:
        """Keep (limit in W, model) of GPUs that are not known yet. Raises StoreDegraded."""
        with self._lock:
            fresh = {
                gpu: FirstLimit(gpu, float(limit_w), model, now)
                for gpu, (limit_w, model) in limits.items()
                if gpu not in self._held
            }
            if fresh:
                self._records.put_all(Record("first_limit", gpu, plain_values(limit)) for gpu, limit in fresh.items())
                self._held.update(fresh)

    def rows(self) -> tuple[FirstLimit, ...]:
        """Every limit that is still to be given back."""
        with self._lock:
            return tuple(self._held.values())

    def forget(self, ids: Sequence[str]) -> None:
        """Drop limits whose release was confirmed. A disk that says no keeps them: giving back twice does no harm."""
        with self._lock:
            known = [gpu for gpu in ids if gpu in self._held]
            if known and self._records.forget("first_limit", known):
                for gpu in known:
                    del self._held[gpu]


@dataclass(frozen=True)
class Intent:
    """A dispatch that was journalled; `result` None: it isn't known how it ended."""

    id: int
    epoch: int
    at: datetime
    orders: Mapping[str, Any]
    result: Mapping[str, Any] | None = None


class Journal:
    """One compact row for each dispatch; rows with a result are kept for 30 days."""

    def __init__(self, database: Database, epoch: int) -> None:
        self._database, self._epoch = database, epoch
        before = time_text(database.wall() - KEEP_JOURNAL)
        query = "DELETE FROM journal WHERE at < ? AND result IS NOT NULL"
        database.write_history(lambda db: db.execute(query, (before,)))

    def intent(self, orders: Mapping[str, Any]) -> int:
        """Write down what is about to be applied; its number, or 0 when the disk says no."""
        numbers: list[int | None] = []
        values = (self._epoch, time_text(self._database.wall()), json_text(orders))
        query = "INSERT INTO journal (epoch, at, orders) VALUES (?, ?, ?)"
        kept = self._database.write_history(lambda db: numbers.append(db.execute(query, values).lastrowid))
        return (numbers[0] or 0) if kept else 0

    def result(self, intent: int, result: Mapping[str, Any]) -> None:
        """Write down how it ended."""
        if intent:
            values = (json_text(result), intent)
            self._database.write_history(lambda db: db.execute("UPDATE journal SET result = ? WHERE id = ?", values))

    def open(self) -> tuple[Intent, ...]:
        """Dispatches without a result, oldest first."""
        return self._rows("WHERE result IS NULL ORDER BY id")

    def last(self, count: int) -> tuple[Intent, ...]:
        """The last dispatches, newest first."""
        return self._rows("ORDER BY id DESC LIMIT ?", (count,))

    def _rows(self, rest: str, values: Sequence[object] = ()) -> tuple[Intent, ...]:
        query = f"SELECT id, epoch, at, orders, result FROM journal {rest}"  # noqa: S608 - `rest` is from this class
        return tuple(_intent(*row) for row in self._database.read_history(query, values))


def _intent(number: int, epoch: int, at: str, orders: str, result: str | None) -> Intent:
    return Intent(number, epoch, text_time(at), json.loads(orders), json.loads(result) if result else None)
