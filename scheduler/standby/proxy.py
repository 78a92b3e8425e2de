"""What clients say to a daemon that stands by, passed on to the one that leads, over the fleet's bus.

Why passed on and not redirected: a utility's client posts a signed event to the address that it was given once; few
follow a redirect of a POST. The request travels as it came, so that its signature still holds, and is judged by the
leader alone. Daemons that lead hear it as one queue group: in the moment of a change it is answered once.
"""

from __future__ import annotations

import asyncio
import base64
import json
import zlib
from collections.abc import Iterable, Mapping
from concurrent.futures import wait
from contextlib import suppress
from typing import Any

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from starlette.types import ASGIApp, Message

from adapters.bus import Bus
from adapters.ports import AdapterError
from adapters.power.fleet_wire import LEAD

ANSWER_S = 15.0
LEAVE_S = 1.0
"""So long a desk that closes waits for what was on its way to it, and for its answers."""

MOST_AT_ONCE = 32
QUEUE = "daemons"
NOT_PASSED = {"host", "connection", "content-length", "transfer-encoding", "expect", "upgrade"}


def encode(message: Mapping[str, Any]) -> bytes:
    """A request or an answer; `body` is bytes."""
    return zlib.compress(json.dumps({**message, "body": base64.b64encode(message["body"]).decode()}).encode(), 1)


def decode(data: bytes) -> dict[str, Any]:
    """What `encode` encoded. ValueError when it isn't that."""
    try:
        message = json.loads(zlib.decompress(data))
        return {**message, "body": base64.b64decode(message["body"])}
    except (zlib.error, KeyError, TypeError) as error:
        raise ValueError(f"not a request that was passed on: {error!r}") from error


class LeadDesk:
    """Answers at the leader, by its own API, whatever is passed on, until it is closed."""

    def __init__(self, bus: Bus, app: ASGIApp) -> None:
        self._bus, self._app = bus, app
        self._seats = asyncio.Semaphore(MOST_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._subscription: Subscription | None = bus.call(self._listen(), 5.0)

    def close(self) -> None:
        """Hear no more; what was heard, or was on its way here, is still answered."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            try:
                leaving = self._bus.begin(self._leave(subscription))
            except AdapterError:
                return  # a bus that is closed hears nothing
            wait({leaving}, 2.0 * LEAVE_S)  # a bus that is busy leaves when it can: nothing may be heard for ever

    async def _leave(self, subscription: Subscription) -> None:
        """Tell the server, wait for what it had sent by then and for the answers, and end the subscription. (`drain` of
        the client may not be broken off, as the late pong would end its connection; and its ping overtakes the word.)
        """
        loop, client = asyncio.get_running_loop(), self._bus.client
        ends, pong = loop.time() + LEAVE_S, loop.create_future()

        async def within(waited: Iterable[asyncio.Future[Any]]) -> None:
            if waiting := set(waited):
                await asyncio.wait(waiting, timeout=max(0.0, ends - loop.time()))

        with suppress(NatsError, OSError):
            if client.is_connected:
                await client._send_unsubscribe(subscription._id)
                await within([loop.create_task(client._flush_pending(force_flush=True))])
                await client._send_ping(pong)
                await within([pong])
                while subscription.pending_msgs and loop.time() < ends:
                    await asyncio.sleep(0)
                await within(self._tasks)
        with suppress(NatsError, OSError):
            await subscription.unsubscribe()

    async def _listen(self) -> Subscription:
        return await self._bus.client.subscribe(LEAD, queue=QUEUE, cb=self._on_request)

    async def _on_request(self, message: Msg) -> None:
        task = asyncio.get_running_loop().create_task(self._answer(message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, message: Msg) -> None:
        async with self._seats:
            try:
                answer = await asked(self._app, decode(message.data))
            except ValueError:
                return
            data = encode(answer)
            if len(data) > int(self._bus.client.max_payload or 0):
                text = b'{"error": "the answer is too large to be passed on; ask the daemon that leads", "field": null}'
                data = encode({"status": 502, "headers": [["content-type", "application/json"]], "body": text})
            await message.respond(data)


async def asked(app: ASGIApp, request: Mapping[str, Any]) -> dict[str, Any]:
    """The answer of an ASGI application to one request: `status`, `headers`, `body`."""
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in request["headers"]]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": request["method"],
        "scheme": "http", "path": request["path"], "raw_path": request["path"].encode(),
        "query_string": request["query"].encode("latin-1"), "root_path": "", "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 0),
        "headers": [*headers, (b"host", b"127.0.0.1"), (b"content-length", str(len(request["body"])).encode())],
    }  # fmt: skip
    told: dict[str, Any] = {"status": 500, "headers": [], "body": b""}
    given = False

    async def receive() -> Message:
        nonlocal given
        if given:
            return {"type": "http.disconnect"}
        given = True
        return {"type": "http.request", "body": request["body"], "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            told["status"] = message["status"]
            told["headers"] = [[n.decode("latin-1"), v.decode("latin-1")] for n, v in message.get("headers", ())]
        elif message["type"] == "http.response.body":
            told["body"] += message.get("body", b"")

    with suppress(Exception):  # the application has answered 500 by then, and logged why
        await app(scope, receive, send)
    return told


class Unanswered(Exception):
    """A request went out and no answer came: nobody knows whether it was accepted."""


async def passed_on(bus: Bus, request: Mapping[str, Any]) -> dict[str, Any] | None:
    """The leader's answer to a request, asked in the bus's loop; None where nobody leads, so that nobody heard it.
    Raises Unanswered, and ValueError for one that the bus can't carry."""
    data = encode(request)
    if bus.connected and len(data) > int(bus.client.max_payload or 0):
        raise ValueError("too large to be passed on to the daemon that leads; send it there")
    if not bus.connected:
        return None
    try:
        return decode((await bus.client.request(LEAD, data, ANSWER_S)).data)
    except NoRespondersError:
        return None
    except (NatsError, TimeoutError, OSError, ValueError) as error:
        raise Unanswered(str(error) or type(error).__name__) from error
