"""What a program reads, and the operator's word.

Why times in the answers are UTC: they are for programs; the page shows the site's own time.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated

import structlog
from fastapi import APIRouter, Query
from starlette.exceptions import HTTPException
from starlette.responses import Response

from scheduler.api.auth import Reader, Writer
from scheduler.api.encode import Json, clean
from scheduler.api.models import Moment, OperatorBody
from scheduler.service import Service

log = structlog.get_logger("gridpace.api")

LONGEST = timedelta(days=8)
SHOWN = timedelta(hours=6)
TEXT_FORMAT = "text/plain; version=0.0.4; charset=utf-8"
SiteName = Annotated[str | None, Query(max_length=128, description="Site id; none: the only one, or the first")]


def routes(service: Service, metrics: Callable[[], bytes] | None) -> APIRouter:
    """Status, plan, series, prices, explain, health, metrics, and the operator's orders."""
    router = APIRouter()
    _add_status(router, service)
    _add_series(router, service)
    _add_health(router, service, metrics)

    @router.post("/api/v1/operator", summary="Pause, resume, release, limit a site, change the mode", tags=["operator"])
    def order(body: OperatorBody, name: Writer) -> Json:
        service.order(body.order(name))
        log.info("operator.order", action=body.action, site=clean(body.site or ""), by=clean(name))
        return Json({"ok": True, "action": body.action})

    return router


def _add_status(router: APIRouter, service: Service) -> None:
    @router.get("/api/v1/status", summary="Last cycle and last tick", tags=["status"])
    def status(_: Reader) -> Json:
        report, tick = service.report(), service.tick()
        standby = service.health().get("standby")
        among = {"standby": standby} if standby else {}  # only where there are several daemons
        return Json({"cycle": report.as_dict() if report else None, "tick": tick, **among})

    @router.get("/api/v1/plan", summary="Plan in force", tags=["status"])
    def plan(_: Reader) -> Json:
        found = service.plan()
        if found is None:
            raise HTTPException(404, "there is no plan yet")
        return Json(found)

    @router.get(
        "/api/v1/quotes", summary="Price of a million tokens by pool and interval, an indication", tags=["status"]
    )
    def quotes(_: Reader) -> Json:
        found = service.quotes()
        if found is None:
            raise HTTPException(404, "there is no plan yet")
        return Json(found)

    @router.get("/api/v1/explain/{target:path}", summary="Why, in one sentence", tags=["status"])
    def explain(target: str, _: Reader) -> Json:
        return Json({"target": target, "text": service.explain(target)})


def _add_series(router: APIRouter, service: Service) -> None:
    @router.get("/api/v1/series", summary="Recorded samples in columns; by default the last six hours", tags=["status"])
    def series(_: Reader, site: SiteName = None, start: Moment | None = None, end: Moment | None = None) -> Json:
        until = end or (start + SHOWN if start else _now(service))
        since = start or until - SHOWN
        if not timedelta(0) < until - since <= LONGEST:
            raise HTTPException(422, f"start must come before end, at most {LONGEST.days} days")
        name = _site(service, site)
        return Json({"site": name, **service.series(name, since, until)})

    @router.get("/api/v1/prices", summary="Prices on the plan's grid, per MWh", tags=["status"])
    def prices(_: Reader, site: SiteName = None) -> Json:
        name = _site(service, site)
        rows = service.prices(name)
        return Json({"site": name, "prices": [{"start": a, "end": b, "price_per_mwh": price} for a, b, price in rows]})


def _add_health(router: APIRouter, service: Service, metrics: Callable[[], bytes] | None) -> None:
    @router.get("/api/v1/health", summary="Ages of the loops, mode, store", tags=["health"])
    def health(_: Reader) -> Json:
        return Json(service.health())

    @router.get("/healthz", summary="200 while both loops turn, else 503; needs no token", tags=["health"])
    def healthz() -> Json:
        ok = bool(service.health().get("ok"))
        return Json({"ok": ok}, 200 if ok else 503)

    if metrics is not None:

        @router.get("/metrics", summary="Prometheus metrics", tags=["health"])
        def exposition(_: Reader) -> Response:
            return Response(metrics(), headers={"content-type": TEXT_FORMAT})


def _now(service: Service) -> datetime:
    """The daemon's own time, which may be a simulated one."""
    now = service.health().get("now")
    return now if isinstance(now, datetime) else datetime.now(UTC)


def _site(service: Service, named: str | None) -> str:
    if named is not None:
        return named
    report = service.report()
    if report is None or not report.sites:
        raise HTTPException(404, "no site is known before the first cycle; name one")
    return report.sites[0].id
