"""Where utilities call: signed events, and the calls of a server that is polled.

Why the webhook takes raw bytes: its signature covers exactly what was sent, and is its only authentication; the channel
verifies it behind the service, and a forger is told nothing.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse

from scheduler.api.encode import Json
from scheduler.api.events import answered, joined_headers
from scheduler.service import Service

Word = Annotated[str, Query(pattern=r"^[A-Za-z0-9_.~-]{1,256}$", description="What to repeat")]


def routes(service: Service) -> APIRouter:
    """Routes under /dr."""
    router = APIRouter(tags=["events"])

    @router.post("/dr/{channel}", summary="A signed event from a utility, or the call of a server that has news")
    async def receive(channel: str, request: Request) -> Json:
        body = await request.body()
        if service.polled(channel):
            await run_in_threadpool(service.cue, channel, joined_headers(request), body)
            return Json({"read": True})
        answer = await run_in_threadpool(service.receive_event, channel, joined_headers(request), body)
        return answered("event.received", answer, channel)

    @router.get("/dr/{channel}", summary="Proof for an OpenADR server that this address is ours")
    @router.get("/dr/{channel}/echo", include_in_schema=False)
    @router.post("/dr/{channel}/echo", include_in_schema=False)
    def repeat(channel: str, echo: Word) -> PlainTextResponse:
        if not service.polled(channel):
            raise HTTPException(404, "no such channel")
        return PlainTextResponse(echo)

    return router
