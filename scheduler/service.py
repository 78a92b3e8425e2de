"""What the API, the page and the CLI may ask of a running daemon.

Why a Protocol: the web layer is written and tested against this page alone, and never reaches into the loops. Every
method is thread-safe, returns quickly, and answers with plain frozen values. `Refused` becomes a 4xx answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from adapters.dr.desk import EventAnswer
from optimizer.domain import Plan
from scheduler.coordination.messages import Home, Share, SiteReport
from scheduler.sales import Sale, Sold
from scheduler.status import CycleReport, EventStatus, JobStatus, Tick
from scheduler.tokens import Quotes

__all__ = ["EventAnswer", "JobRequest", "OperatorOrder", "Refused", "Service"]


class Refused(Exception):
    """The request is understood and not accepted; `status` is the HTTP status, the text names the field or the id."""

    def __init__(self, text: str, status: int = 422) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class JobRequest:
    """A job as submitted; see optimizer.domain.BatchJob for the meaning. `deadline` and `release` are aware."""

    id: str | None
    pool: str | None
    work_gpu_h: float
    max_gpus: int
    deadline: datetime
    release: datetime | None = None
    preemptible: bool = True
    value_per_gpu_h: float = 0.0
    late_penalty: float = 2.0
    undone_penalty: float = 50.0
    priority: int = 0
    min_gpus: int = 0
    min_run_h: float = 0.0
    pause_cost: float = 0.0
    checkpoint_gpu_h: float = 0.0
    restart_gpu_h: float = 0.0
    after: tuple[str, ...] = ()
    data_gb: float = 0.0
    sites: tuple[str, ...] = ()
    tier: int | None = None
    metadata: Mapping[str, str] | None = None


@dataclass(frozen=True)
class OperatorOrder:
    """An operator's word, kept over restarts: `pause` (no writes, limits given back), `resume`, `release` (give limits
    back and stay in observe), `limit` (import cap in kW on a site until a time), `mode` (observe, advise, control)."""

    action: str
    site: str | None = None
    limit_kw: float | None = None
    until: datetime | None = None
    mode: str | None = None
    by: str = ""


@dataclass(frozen=True, slots=True)
class Grant:
    """GPUs that a job may use from now on, and their pool."""

    pool: str
    gpus: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where a job goes on: the other `site` that works on it ("": this one), and those that still may (None: as
    before)."""

    site: str = ""
    sites: tuple[str, ...] | None = None


class Coordination(Protocol):
    """The daemon as a coordinator and those who hand jobs over see it."""

    def report(self) -> SiteReport:
        """Its problem and its jobs that may move. Raises Refused."""
        ...

    def share(self, share: Share) -> None:
        """Where its movable jobs should run; kept on disk when it returns. Raises Refused."""
        ...

    def homes(self) -> Mapping[str, Home]:
        """Where movable jobs should run now."""
        ...


class Service(Protocol):
    """The running daemon."""

    def report(self) -> CycleReport | None:
        """Last cycle's report, its pools as they are after the last tick; None before the first."""
        ...

    def tick(self) -> Tick | None:
        """Last turn of the fast loop."""
        ...

    def plan(self) -> Plan | None:
        """Plan in force."""
        ...

    def series(self, site: str, start: datetime, end: datetime) -> Mapping[str, Sequence[Any]]:
        """Recorded samples in columns of equal length: at (datetime), import_kw, target_kw, limit_kw, planned_kw,
        price_per_mwh (None where unknown)."""
        ...

    def prices(self, site: str) -> Sequence[tuple[datetime, datetime, float]]:
        """Price on the plan's grid: (start, end, price per MWh), past part of today included."""
        ...

    def quotes(self) -> Quotes | None:
        """Marginal values and quoted prices of the plan in force for the coming day; None before the first plan."""
        ...

    def events(self, before: int | None = None, limit: int | None = None) -> Sequence[EventStatus]:
        """Every event in the ledger, newest first: at most `limit`, those with a number below `before`. Without a
        limit what a page shows: events that are not over, and the last ones."""
        ...

    def event(self, event_id: str) -> EventStatus:
        """One event, however old. Raises Refused when unknown."""
        ...

    def receive_event(self, channel: str, headers: Mapping[str, str], body: bytes) -> EventAnswer:
        """A signed message from a utility. Raises Refused."""
        ...

    def polled(self, channel: str) -> bool:
        """Whether a program's channel is one that is asked."""
        ...

    def cue(self, channel: str, headers: Mapping[str, str], body: bytes) -> None:
        """A call that says that a polled channel has news: it is read at once. Raises Refused."""
        ...

    def add_event(self, fields: Mapping[str, Any], by: str) -> EventAnswer:
        """An event by the operator's hand (same fields as the webhook's body). Raises Refused."""
        ...

    def cancel_event(self, event_id: str, by: str) -> EventAnswer:
        """Withdraw an event; in the middle of it the site leaves by the ramp. Raises Refused when unknown."""
        ...

    def answer_event(self, event_id: str, opt: str, by: str) -> EventAnswer:
        """The operator's answer, "in" or "out", to a voluntary event that waits for one. Raises Refused."""
        ...

    def jobs(self) -> Sequence[JobStatus]:
        """Every job that is not forgotten, newest first."""
        ...

    def grants(self) -> Mapping[str, Grant]:
        """Jobs that hold GPUs now, by id."""
        ...

    def job(self, job_id: str) -> JobStatus:
        """One job that is not forgotten. Raises Refused when unknown."""
        ...

    def submit_job(self, request: JobRequest) -> JobStatus:
        """Durably queued when it returns. Raises Refused."""
        ...

    def cancel_job(self, job_id: str, by: str) -> JobStatus:
        """Cancel a job. Raises Refused when unknown or finished."""
        ...

    def report_progress(
        self, job_id: str, done_gpu_h: float, finished: bool, sold: Sold | None = None, place: Place | None = None
    ) -> JobStatus:
        """A worker's report of work done so far (GPU-hours at full throughput), what it sold, and where it goes on
        (None: here). Raises Refused."""
        ...

    def report_sold(self, job_id: str, sold: Sold) -> None:
        """What a job sold that is over, or cancelled. Raises Refused."""
        ...

    def sales(self) -> Sequence[Sale]:
        """Tokens, money and energy of jobs, the last changed first."""
        ...

    def order(self, order: OperatorOrder) -> None:
        """An operator's order; acts in the next tick. Raises Refused."""
        ...

    def explain(self, target: str) -> str:
        """One sentence about a pool, a job, an event or a site. Raises Refused when unknown."""
        ...

    @property
    def coordination(self) -> Coordination:
        """What a coordinator of several daemons asks."""
        ...

    def health(self) -> Mapping[str, Any]:
        """`ok`, seconds since the last tick and the last cycle, mode, store state."""
        ...
