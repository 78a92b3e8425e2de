"""What the page shows at one moment, asked of the service in one go.

Why one frozen object: charts and tables are pure functions of it, and everybody who looks sees the same moment. The
recorded samples are the bulk of it, and ten seconds of them are less than a pixel, so they are kept that long.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from optimizer.domain import Plan
from scheduler.service import Service
from scheduler.status import CycleReport, EventStatus, JobStatus, SiteStatus, Tick

PAST, AHEAD = timedelta(hours=6), timedelta(hours=12)
# States in which an event puts, or will put, a cap on the site.
BINDING = {"scheduled", "near", "ramping_in", "active", "ramping_out"}
SERIES_FRESH = timedelta(seconds=10)


@dataclass(frozen=True, eq=False)
class Board:
    """One moment of one site. `problem` is a sentence when the figures cannot be trusted."""

    now: datetime
    zone: ZoneInfo = field(default_factory=lambda: ZoneInfo("UTC"))
    site: SiteStatus | None = None
    sites: tuple[str, ...] = ()
    report: CycleReport | None = None
    tick: Tick | None = None
    plan: Plan | None = None
    series: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    series_at: datetime | None = None
    prices: Sequence[tuple[datetime, datetime, float]] = ()
    events: Sequence[EventStatus] = ()
    jobs: Sequence[JobStatus] = ()
    mode: str = ""
    speed: float = 1.0
    problem: str = ""

    def local(self, moment: datetime) -> datetime:
        """`moment` in the site's own time."""
        return moment.astimezone(self.zone)


def gather(service: Service, wanted: str, known: Board | None = None) -> Board:
    """Ask the service for everything the page shows about site `wanted` (the first one when it is unknown).

    Samples of `known`, the board before, are taken over while they are fresh enough.
    """
    health, report, tick = service.health(), service.report(), service.tick()
    now = health.get("now") or (tick.at if tick else datetime.now(UTC))
    base = Board(now, mode=str(health.get("mode", "")), speed=float(health.get("speed", 1.0)), tick=tick)
    if report is None or not report.sites:
        return base
    site = next((site for site in report.sites if site.id == wanted), report.sites[0])
    series_at, series = now, None
    if known is not None and known.series_at is not None and timedelta(0) <= now - known.series_at < SERIES_FRESH:
        series_at, series = known.series_at, known.series
    return replace(
        base,
        zone=_zone(site.timezone),
        site=site,
        sites=tuple(each.id for each in report.sites),
        report=report,
        plan=service.plan(),
        series=service.series(site.id, now - PAST, now) if series is None else series,
        series_at=series_at,
        prices=service.prices(site.id),
        events=[event for event in service.events() if event.site == site.id],
        jobs=service.jobs(),
        problem=_problem(health),
    )


def _problem(health: Mapping[str, Any]) -> str:
    if health.get("ok", True):
        return ""
    tick_age, cycle_age = health.get("tick_age_s"), health.get("cycle_age_s")
    ages = f"last tick {_age(tick_age)}, last plan {_age(cycle_age)}"
    return f"The daemon's loops stand still: {ages}. The figures below are old."


def _age(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.0f} s ago"


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        return ZoneInfo("UTC")
