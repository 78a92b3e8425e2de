"""What a daemon that stands by says over HTTP: that it does, who leads, how far behind it is; all else it passes on.

Why a small application of its own: nothing of the loops exists here, and a reader must never take a follower's silence
about the site for the site's. A request that could not be passed on was not accepted, and the answer says so.
"""

from __future__ import annotations

import asyncio
import html
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response

from adapters.bus import Bus
from adapters.ports import AdapterError
from scheduler.api.app import add_errors
from scheduler.api.auth import Reader, read_name
from scheduler.api.encode import Json
from scheduler.api.gate import Gate
from scheduler.api.settings import ApiSettings
from scheduler.api.views import TEXT_FORMAT
from scheduler.standby.proxy import NOT_PASSED, Unanswered, passed_on

RETRY_S = 5
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
PAGE = """<!doctype html>
<meta charset="utf-8"><meta http-equiv="refresh" content="5"><title>Gridpace stands by</title>
<body style="font-family: sans-serif; margin: 3em">
<h1>{name} stands by</h1><p>{leader}</p><p>{behind}</p><p>{trouble}</p>
"""
Status = Callable[[], Mapping[str, Any]]


def standby_app(status: Status, bus: Bus, settings: ApiSettings, metrics: Callable[[], bytes]) -> FastAPI:
    """The HTTP side of a daemon that stands by."""
    app = FastAPI(title=settings.title, docs_url=None, redoc_url=None, default_response_class=Json)
    app.state.settings = settings
    _add_own(app, status, metrics)

    @app.api_route("/{path:path}", methods=METHODS, include_in_schema=False)
    async def other(request: Request) -> Response:
        if request.method == "GET" and not request.url.path.startswith("/dr/"):
            read_name(settings, request.headers)
        return await _passed(request, bus, status)

    add_errors(app)
    app.add_middleware(Gate, settings=settings)
    return app


def _add_own(app: FastAPI, status: Status, metrics: Callable[[], bytes]) -> None:
    @app.get("/api/v1/status")
    def own_status(_: Reader) -> Json:
        return Json({"cycle": None, "tick": None, "standby": status()})

    @app.get("/api/v1/health")
    def health(_: Reader) -> Json:
        said = status()
        return Json({"ok": _well(said), "mode": "standby", "standby": said})

    @app.get("/healthz")
    def healthz() -> Json:
        ok = _well(status())
        return Json({"ok": ok}, 200 if ok else 503)

    @app.get("/metrics")
    def exposition(_: Reader) -> Response:
        return Response(metrics(), headers={"content-type": TEXT_FORMAT})

    @app.get("/", include_in_schema=False)
    def page() -> HTMLResponse:
        said = status()
        url = html.escape(str(said["leader_url"]), quote=True)
        leader = f'<a href="{url}">{html.escape(str(said["leader"]))}</a> leads.' if said["leader"] else "Nobody leads."
        behind = "It waits for the books." if said["behind"] is None else f"It is {said['behind']} changes behind."
        trouble = html.escape(str(said["trouble"]))
        return HTMLResponse(PAGE.format(name=html.escape(said["name"]), leader=leader, behind=behind, trouble=trouble))


def _well(said: Mapping[str, Any]) -> bool:
    """Whether this daemon could take over now, or soon."""
    return said["behind"] is not None and not said["trouble"]


async def _passed(request: Request, bus: Bus, status: Status) -> Response:
    """The leader's answer; 503 where there is none: nobody heard the request, or nobody knows what became of it."""
    body = await request.body()
    headers = [[name, value] for name, value in request.headers.items() if name.lower() not in NOT_PASSED]
    asked = {"method": request.method, "path": request.scope["path"], "query": request.url.query, "headers": headers}
    answer, fate = None, "nobody heard this"
    try:
        answer = await asyncio.wrap_future(bus.begin(passed_on(bus, {**asked, "body": body})))
    except ValueError as error:
        raise HTTPException(413, str(error)) from error
    except AdapterError as error:
        fate = f"nobody heard this ({error})"
    except Unanswered as error:
        fate = f"no answer came ({error}), so that nobody knows whether this was accepted"
    said = status()
    if answer is None:
        where = f"{said['leader']} leads at {said['leader_url']}" if said["leader"] else "nobody leads at present"
        text = f"{said['name']} stands by, {where}, and {fate}; send it again"
        return Json({"error": text, "field": None}, 503, headers={"retry-after": str(RETRY_S)})
    kept = {name: value for name, value in answer["headers"] if name.lower() not in NOT_PASSED}
    return Response(answer["body"], answer["status"], kept)
