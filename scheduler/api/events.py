"""Demand-response events: what stands in the ledger, and the operator's hand."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from scheduler.api.auth import Reader, Writer
from scheduler.api.encode import Json, clean
from scheduler.service import EventAnswer, Service

log = structlog.get_logger("gridpace.api")

DEEPEST = 20
Limit = Annotated[int, Query(ge=1, le=1000, description="Most events in one answer")]
Before = Annotated[int | None, Query(ge=1, le=2**62, description="`next_before` of the page before this one")]
EVENT_BODY = {
    "type": "object",
    "description": "The same fields as the signed webhook takes.",
    "example": {
        "id": "evening-peak",
        "version": 1,
        "site": "west",
        "start": "2022-09-07T00:00:00Z",
        "end": "2022-09-07T02:00:00Z",
        "reduce_percent": 25,
    },
}
ANSWER_BODY = {
    "type": "object",
    "properties": {"opt": {"type": "string", "enum": ["in", "out"]}},
    "required": ["opt"],
    "additionalProperties": False,
}


def routes(service: Service) -> APIRouter:
    """Routes under /api/v1/events."""
    router = APIRouter(tags=["events"])

    @router.get("/api/v1/events", summary="Every event in the ledger, newest first, a page at a time")
    def listing(_: Reader, limit: Limit = 200, before: Before = None) -> Json:
        found = service.events(before, limit + 1)
        shown = found[:limit]
        return Json({"events": shown, "next_before": shown[-1].number if len(found) > limit else None})

    @router.get("/api/v1/events/{event_id:path}", summary="One event, however old")
    def one(event_id: str, _: Reader) -> Json:
        return Json(service.event(event_id))

    @router.post(
        "/api/v1/events",
        summary="An event by the operator's hand",
        status_code=201,
        openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": EVENT_BODY}}}},
    )
    async def add(request: Request, name: Writer) -> Json:
        fields = json_object(await request.body())
        answer = await run_in_threadpool(service.add_event, fields, name)
        return answered("event.added", answer, name, 200 if answer.duplicate else 201)

    @router.delete("/api/v1/events/{event_id:path}", summary="Withdraw an event")
    def cancel(event_id: str, name: Writer) -> Json:
        return answered("event.cancelled", service.cancel_event(event_id, name), name)

    @router.post(
        "/api/v1/events/{event_id:path}/answer",
        summary="The operator's answer to a voluntary event",
        openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": ANSWER_BODY}}}},
    )
    async def decide(event_id: str, request: Request, name: Writer) -> Json:
        opt = json_object(await request.body()).get("opt")
        answer = await run_in_threadpool(service.answer_event, event_id, str(opt), name)
        return answered("event.answered", answer, name)

    return router


def answered(what: str, answer: EventAnswer, by: str, status: int = 200) -> Json:
    """An answer, logged."""
    log.info(what, event_id=clean(answer.id), by=clean(by), state=answer.state, opt=answer.opt)
    return Json(answer, status)


def joined_headers(request: Request) -> dict[str, str]:
    """Headers by small name; one that comes twice is joined, so that no part of it can hide from a signature check."""
    joined: dict[str, str] = {}
    for name, value in request.headers.items():
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return joined


def json_object(body: bytes) -> dict[str, Any]:
    """A JSON object with finite numbers, encodable text and bounded depth; 400 says what is wrong."""
    try:
        value = json.loads(body)
        json.dumps(value, ensure_ascii=False).encode()
        _check(value, DEEPEST)
    except RecursionError:
        raise HTTPException(400, "the body is nested too deeply") from None
    except ValueError as error:
        raise HTTPException(400, f"the body is not usable JSON: {clean(str(error))}") from error
    if not isinstance(value, dict):
        raise HTTPException(400, "the body is not a JSON object")
    return value


def _check(value: object, deeper: int) -> None:
    """Raise ValueError for NaN, infinity and too many levels."""
    if deeper == 0:
        raise ValueError(f"it is nested more than {DEEPEST} levels deep")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("it holds a number that is not finite")
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _check(item, deeper - 1)
