"""The routes: what OpenAI's clients call, with errors in the form that they expect.

Keys: `Authorization: Bearer KEY`, one for each tenant; a tenant sees its own files and batches and nothing else.
Why Starlette alone: these routes check what they take themselves, in OpenAI's words, so what FastAPI adds (half a
second at the start, and time in each of thousands of requests a second) would go to waste.
"""

from __future__ import annotations

import math

import structlog
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from scheduler.gateway.disk import AGAIN_S, DISK_ERRORS
from scheduler.gateway.form import announced, receive
from scheduler.gateway.gateway import Gateway
from scheduler.gateway.guests import Guests, body_of
from scheduler.gateway.intake import FORM_BYTES
from scheduler.gateway.market_routes import market_routes
from scheduler.gateway.metrics import metrics_text
from scheduler.gateway.model import ApiError
from scheduler.gateway.move_routes import move_routes
from scheduler.gateway.shelf import page

log = structlog.get_logger("gridpace.gateway")

LARGEST_PAGE, USUAL_PAGE = 10_000, 20


def create_app(gateway: Gateway) -> Starlette:
    """The HTTP side of `gateway`."""
    guests = Guests(gateway.config)
    app = Starlette(
        routes=[
            *_Files(gateway, guests).routes(),
            *_Batches(gateway, guests).routes(),
            *_others(gateway, guests),
            *market_routes(gateway, guests),
            *move_routes(gateway, guests),
        ],
        exception_handlers={
            ApiError: _refused,
            HTTPException: _http_error,
            **dict.fromkeys(DISK_ERRORS, _not_kept),
            Exception: _unforeseen,
        },
    )
    app.router.redirect_slashes = False
    return app


class _Files:
    def __init__(self, gateway: Gateway, guests: Guests) -> None:
        self._gateway, self._shelf, self._guests = gateway, gateway.shelf, guests

    def routes(self) -> list[Route]:
        return [
            Route("/v1/files", self.upload, methods=["POST"]),
            Route("/v1/files", self.listing, methods=["GET"]),
            Route("/v1/files/{name}", self.one, methods=["GET"]),
            Route("/v1/files/{name}/content", self.content, methods=["GET"]),
            Route("/v1/files/{name}", self.delete, methods=["DELETE"]),
        ]

    async def upload(self, request: Request) -> Response:
        tenant = self._guests.tenant(request)
        size = announced(request)
        with self._gateway.incoming(tenant, size and max(0, size - FORM_BYTES)) as coming:
            name, keep_s = await receive(request, coming)
            kept = await run_in_threadpool(self._shelf.keep, coming, name, keep_s=keep_s)
        return JSONResponse(kept.json())

    async def listing(self, request: Request) -> Response:
        tenant, query = self._guests.tenant(request), request.query_params
        order = query.get("order", "desc")
        if order not in {"asc", "desc"}:
            raise ApiError(400, "order: is asc or desc", "invalid_value", "order")
        purpose = query.get("purpose")
        found = [one for one in self._shelf.files(tenant.name) if purpose in {None, one.purpose}]
        limit = _limit(request, LARGEST_PAGE)
        return JSONResponse(page(found, query.get("after"), limit, newest_first=order == "desc"))

    async def one(self, request: Request) -> Response:
        tenant = self._guests.tenant(request)
        return JSONResponse(self._shelf.file(tenant.name, request.path_params["name"]).json())

    async def content(self, request: Request) -> Response:
        file = self._shelf.file(self._guests.tenant(request).name, request.path_params["name"])
        return FileResponse(self._shelf.path(file), media_type="application/octet-stream", filename=file.filename)

    async def delete(self, request: Request) -> Response:
        tenant, name = self._guests.tenant(request), request.path_params["name"]
        self._shelf.drop(self._shelf.file(tenant.name, name))
        return JSONResponse({"id": name, "object": "file", "deleted": True})


class _Batches:
    def __init__(self, gateway: Gateway, guests: Guests) -> None:
        self._gateway, self._guests = gateway, guests

    def routes(self) -> list[Route]:
        return [
            Route("/v1/batches", self.create, methods=["POST"]),
            Route("/v1/batches", self.listing, methods=["GET"]),
            Route("/v1/batches/{name}", self.one, methods=["GET"]),
            Route("/v1/batches/{name}/cancel", self.cancel, methods=["POST"]),
        ]

    async def create(self, request: Request) -> Response:
        tenant = self._guests.tenant(request)
        return JSONResponse(self._gateway.create(tenant, await body_of(request)).json())

    async def listing(self, request: Request) -> Response:
        tenant = self._guests.tenant(request)
        after, limit = request.query_params.get("after"), _limit(request, USUAL_PAGE)
        return JSONResponse(page(self._gateway.shelf.batches(tenant.name), after, limit, newest_first=True))

    async def one(self, request: Request) -> Response:
        tenant = self._guests.tenant(request)
        return JSONResponse(self._gateway.look(tenant.name, request.path_params["name"]).json())

    async def cancel(self, request: Request) -> Response:
        tenant = self._guests.tenant(request)
        return JSONResponse(self._gateway.cancel(tenant.name, request.path_params["name"]).json())


def _others(gateway: Gateway, guests: Guests) -> list[Route]:
    async def models(request: Request) -> Response:
        guests.tenant(request)
        names = [(model, one.id) for one in gateway.config.upstreams for model in one.models]
        data = [{"id": model, "object": "model", "created": 0, "owned_by": owner} for model, owner in names]
        return JSONResponse({"object": "list", "data": data})

    async def health(_: Request) -> Response:
        trouble = gateway.trouble()
        return JSONResponse({"ok": not trouble, "trouble": trouble})

    async def metrics(request: Request) -> Response:
        told = metrics_text(gateway, by_tenant=guests.may_name_tenants(request))
        return Response(told, media_type="text/plain; version=0.0.4")

    return [Route("/v1/models", models), Route("/health", health), Route("/metrics", metrics)]


def _limit(request: Request, usual: int) -> int:
    text = request.query_params.get("limit", str(usual))
    if not (text.isascii() and text.isdigit() and len(text) < 9 and 1 <= int(text) <= LARGEST_PAGE):
        raise ApiError(400, f"limit: is a whole number from 1 to {LARGEST_PAGE}", "invalid_value", "limit")
    return int(text)


def _answer(error: ApiError) -> JSONResponse:
    kind = "server_error" if error.status >= 500 else "invalid_request_error"
    body = {"error": {"message": str(error), "type": kind, "param": error.param, "code": error.code}}
    headers = {} if error.retry_after_s is None else {"Retry-After": str(math.ceil(error.retry_after_s))}
    return JSONResponse(body, error.status, headers)


def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return _answer(error)


def _not_kept(request: Request, error: Exception) -> JSONResponse:
    """The disk takes nothing: what was asked is not done, and may be asked again."""
    log.error("gateway.not_kept", path=request.url.path, why=str(error))
    return _answer(ApiError(503, "it can't be kept now, and was not done", "storage_unavailable", None, AGAIN_S))


def _http_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return _answer(ApiError(error.status_code, str(error.detail)))


def _unforeseen(request: Request, error: Exception) -> JSONResponse:
    log.error("gateway.failed", path=request.url.path, error=repr(error))
    return _answer(ApiError(500, "internal error; the log says more"))
