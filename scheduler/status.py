"""One cycle's report: the log line, `STATUS=`, the JSON, the metrics and the page are all printed from it.

Why one object: what the operator reads at 3 a.m. must be the same in every place. The slow loop returns a
`CycleReport`; the fast loop returns a `Tick`. Both are frozen and hold plain values only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from optimizer.reasons import Note, Severity
from scheduler.capwatch import DRIFT_W


@dataclass(frozen=True)
class SourceStatus:
    """One input: its state (ok, substituted, stale, lost), age in seconds, present value and unit."""

    id: str
    kind: str
    state: str
    age_s: float | None
    value: float | None
    unit: str
    text: str = ""


@dataclass(frozen=True)
class Flexibility:
    """What a site can shed within so many seconds, in kW at the meter: expected, and 19 times in 20."""

    within_s: float
    kw: float
    sure_kw: float


@dataclass(frozen=True)
class SiteStatus:
    """One site now: planned and last measured import, hard limit, target in force (inf: none), price, PUE, and what it
    can shed."""

    id: str
    import_kw: float | None
    planned_kw: float
    target_kw: float
    limit_kw: float
    price_per_mwh: float
    pue: float
    currency: str
    timezone: str
    flexibility: tuple[Flexibility, ...] = ()
    marginal_per_mwh: float | None = None
    """What one more MWh of import costs now; None: the plan has no duals."""


def can_shed(site: SiteStatus) -> str:
    """What a site can shed, in words."""
    return ", ".join(
        f"{one.kw:.0f} kW in {one.within_s:.0f} s ({one.sure_kw:.0f} surely)"
        if one.within_s < 120
        else f"{one.kw:.0f} kW in {one.within_s / 60:.0f} min ({one.sure_kw:.0f} surely)"
        for one in site.flexibility
    )


@dataclass(frozen=True)
class CurveStatus:
    """A pool's power curve: the library's by `name`, or learned from it by so many observations (`refused` could not be
    true); `error` of its draw (standard error, relative), largest difference to the library's, and a sentence."""

    name: str
    kind: str
    samples: int
    refused: int
    error: float
    departure: float
    text: str


@dataclass(frozen=True)
class LatencyStatus:
    """One latency objective of a pool (`ttft_p95`): what is measured (None: nothing to measure), what the guard does,
    and what is to be expected at most on the plan's grid (None: nothing seen so far says it; empty: no plan yet)."""

    objective: str
    threshold_s: float
    measured_s: float | None
    guard: str
    forecast_s: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class PoolStatus:
    """One pool now: cap ordered for its active GPUs, planned and measured draw, relative throughput, reason code and
    sentence, and the curve that all of it is reckoned from."""

    id: str
    site: str
    work: str
    gpus: int
    active_gpus: int
    cap_w: int
    max_cap_w: int
    planned_kw: float
    draw_kw: float | None
    throughput: float
    reason: str
    why: str
    curve: CurveStatus | None = None
    quote_per_mtok: float | None = None
    """Money for a million tokens more now; None: the plan has no duals, the pool no tokens, or no more can be done."""
    yielded: int = 0
    """GPUs left to another writer of limits."""
    parked_gpus: int = 0
    """GPUs that are parked, out of those that are not active."""
    clock_mhz: int | None = None
    """SM clock that its GPUs are locked to; None: free."""
    latency: tuple[LatencyStatus, ...] = ()
    latency_floor: float = 0.0
    """Throughput that its latency objectives need now; 0: no more than the floor."""
    enforced_w: float | None = None
    """Limit that most of its GPUs enforce, as read back from them; None: not known, or too few agree. `cap_w` is what
    is ordered, `draw_kw` what is measured."""

    @property
    def departs(self) -> bool:
        """Whether its GPUs enforce another limit than the one ordered, where limits are what moves them."""
        return self.enforced_w is not None and not self.clock_mhz and abs(self.enforced_w - self.cap_w) > DRIFT_W


@dataclass(frozen=True)
class JobStatus:
    """One job: progress 0..1, GPUs granted now, planned finish, reason code and sentence."""

    id: str
    pool: str
    state: str
    progress: float
    gpus: int
    deadline: datetime
    finish: datetime | None
    reason: str
    why: str
    tokens: int = 0
    """Tokens sold of it, as its worker told."""
    energy_kwh: float = 0.0
    margin: float | None = None
    """What was paid for them beyond the cost of the energy; None: nothing was sold."""
    site: str = ""
    """Other site that works on it."""
    tier: int | None = None
    """Its Flex tier; None: its deadline alone counts."""
    reduction: float | None = None
    """Share by which it was slower than at full allocation, on average since its start; None: it has not begun."""


@dataclass(frozen=True)
class EventStatus:
    """One demand-response event as the ledger holds it, with what was delivered so far (mean kW over target, kWh
    cut); `number` is its place in the ledger, and what a client pages by. `opt`: in, out, or pending until
    `answer_by`."""

    id: str
    version: int
    site: str
    state: str
    start: datetime
    end: datetime
    target_kw: float
    baseline_kw: float
    program: str
    name: str
    source: str
    delivered_kwh: float = 0.0
    worst_over_kw: float = 0.0
    answer: str = ""
    number: int = 0
    opt: str = "in"
    answer_by: datetime | None = None


@dataclass(frozen=True)
class SupplyStatus:
    """A battery, an engine or must-take generation now: measured (None: silent, or not metered by itself) and planned
    power in kW (positive: it draws), energy in it and its share of what it may hold (None: it holds none)."""

    id: str
    site: str
    kind: str
    kw: float | None
    planned_kw: float
    stored_kwh: float | None
    share: float | None
    lost: bool


@dataclass(frozen=True)
class Tick:
    """What the fast loop saw and did: measured import, target and trim per site, orders issued, notes."""

    at: datetime
    import_kw: Mapping[str, float]
    target_kw: Mapping[str, float]
    planned_kw: Mapping[str, float]
    limit_kw: Mapping[str, float]
    shed_kw: Mapping[str, float]
    pool_kw: Mapping[str, float]
    cap_w: Mapping[str, int]
    active_gpus: Mapping[str, int]
    supply: tuple[SupplyStatus, ...] = ()
    orders: int = 0
    seconds: float = 0.0
    notes: tuple[Note, ...] = ()
    yielded_gpus: Mapping[str, int] = field(default_factory=dict)
    """GPUs left to another writer of limits, by pool."""
    clock_mhz: Mapping[str, int] = field(default_factory=dict)
    """SM clocks that are locked, by pool."""
    latency: Mapping[str, tuple[LatencyStatus, ...]] = field(default_factory=dict)
    """Latency objectives by pool."""
    latency_floor: Mapping[str, float] = field(default_factory=dict)
    """Throughput that they need, by pool."""
    enforced_w: Mapping[str, float] = field(default_factory=dict)
    """Limit that most GPUs of a pool enforce, by pool; absent: not known, or too few agree."""


@dataclass(frozen=True)
class CycleReport:
    """One turn of the slow loop."""

    cycle: int
    at: datetime
    mode: str
    rung: str
    duration_s: float
    solve_s: float
    objective: float
    next_at: datetime
    sites: tuple[SiteStatus, ...]
    pools: tuple[PoolStatus, ...]
    jobs: tuple[JobStatus, ...]
    events: tuple[EventStatus, ...]
    sources: tuple[SourceStatus, ...]
    notes: tuple[Note, ...] = field(default_factory=tuple)
    supply: tuple[SupplyStatus, ...] = ()

    @property
    def warnings(self) -> int:
        """Notes that a person should look at."""
        return sum(note.severity is not Severity.INFO for note in self.notes)

    def sentence(self) -> str:
        """The one line for the log and for `systemctl status`."""
        parts = [self.mode]
        for site in self.sites:
            shown = site.import_kw if site.import_kw is not None else site.planned_kw
            limit = min(site.limit_kw, site.target_kw)
            parts.append(f"{site.id} {shown / 1000:.2f}" + (f"/{limit / 1000:.2f}" if limit < 1e12 else "") + " MW")
            parts.append(f"price {site.price_per_mwh:.0f} {site.currency}/MWh")
        for item in self.supply:
            if item.lost or item.share is not None:
                state = "lost" if item.share is None else f"{item.share:.0%} full"
                parts.append(f"{item.id} {state}")
        for event in self.events:
            if event.state in {"near", "ramping_in", "active", "ramping_out"}:
                parts.append(f"event {event.id} {event.state} {event.target_kw / 1000:.2f} MW")
            if event.state == "awaiting" and event.answer_by is not None:
                parts.append(f"event {event.id} answered by {event.answer_by:%H:%M}Z")
        parts.append(f"plan {self.rung} in {self.duration_s:.1f} s")
        parts.append(f"next {self.next_at:%H:%M:%S}Z")
        if self.warnings:
            parts.append(f"{self.warnings} warning{'s' if self.warnings > 1 else ''}")
        return " · ".join(parts)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON (times stay datetimes; the API's encoder prints them)."""
        return asdict(self) | {"sentence": self.sentence(), "warnings": self.warnings}
