"""What the page shows at one moment, gathered once for all who look.

Why shared: two hundred open pages must not ask the daemon two hundred times a second. One worker thread asks, at most
once a second; while it hangs, everybody keeps the last figures and is told that they are old.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import structlog

from optimizer.domain import Plan
from scheduler.service import Service
from scheduler.status import CycleReport, EventStatus, JobStatus, SiteStatus, Tick

log = structlog.get_logger("gridpace.web")

PAST, AHEAD = timedelta(hours=6), timedelta(hours=12)
# States in which an event puts, or will put, a cap on the site.
BINDING = {"scheduled", "near", "ramping_in", "active", "ramping_out"}
EVERY_S, PATIENCE_S = 0.9, 3.0


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
    prices: Sequence[tuple[datetime, datetime, float]] = ()
    events: Sequence[EventStatus] = ()
    jobs: Sequence[JobStatus] = ()
    mode: str = ""
    speed: float = 1.0
    problem: str = ""

    def local(self, moment: datetime) -> datetime:
        """`moment` in the site's own time."""
        return moment.astimezone(self.zone)


class Gatherer:
    """Keeps the newest Board of every site that somebody looks at."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="gridpace-board")
        self._boards: dict[str, tuple[float, Board]] = {}
        self._under_way: dict[str, Future[Board]] = {}

    async def board(self, site: str = "") -> Board:
        """The newest board, at most a second old; the last one with a `problem` when the daemon does not answer."""
        made_at, known = self._boards.get(site, (0.0, None))
        if known is not None and time.monotonic() - made_at < EVERY_S:
            return known
        asked = self._under_way.get(site)
        if asked is None or asked.done():
            asked = self._under_way[site] = self._worker.submit(gather, self._service, site)
        try:
            fresh = await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(asked)), PATIENCE_S)
        except TimeoutError:
            fresh = self._without_answer(known, "The daemon does not answer.")
        except Exception as error:  # noqa: BLE001 - whatever it is, the page must say so and go on
            log.warning("page.gather_failed", error=repr(error))
            fresh = self._without_answer(known, "The daemon answers with an error; its log says more.")
        self._boards[site] = (time.monotonic(), fresh)
        return fresh

    @staticmethod
    def _without_answer(known: Board | None, text: str) -> Board:
        return replace(known or Board(datetime.now(UTC)), problem=text)

    def close(self) -> None:
        """Let the worker go; a call that hangs is not waited for."""
        self._worker.shutdown(wait=False, cancel_futures=True)


def gather(service: Service, wanted: str) -> Board:
    """Ask the service for everything the page shows about site `wanted` (the first one when it is unknown)."""
    health, report, tick = service.health(), service.report(), service.tick()
    now = health.get("now") or (tick.at if tick else datetime.now(UTC))
    base = Board(now, mode=str(health.get("mode", "")), speed=float(health.get("speed", 1.0)), tick=tick)
    if report is None or not report.sites:
        return base
    site = next((site for site in report.sites if site.id == wanted), report.sites[0])
    return replace(
        base,
        zone=_zone(site.timezone),
        site=site,
        sites=tuple(each.id for each in report.sites),
        report=report,
        plan=service.plan(),
        series=service.series(site.id, now - PAST, now),
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
