"""The routes: what OpenAI's clients call, with errors in the form that they expect.

Keys: `Authorization: Bearer KEY`, one for each tenant; a tenant sees its own files and batches and nothing else.
"""

from __future__ import annotations

import hmac
import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

import structlog
from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, JSONResponse, Response

from scheduler.gateway.config import TenantConfig
from scheduler.gateway.gateway import Gateway
from scheduler.gateway.metrics import metrics_text
from scheduler.gateway.model import ApiError
from scheduler.gateway.shelf import page

log = structlog.get_logger("gridpace.gateway")

LARGEST_PAGE = 10_000
LARGEST_BODY = 1_000_000


def create_app(gateway: Gateway) -> FastAPI:
    """The HTTP side of `gateway`."""
    app = FastAPI(title="Gridpace batch gateway", docs_url=None, redoc_url=None)
    app.state.keys = _keys(gateway)
    _files(app, gateway)
    _batches(app, gateway)
    _others(app, gateway)
    app.add_exception_handler(ApiError, _refused)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _unforeseen)
    return app


def _keys(gateway: Gateway) -> list[tuple[bytes, TenantConfig]]:
    return [(one.key.reveal(gateway.config.base_dir).encode(), one) for one in gateway.config.tenants]


def _tenant(request: Request) -> TenantConfig:
    scheme, _, shown = request.headers.get("authorization", "").partition(" ")
    found = None
    for key, tenant in request.app.state.keys:  # all of them, so that the time tells nothing
        if hmac.compare_digest(key, shown.strip().encode()):
            found = tenant
    if found is None or scheme.lower() != "bearer":
        raise ApiError(401, "Incorrect API key provided.", "invalid_api_key")
    return cast("TenantConfig", found)


Tenant = Annotated[TenantConfig, Depends(_tenant)]
Limit = Annotated[int, Query(ge=1, le=LARGEST_PAGE)]


def _files(app: FastAPI, gateway: Gateway) -> None:
    @app.post("/v1/files")
    async def upload(request: Request, tenant: Tenant) -> dict[str, Any]:
        async with request.form(max_files=1, max_fields=10) as form:
            file, purpose = form.get("file"), form.get("purpose")
            if purpose != "batch":
                raise ApiError(400, 'purpose: only "batch" is served here', "invalid_value", "purpose")
            if not isinstance(file, UploadFile):
                raise ApiError(400, "file: is missing", "missing_required_parameter", "file")
            kept = await run_in_threadpool(gateway.keep, tenant, file.filename or "input.jsonl", file.file)
        return kept.json()

    @app.get("/v1/files")
    async def listing(
        tenant: Tenant,
        after: str | None = None,
        limit: Limit = LARGEST_PAGE,
        order: Literal["asc", "desc"] = "desc",
        purpose: str | None = None,
    ) -> dict[str, Any]:
        found = [one for one in gateway.shelf.files(tenant.name) if purpose in {None, one.purpose}]
        return page(found, after, limit, newest_first=order == "desc")

    @app.get("/v1/files/{name}")
    async def one(name: str, tenant: Tenant) -> dict[str, Any]:
        return gateway.shelf.file(tenant.name, name).json()

    @app.get("/v1/files/{name}/content")
    async def content(name: str, tenant: Tenant) -> Response:
        file = gateway.shelf.file(tenant.name, name)
        return FileResponse(gateway.shelf.path(file), media_type="application/octet-stream", filename=file.filename)

    @app.delete("/v1/files/{name}")
    async def delete(name: str, tenant: Tenant) -> dict[str, Any]:
        gateway.shelf.drop(gateway.shelf.file(tenant.name, name))
        return {"id": name, "object": "file", "deleted": True}


def _batches(app: FastAPI, gateway: Gateway) -> None:
    @app.post("/v1/batches")
    async def create(request: Request, tenant: Tenant) -> dict[str, Any]:
        return gateway.create(tenant, await _object(request)).json()

    @app.get("/v1/batches")
    async def listing(tenant: Tenant, after: str | None = None, limit: Limit = 20) -> dict[str, Any]:
        return page(gateway.shelf.batches(tenant.name), after, limit, newest_first=True)

    @app.get("/v1/batches/{name}")
    async def one(name: str, tenant: Tenant) -> dict[str, Any]:
        return gateway.shelf.batch(tenant.name, name).json()

    @app.post("/v1/batches/{name}/cancel")
    async def cancel(name: str, tenant: Tenant) -> dict[str, Any]:
        return gateway.cancel(tenant.name, name).json()


def _others(app: FastAPI, gateway: Gateway) -> None:
    @app.get("/v1/models")
    async def models(_: Tenant) -> dict[str, Any]:
        names = [(model, one.id) for one in gateway.config.upstreams for model in one.models]
        data = [{"id": model, "object": "model", "created": 0, "owned_by": owner} for model, owner in names]
        return {"object": "list", "data": data}

    @app.get("/health")
    async def health() -> JSONResponse:
        trouble = gateway.trouble()
        return JSONResponse({"ok": not trouble, "trouble": trouble})

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(metrics_text(gateway), media_type="text/plain; version=0.0.4")


async def _object(request: Request) -> Mapping[str, Any]:
    text = bytearray()
    async for piece in request.stream():
        text += piece
        if len(text) > LARGEST_BODY:
            raise ApiError(413, f"the body has more than {LARGEST_BODY} bytes")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON: {error}", "invalid_json") from None
    if not isinstance(found, dict):
        raise ApiError(400, "the body is not a JSON object", "invalid_json")
    return found


def _answer(error: ApiError) -> JSONResponse:
    kind = "server_error" if error.status >= 500 else "invalid_request_error"
    body = {"error": {"message": str(error), "type": kind, "param": error.param, "code": error.code}}
    headers = {} if error.retry_after_s is None else {"Retry-After": str(math.ceil(error.retry_after_s))}
    return JSONResponse(body, error.status, headers)


def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return _answer(error)


def _http_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return _answer(ApiError(error.status_code, str(error.detail)))


def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    param = str(first["loc"][-1])
    return _answer(ApiError(400, f"{param}: {first['msg']}", "invalid_value", param))


def _unforeseen(request: Request, error: Exception) -> JSONResponse:
    log.error("gateway.failed", path=request.url.path, error=repr(error))
    return _answer(ApiError(500, "internal error; the log says more"))
