"""What gateways of other sites call: hand a batch over, look after it, give it back (see `host.py`)."""

from __future__ import annotations

import tempfile
from dataclasses import asdict

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from scheduler.gateway.gateway import Gateway
from scheduler.gateway.guests import Guests, body_of
from scheduler.gateway.model import ApiError


def move_routes(gateway: Gateway, guests: Guests) -> list[Route]:
    """Routes under /v1/moves."""
    host = gateway.host

    async def send(request: Request) -> Response:
        tenant, most, size = guests.tenant(request), gateway.config.max_file_bytes, 0
        with tempfile.TemporaryFile(dir=gateway.shelf.folder) as content:
            async for piece in request.stream():
                size += len(piece)
                if size > most:
                    raise ApiError(413, f"file: only {most} bytes may be stored", "file_too_large", "file")
                await run_in_threadpool(content.write, piece)
            content.seek(0)
            await run_in_threadpool(host.keep, tenant, request.path_params["token"], content)
        return JSONResponse({"bytes": size})

    async def take(request: Request) -> Response:
        tenant = guests.tenant(request)
        return JSONResponse(asdict(host.take(tenant, request.path_params["token"], await body_of(request))))

    async def look(request: Request) -> Response:
        return JSONResponse(asdict(host.look(guests.tenant(request), request.path_params["token"])))

    async def give_back(request: Request) -> Response:
        found = host.give_back(guests.tenant(request), request.path_params["token"])
        gateway.stir()
        return JSONResponse(asdict(found))

    return [
        Route("/v1/moves/{token}/input", send, methods=["PUT"]),
        Route("/v1/moves/{token}", take, methods=["PUT"]),
        Route("/v1/moves/{token}", look, methods=["GET"]),
        Route("/v1/moves/{token}", give_back, methods=["DELETE"]),
    ]
