"""Puts the routes, the gate and the page together into one application.

Why a factory: the daemon builds it from its config, the tests from a fake service; nothing is global. Errors leave as
`{"error": text, "field": name or null}` whatever raised them; an unforeseen one says no more than "internal error".
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from importlib.util import find_spec
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp

from scheduler.api import channels, coordination, events, jobs, sales, views
from scheduler.api.encode import Json, clean
from scheduler.api.gate import Gate
from scheduler.api.settings import ApiSettings
from scheduler.service import Refused, Service

log = structlog.get_logger("gridpace.api")

NO_PAGE = "Gridpace answers here at /api/v1. For the web page install the extra: pip install 'gridpace[web]'\n"
Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def create_app(service: Service, settings: ApiSettings, metrics: Callable[[], bytes] | None = None) -> FastAPI:
    """The whole HTTP side over `service`. `metrics` renders the Prometheus text; without it /metrics does not exist."""
    page: ASGIApp | None = None
    lifespan: Lifespan | None = None
    if settings.page and find_spec("nicegui") is not None:
        from scheduler.web.page import attach  # 1.5 s and 60 MB: only where a page is wanted

        page, lifespan = attach(service, settings)
    app = FastAPI(
        title=settings.title,
        version=_version(),
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        generate_unique_id_function=_operation_id,
        default_response_class=Json,
        responses={"4XX": {"description": "Refused", "content": {"application/json": {"schema": ERROR_BODY}}}},
    )
    app.state.settings = settings
    for part in (channels, coordination, events, jobs, sales):
        app.include_router(part.routes(service))
    app.include_router(views.routes(service, metrics))
    if page is None:
        app.add_api_route("/", _hint, include_in_schema=False)
    else:
        app.router.default = page
    add_errors(app)
    app.add_middleware(Gate, settings=settings)
    return app


ERROR_BODY: dict[str, Any] = {
    "type": "object",
    "required": ["error", "field"],
    "properties": {"error": {"type": "string"}, "field": {"type": ["string", "null"]}},
}


def _hint() -> PlainTextResponse:
    return PlainTextResponse(NO_PAGE)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("gridpace")
    except PackageNotFoundError:
        return "unknown"


def _operation_id(route: APIRoute) -> str:
    return f"{route.tags[0] if route.tags else 'gridpace'}_{route.name}"


def add_errors(app: FastAPI) -> None:
    """Let every error leave as `{"error": text, "field": name or null}`."""
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _unforeseen)


def _refused(request: Request, error: Exception) -> Json:
    assert isinstance(error, Refused)
    head, colon, _ = str(error).partition(":")
    field = head if colon and head.isidentifier() else None
    log.info("api.refused", path=clean(request.url.path), status=error.status, text=clean(str(error)))
    return Json({"error": str(error), "field": field}, error.status)


def _http_error(_: Request, error: Exception) -> Json:
    assert isinstance(error, HTTPException)
    return Json({"error": error.detail, "field": None}, error.status_code, headers=error.headers)


def _invalid(request: Request, error: Exception) -> Json:
    """Every problem in one text; `field` is the first one's."""
    assert isinstance(error, RequestValidationError)
    found = [(_place(item["loc"]), str(item["msg"]).removeprefix("Value error, ")) for item in error.errors()[:20]]
    text = "; ".join(f"{place}: {said}" if place else said for place, said in found)
    if request.method == "POST" and "json" not in request.headers.get("content-type", ""):
        text += " (the header Content-Type: application/json is missing)"
    return Json({"error": text, "field": found[0][0] or None}, 422)


def _place(location: tuple[int | str, ...]) -> str:
    """`("body", "deadline")` as `deadline`; a position in broken JSON is no field."""
    inner = location[1:] if location and location[0] in {"body", "query", "path", "header"} else location
    return ".".join(str(part) for part in inner) if not all(isinstance(part, int) for part in inner) else ""


def _unforeseen(request: Request, error: Exception) -> Json:
    # As text, since a renderer that prints local variables would print tokens.
    trace = "".join(traceback.format_exception(error))
    log.error("api.failed", path=clean(request.url.path), error=clean(repr(error)), traceback=trace)
    return Json({"error": "internal error; the log says more", "field": None}, 500)
