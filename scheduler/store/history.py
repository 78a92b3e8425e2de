"""Samples, cycles and peaks: what the page and the baselines look back on.

Why thinned: the fast loop measures every second; a minute's mean keeps the energy exact and a year in a few hundred MB.
Rows wait in memory and go to disk in batches, so that the fast loop never waits for more than one small write; when
the disk is full they wait longer, and the oldest are dropped at last.
"""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from optimizer.reasons import Severity
from scheduler.status import CycleReport
from scheduler.store.codec import floor_minute, text_time, time_text
from scheduler.store.database import Database

COLUMNS = ("at", "import_kw", "target_kw", "limit_kw", "planned_kw", "price_per_mwh")
BATCH, WAIT_S, LONGEST_QUEUE = 200, 1.0, 20_000
KEEP_SAMPLES, KEEP_CYCLES = timedelta(days=400), timedelta(days=90)


@dataclass
class _Minute:
    """One site's running minute."""

    at: datetime
    import_sum: float = 0.0
    imports: int = 0
    target_kw: float | None = None
    limit_kw: float | None = None
    planned_kw: float | None = None
    price: float | None = None

    def row(self, site: str) -> tuple[Any, ...]:
        """The sample as it is kept."""
        mean = self.import_sum / self.imports if self.imports else None
        return (site, time_text(self.at), mean, self.target_kw, self.limit_kw, self.planned_kw, self.price)


class History:
    """The growing tables. `monotonic` paces the batches in real time, whatever the simulated clock does."""

    def __init__(self, database: Database, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._database, self._monotonic = database, monotonic
        self._minutes: dict[str, _Minute] = {}
        self._waiting: list[tuple[Any, ...]] = []
        self._flushed_at = monotonic()
        self._pruned_on = ""
        self._peaks = {(row[0], row[1]): float(row[2]) for row in database.read_history("SELECT * FROM peaks")}

    def add_sample(self, site: str, at: datetime, values: Sequence[float | None]) -> None:
        """One reading: import, target, limit, planned (kW) and price per MWh; what isn't finite counts as unknown."""
        import_kw, target_kw, limit_kw, planned_kw, price = (_known(value) for value in values)
        with self._database.lock:
            minute = self._minute(site, floor_minute(at))
            if import_kw is not None:
                minute.import_sum += import_kw
                minute.imports += 1
            minute.target_kw = _stricter(minute.target_kw, target_kw)
            minute.limit_kw = _stricter(minute.limit_kw, limit_kw)
            minute.planned_kw = planned_kw if planned_kw is not None else minute.planned_kw
            minute.price = price if price is not None else minute.price
            if len(self._waiting) >= BATCH or (self._waiting and self._monotonic() - self._flushed_at >= WAIT_S):
                self.flush()

    def _minute(self, site: str, at: datetime) -> _Minute:
        """The running minute; a finished one joins the queue."""
        running = self._minutes.get(site)
        if running is None or running.at != at:
            if running is not None:
                self._waiting.append(running.row(site))
            running = self._minutes[site] = _Minute(at)
        return running

    def flush(self) -> None:
        """Write the queue in one transaction."""
        with self._database.lock:
            self._flushed_at = self._monotonic()
            if not self._waiting:
                return
            rows = self._waiting
            if self._database.write_history(lambda connection: self._write_samples(connection, rows)):
                self._waiting = []
            elif len(rows) > LONGEST_QUEUE:
                del rows[: len(rows) - LONGEST_QUEUE]
                self._database.note("dropped", "samples were dropped: the disk takes no writes", Severity.WARNING)

    def _write_samples(self, connection: sqlite3.Connection, rows: list[tuple[Any, ...]]) -> None:
        connection.executemany("INSERT OR REPLACE INTO samples VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        newest = max(row[1] for row in rows)
        if newest[:10] != self._pruned_on:
            self._pruned_on = newest[:10]
            before = time_text(text_time(newest) - KEEP_SAMPLES)
            connection.execute("DELETE FROM samples WHERE at < ?", (before,))

    def samples(self, site: str, start: datetime, end: datetime) -> dict[str, list[Any]]:
        """Minutes that begin in [floor of start, end), in columns of equal length; None where unknown."""
        rows = self._rows(site, start, end)
        columns = {name: [row[index] for row in rows] for index, name in enumerate(COLUMNS)}
        columns["at"] = [text_time(text) for text in columns["at"]]
        return columns

    def mean_import_kw(self, site: str, start: datetime, end: datetime) -> float | None:
        """Mean import over the minutes of [start, end) that were measured; None when none was."""
        known = [row[1] for row in self._rows(site, start, end) if row[1] is not None]
        return math.fsum(known) / len(known) if known else None

    def _rows(self, site: str, start: datetime, end: datetime) -> list[tuple[Any, ...]]:
        """Rows without the site, from disk, queue and the running minute, in the order of time."""
        first, last = time_text(floor_minute(start)), time_text(end)
        query = """SELECT at, import_kw, target_kw, limit_kw, planned_kw, price FROM samples
                   WHERE site = ? AND at >= ? AND at < ?"""
        with self._database.lock:
            running = [self._minutes[site].row(site)] if site in self._minutes else []
            fresh = [row[1:] for row in self._waiting + running if row[0] == site and first <= row[1] < last]
            rows = {row[0]: row for row in self._database.read_history(query, (site, first, last))}
        rows.update((row[0], row) for row in fresh)
        return [rows[at] for at in sorted(rows)]

    def add_cycle(self, report: CycleReport) -> None:
        """One row for a turn of the slow loop."""
        values = (
            *(time_text(report.at), report.cycle, report.mode, report.rung, report.duration_s, report.solve_s),
            *(report.objective, report.warnings, report.sentence()),
        )
        before = time_text(report.at - KEEP_CYCLES)

        def change(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT OR REPLACE INTO cycles VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
            connection.execute("DELETE FROM cycles WHERE at < ?", (before,))

        self._database.write_history(change)

    def peak_kw(self, charge: str, period: str) -> float:
        """Highest interval mean of a billing period so far; 0.0 before the first."""
        return self._peaks.get((charge, period), 0.0)

    def raise_peak(self, charge: str, period: str, kw: float) -> bool:
        """Keep `kw` when it is above the peak so far; True when it was."""
        with self._database.lock:
            if not math.isfinite(kw) or kw <= self.peak_kw(charge, period):
                return False
            self._peaks[charge, period] = kw
            self._database.write_history(
                lambda connection: connection.execute(
                    "INSERT OR REPLACE INTO peaks VALUES (?, ?, ?)", (charge, period, kw)
                )
            )
            return True

    def close(self) -> None:
        """Write what waits, the running minutes included."""
        with self._database.lock:
            self._waiting += [minute.row(site) for site, minute in self._minutes.items()]
            self._minutes.clear()
            self.flush()


def _known(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _stricter(held: float | None, new: float | None) -> float | None:
    return new if held is None else held if new is None else min(held, new)
