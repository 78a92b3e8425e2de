"""What a coordinator of several daemons asks and says (`gridpace coordinate`)."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from scheduler.api.auth import Reader, Writer
from scheduler.api.encode import Json
from scheduler.api.models import ShareBody
from scheduler.service import Service
from scheduler.store.codec import pack


def routes(service: Service) -> APIRouter:
    """Routes under /api/v1/coordination."""
    router = APIRouter(prefix="/api/v1/coordination", tags=["coordination"])

    @router.get("/report", summary="This daemon's problem and movable jobs, as compressed JSON")
    def report(_: Reader) -> Response:
        return Response(pack(service.coordination.report()), media_type="application/octet-stream")

    @router.put("/share", summary="Where this daemon's movable jobs should run")
    def share(body: ShareBody, _: Writer) -> Json:
        service.coordination.share(body.told())
        return Json({"ok": True})

    return router
