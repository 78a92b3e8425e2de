"""Prices and firm quotes: what a client asks, buys and gives up.

`GET /v1/quotes` is one text for all clients, made once for each plan and two seconds; who sends back its ETag gets no
second copy.
"""

from __future__ import annotations

from hashlib import blake2b

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from scheduler.gateway.gateway import Gateway
from scheduler.gateway.guests import Guests, body_of


def market_routes(gateway: Gateway, guests: Guests) -> list[Route]:
    """Routes under /v1/quotes."""
    sales = gateway.trade.sales
    kept: list[tuple[bytes, str]] = [(b"", "")]

    async def prices(request: Request) -> Response:
        guests.tenant(request)
        text = gateway.trade.prices()
        if text != kept[0][0]:
            kept[0] = (text, f'"{blake2b(text, digest_size=12).hexdigest()}"')
        headers = {"etag": kept[0][1], "cache-control": "private, no-cache"}
        if request.headers.get("if-none-match") == kept[0][1]:
            return Response(status_code=304, headers=headers)
        return Response(text, media_type="application/json", headers=headers)

    async def ask(request: Request) -> Response:
        tenant = guests.tenant(request)
        return JSONResponse(sales.ask(tenant, await body_of(request)).json())

    async def mine(request: Request) -> Response:
        tenant = guests.tenant(request)
        return JSONResponse({"object": "list", "data": [one.json() for one in sales.of(tenant.name)]})

    async def one(request: Request) -> Response:
        return JSONResponse(sales.find(guests.tenant(request).name, request.path_params["name"]).json())

    async def accept(request: Request) -> Response:
        found = sales.accept(guests.tenant(request).name, request.path_params["name"])
        gateway.stir()
        return JSONResponse(found.json())

    async def drop(request: Request) -> Response:
        found = sales.drop(guests.tenant(request).name, request.path_params["name"])
        gateway.stir()
        return JSONResponse(found.json())

    return [
        Route("/v1/quotes", prices, methods=["GET"]),
        Route("/v1/quotes", ask, methods=["POST"]),
        Route("/v1/quotes/mine", mine, methods=["GET"]),
        Route("/v1/quotes/{name}", one, methods=["GET"]),
        Route("/v1/quotes/{name}/accept", accept, methods=["POST"]),
        Route("/v1/quotes/{name}", drop, methods=["DELETE"]),
    ]
