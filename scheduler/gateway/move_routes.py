"""What gateways of other sites call: hand a batch over, look after it, give it back (see `host.py`)."""

from __future__ import annotations

from dataclasses import asdict

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from scheduler.gateway.form import announced, pieces
from scheduler.gateway.gateway import Gateway
from scheduler.gateway.guests import Guests, body_of


def move_routes(gateway: Gateway, guests: Guests) -> list[Route]:
    """Routes under /v1/moves."""
    host = gateway.host

    async def send(request: Request) -> Response:
        tenant, token = guests.tenant(request), request.path_params["token"]
        if not host.lacks(tenant, token):
            return JSONResponse({"bytes": 0})
        with gateway.incoming(tenant, announced(request)) as coming:
            async for piece in pieces(request):
                await run_in_threadpool(coming.write, piece)
            await run_in_threadpool(host.keep, tenant, token, coming)
            return JSONResponse({"bytes": coming.size})

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
