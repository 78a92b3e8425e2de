"""The books of what was sold: tokens and money of each job as its worker tells them, energy and its cost as metered.

Why in the daemon: it alone knows what a job drew and what power cost then, and several gateways may share it. The fast
loop only counts; what has changed is written with a worker's next report and after each plan, so that a kill loses at
most what was drawn since.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from adapters.ports import RecordStore

KIND = "sale"
FORGET_AFTER_S = 400 * 86_400.0
MOST = 20_000
"""Jobs of which books are shown; the store keeps those of 400 days."""


@dataclass(frozen=True, slots=True)
class Sold:
    """A worker's word on a job: all tokens so far, all money for them, and whose they are."""

    tokens: int
    paid: float
    tenant: str = ""
    model: str = ""


@dataclass(frozen=True, slots=True)
class Sale:
    """One job: tokens delivered and money `paid` for them as told by its worker, energy at the meter (kWh, PUE
    included) and what that cost at the price of each moment; `at` is its last change (aware UTC)."""

    job: str
    at: datetime
    pool: str = ""
    tenant: str = ""
    model: str = ""
    tokens: int = 0
    paid: float = 0.0
    energy_kwh: float = 0.0
    energy_cost: float = 0.0

    @property
    def margin(self) -> float:
        """What was paid beyond the cost of the energy."""
        return self.paid - self.energy_cost


class SalesBook:
    """Thread-safe. `records` None: kept in memory alone."""

    def __init__(self, records: RecordStore | None = None) -> None:
        self._records, self._lock = records, threading.Lock()
        held = records.all(KIND) if records is not None else {}
        self._sales = {job: _read(job, body) for job, body in held.items()}
        self._changed: set[str] = set()

    def burn(self, job: str, pool: str, kwh: float, cost: float, now: datetime) -> None:
        """Count energy that a job drew."""
        with self._lock:
            sale = self._sales.get(job) or Sale(job, now)
            self._put(replace(sale, at=now, pool=pool, energy_kwh=sale.energy_kwh + kwh,
                              energy_cost=sale.energy_cost + cost))  # fmt: skip

    def sold(self, job: str, told: Sold, now: datetime, *, last: bool = False) -> None:
        """Take in a worker's word. Late reports never lower it; its `last` word on money is what is owed in the end."""
        with self._lock:
            sale = self._sales.get(job) or Sale(job, now)
            paid = told.paid if last else max(sale.paid, told.paid)
            self._put(replace(sale, at=now, tokens=max(sale.tokens, told.tokens), paid=paid,
                              tenant=told.tenant, model=told.model))  # fmt: skip

    def _put(self, sale: Sale) -> None:
        self._sales.pop(sale.job, None)  # the last that changed stands last
        self._sales[sale.job] = sale
        self._changed.add(sale.job)
        if len(self._sales) > MOST:
            oldest = next(iter(self._sales))
            if oldest not in self._changed:
                del self._sales[oldest]

    def flush(self) -> None:
        """Write what has changed. Raises StoreDegraded, and keeps it for the next time."""
        with self._lock:
            waiting = [self._sales[job] for job in self._changed if job in self._sales]
            self._changed.clear()
        try:
            for sale in waiting if self._records is not None else ():
                assert self._records is not None
                self._records.put(KIND, sale.job, _written(sale))
        except Exception:
            with self._lock:
                self._changed.update(sale.job for sale in waiting)
            raise

    def of(self, job: str) -> Sale | None:
        """The books of one job."""
        return self._sales.get(job)

    def rows(self) -> tuple[Sale, ...]:
        """All jobs, the last changed first."""
        with self._lock:
            return tuple(reversed(self._sales.values()))


def _written(sale: Sale) -> dict[str, Any]:
    plain = asdict(sale) | {"at": sale.at.isoformat(), "forget_after_s": FORGET_AFTER_S}
    del plain["job"]
    return plain


def _read(job: str, body: Mapping[str, Any]) -> Sale:
    values = {key: value for key, value in body.items() if key in Sale.__slots__}
    return Sale(job=job, **values | {"at": datetime.fromisoformat(body["at"])})
