"""The books: everything that Gridpace has acknowledged, found or measured, in one SQLite file.

What the store promises: when `put`, `put_all`, `remember_first_limits` or `save_order` return, the row is on disk
(synchronous=FULL), and `kill -9` a microsecond later loses nothing. When it can't be, they raise StoreDegraded and the
caller must not acknowledge. Journal, samples, cycles and plans are dropped instead, with a note: control goes on.
First-found limits, orders and the fencing epoch also live in a small copy that a destroyed database is restored from.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from optimizer.domain import Plan
from optimizer.learning import Learned
from optimizer.reasons import Note, Severity
from scheduler.service import OperatorOrder
from scheduler.status import CycleReport
from scheduler.store.capture import forget_position
from scheduler.store.codec import pack, plain_values, typed_value, unpack
from scheduler.store.copy import SmallCopy, copy_path
from scheduler.store.database import Database, Replica, StoreDegraded
from scheduler.store.history import History
from scheduler.store.journal import FirstLimit, FirstLimits, Intent, Journal
from scheduler.store.opening import NewerStore, Opened, StoreError, open_file
from scheduler.store.records import KeptBefore, Record, Records
from scheduler.store.schema import migrate

__all__ = ["FirstLimit", "Intent", "NewerStore", "Record", "Store", "StoreDegraded", "StoreError"]

T = TypeVar("T")


@dataclass(frozen=True)
class _Curves:
    """What was learned of all pools, as one body."""

    pools: dict[str, Learned]


class Store:
    """Thread-safe. Implements `adapters.ports.RecordStore`. Make one with `open` or `in_memory`."""

    def __init__(
        self,
        opened: Opened,
        path: Path | None,
        wall: Callable[[], datetime],
        replica: Replica | None = None,
        least_epoch: int = 0,
    ) -> None:
        if replica is None and path is not None:  # what is written alone, no other books have
            forget_position(opened.connection)
        self._database = Database(opened, path, wall, replica)
        copy = SmallCopy(copy_path(path)) if path is not None else None
        self._records = Records(self._database, copy, least_epoch)
        self._limits = FirstLimits(self._records, self._database)
        self._journal = Journal(self._database, self._records.epoch)
        self._history = History(self._database)

    @classmethod
    def open(
        cls,
        path: Path,
        wall: Callable[[], datetime] | None = None,
        replica: Replica | None = None,
        least_epoch: int = 0,
    ) -> Store:
        """Open or make the store at `path` for writing; the fencing epoch goes up by one, to `least_epoch` at least.
        A `replica` is told of every change before it counts.

        Raises NewerStore for the file of a newer Gridpace (untouched) and StoreError when another process holds it.
        A damaged file, or a disk that takes no writes, is a note and not an error. `wall` is real time.
        """
        clock = wall or _real_time
        return cls(open_file(Path(path), clock()), Path(path), clock, replica, least_epoch)

    @classmethod
    def in_memory(cls) -> Store:
        """Books that end with the process: backtests and tests."""
        connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        migrate(connection, 0)
        return cls(Opened(connection), None, _real_time)

    def close(self) -> None:
        """Write what waits and close the file."""
        self._history.close()
        self._database.close()

    def epoch(self) -> int:
        """Number of this opening; nodes refuse orders of a lower one."""
        return self._records.epoch

    def notes(self) -> tuple[Note, ...]:
        """What a person should know about the store now."""
        return self._database.notes()

    @property
    def in_memory_only(self) -> bool:
        """True when nothing is on disk: a recorded day, a backtest, a rehearsal."""
        return self._database.path is None

    def state(self) -> Mapping[str, Any]:
        """Health in plain values: `ok`, why not, the file and the epoch."""
        trouble = self._database.trouble
        return {"ok": not trouble, "trouble": trouble, "path": str(self._database.path or ""), "epoch": self.epoch()}

    # ------------------------------------------------------------ records (RecordStore)
    def put(self, kind: str, key: str, value: Mapping[str, Any]) -> None:
        """Insert or replace one record; on disk when it returns. Raises StoreDegraded.

        A number under `forget_after_s` lets the record be forgotten that many real seconds from now.
        """
        self._records.put_all([Record(kind, key, value)])

    def put_once(self, kind: str, key: str, value: Mapping[str, Any]) -> bool:
        """As `put`, where there is no record of that key; False, and nothing changed, where there is one."""
        try:
            self._records.put_all([Record(kind, key, value, once=True)])
        except KeptBefore:
            return False
        return True

    def put_all(self, records: Iterable[Record]) -> None:
        """Keep several records in one transaction: all of them or, with StoreDegraded, none."""
        self._records.put_all(records)

    def get(self, kind: str, key: str) -> dict[str, Any] | None:
        """One record or None. Raises StoreDegraded when the file can't be read."""
        return self._records.get(kind, key)

    def all(self, kind: str) -> dict[str, dict[str, Any]]:
        """Every record of a kind by key, oldest first; a damaged one is left out, with an alert."""
        return self._records.all(kind)

    def log(self, kind: str, key: str | None = None) -> list[tuple[datetime, dict[str, Any]]]:
        """What was appended under a kind (and key), oldest first, with its time."""
        return self._records.log(kind, key)

    # ------------------------------------------------------------ what the dispatcher writes down
    def remember_first_limits(self, limits: Mapping[str, tuple[float, str]], now: datetime) -> None:
        """Keep (limit in W, model) of GPUs that are not known yet; one that is known never changes. On disk when it
        returns. Raises StoreDegraded."""
        self._limits.remember(limits, now)

    def first_limits(self) -> dict[str, float]:
        """GPU -> limit in W to give back; what a predecessor found included. Served from memory."""
        return {limit.gpu: limit.limit_w for limit in self._limits.rows()}

    def first_limit_rows(self) -> tuple[FirstLimit, ...]:
        """The same with model and time."""
        return self._limits.rows()

    def forget_first_limits(self, ids: Sequence[str]) -> None:
        """Drop limits whose release was confirmed."""
        self._limits.forget(ids)

    def journal_intent(self, orders: Mapping[str, Any]) -> int:
        """Write down what is about to be applied; its number, or 0 when the disk says no (a note tells)."""
        return self._journal.intent(orders)

    def journal_result(self, intent: int, result: Mapping[str, Any]) -> None:
        """Write down how it ended."""
        self._journal.result(intent, result)

    def open_intents(self) -> tuple[Intent, ...]:
        """Dispatches without a result, oldest first: what a killed predecessor may or may not have applied."""
        return self._journal.open()

    def journal(self, last: int = 100) -> tuple[Intent, ...]:
        """The last dispatches, newest first."""
        return self._journal.last(last)

    # ------------------------------------------------------------ operator's orders
    def save_order(self, order: OperatorOrder, now: datetime) -> None:
        """Keep an order as the latest of its kind, and in the history. Raises StoreDegraded."""
        with self._database.lock:
            number = max((int(body["number"]) for body in self.all("order").values()), default=0) + 1
            key = f"limit:{order.site}" if order.action == "limit" else order.action
            body = {"number": number, "at": now, "order": plain_values(order)}
            self.put_all([Record("order", key, body, log_at=now)])

    def orders(self) -> tuple[OperatorOrder, ...]:
        """The latest order of each kind (one kind for each site's limit), in the order in which they were given."""
        held = sorted(self.all("order").values(), key=lambda body: int(body["number"]))
        return tuple(typed_value(OperatorOrder, body["order"]) for body in held)

    def order_history(self) -> tuple[tuple[datetime, OperatorOrder], ...]:
        """Every order ever given, oldest first."""
        return tuple((at, typed_value(OperatorOrder, body["order"])) for at, body in self.log("order"))

    # ------------------------------------------------------------ samples, reports, plans, peaks
    def add_sample(
        self,
        site: str,
        at: datetime,
        import_kw: float | None,
        target_kw: float | None,
        limit_kw: float | None,
        planned_kw: float | None,
        price: float | None,
    ) -> None:
        """One reading of the fast loop; kept as a mean of its minute, written in batches."""
        self._history.add_sample(site, at, (import_kw, target_kw, limit_kw, planned_kw, price))

    def samples(self, site: str, start: datetime, end: datetime) -> dict[str, list[Any]]:
        """Columns at, import_kw, target_kw, limit_kw, planned_kw, price_per_mwh of the minutes in [start, end)."""
        return self._history.samples(site, start, end)

    def mean_import_kw(self, site: str, start: datetime, end: datetime) -> float | None:
        """Mean of the measured minutes in [start, end); None when none was measured."""
        return self._history.mean_import_kw(site, start, end)

    def peak_kw(self, charge_id: str, period: str) -> float:
        """Highest interval mean of a billing period so far, in kW; 0.0 before the first."""
        return self._history.peak_kw(charge_id, period)

    def raise_peak(self, charge_id: str, period: str, kw: float) -> bool:
        """Keep a new peak; True when it was one."""
        return self._history.raise_peak(charge_id, period, kw)

    def save_report(self, report: CycleReport) -> None:
        """Keep the last report whole, and a row of each."""
        self._history.add_cycle(report)
        self._save_latest("report", report)

    def last_report(self) -> CycleReport | None:
        """The report of the last finished cycle, a former run's included."""
        return self._latest("report", CycleReport)

    def save_plan(self, plan: Plan) -> None:
        """Keep the plan in force."""
        self._save_latest("plan", plan)

    def load_plan(self) -> Plan | None:
        """The plan last saved, exactly as it was; None when there is none that this version reads."""
        return self._latest("plan", Plan)

    def save_curves(self, learned: Mapping[str, Learned]) -> None:
        """Keep what was learned of each pool's power curve."""
        self._save_latest("curves", _Curves(dict(learned)))

    def load_curves(self) -> dict[str, Learned]:
        """What was last learned, by pool; nothing when there is nothing that this version reads."""
        held = self._latest("curves", _Curves)
        return held.pools if held is not None else {}

    def _save_latest(self, name: str, value: object) -> None:
        row = (name, pack(value))
        self._database.write_history(lambda db: db.execute("INSERT OR REPLACE INTO latest VALUES (?, ?)", row))

    def _latest(self, name: str, kind: type[T]) -> T | None:
        rows = self._database.read_history("SELECT body FROM latest WHERE name = ?", (name,))
        try:
            return unpack(kind, rows[0][0]) if rows else None
        except (ValueError, TypeError) as error:
            text = f"the last {name} does not read ({error}); a new one is made"
            self._database.note(f"latest-{name}", text, Severity.INFO)
            return None


def _real_time() -> datetime:
    return datetime.now(UTC)
