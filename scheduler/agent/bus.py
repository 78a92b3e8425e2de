"""The node agent's ear on the fleet's bus: orders in, state out, and the trajectory that waited while it was away.

Why so thin: the bus decides nothing. An order from it is judged like one from the local socket, by epoch, sequence and
lease; when the bus falls silent the agent goes on by itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import cycle
from typing import Any, TypeVar
from zlib import crc32

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.errors import BucketNotFoundError, KeyNotFoundError, NotFoundError
from nats.js.errors import Error as StreamError

from adapters.bus import Bus
from adapters.bus_settings import BusSettings
from adapters.ports import AdapterError
from adapters.power import fleet_wire, wire
from scheduler.agent.core import AgentCore
from scheduler.agent.news import News

T = TypeVar("T")
MOST_PAUSE_S = 20.0
"""At most so long passes between two questions for what waited."""

SPENT_S = 0.001
"""What is left of a lease that is over."""

Answer = Callable[[AgentCore, Mapping[str, Any], bool], dict[str, Any]]
_log = logging.getLogger("gridpace.agent")


Do = Callable[[Callable[[], T]], Awaitable[T]]


class Ear:
    """One agent on one connection: what it hears, and how it answers."""

    def __init__(
        self,
        core: AgentCore,
        node: str,
        answer: Answer,
        state_s: float,
        do: Do[Any],
        wall: Callable[[], float] = time.time,
        news: News | None = None,
        grain_s: float = 0.0,
    ) -> None:
        """`answer` obeys a request as the local socket does; every `state_s` seconds the node tells its state; `do`
        runs what touches the cards; `wall` tells UTC seconds; the first telling is at a whole multiple of `grain_s`
        (0: at any moment). ValueError for a name that can't be in a subject."""
        self._core, self._answer, self._state_s, self._do, self._wall = core, answer, state_s, do, wall
        self._node = fleet_wire.node_name(node)
        self._client: Client | None = None
        self._news, self._grain_s = news or News(), grain_s
        self._telling: asyncio.Task[None] | None = None
        self._catching_up: asyncio.Task[None] | None = None

    async def begin(self, client: Client) -> None:
        """After every connection: hear what is for us, and take what waited. Subscriptions outlive a lost one."""
        if self._client is None:
            self._client = client
            await self.listen(client)
            self._telling = asyncio.get_running_loop().create_task(self._tell(client))
        if self._catching_up is not None:
            self._catching_up.cancel()
        self._catching_up = asyncio.get_running_loop().create_task(self.catch_up(client))

    async def listen(self, client: Client) -> None:
        """Hear what is for this node, and what is for all."""
        await client.subscribe(fleet_wire.ask_subject(self._node), cb=self._on_ask)
        await client.subscribe(fleet_wire.HELLO, cb=partial(self._on_hello, client))
        await client.subscribe(fleet_wire.RENEW, cb=self._on_renew)
        await client.subscribe(fleet_wire.follow_subject(self._node), cb=self._on_trajectory)

    async def catch_up(self, client: Client) -> None:
        """Take what waited while we were away, as soon as the bucket can be asked: behind a leaf there may be a server
        and yet no way to it."""
        pause_s = self._state_s
        for domain in cycle((None, fleet_wire.DOMAIN)):
            try:
                bucket = await client.jetstream(domain=domain, timeout=5.0).key_value(fleet_wire.BUCKET)
                await self._follow((await bucket.get(self._node)).value or b"", waited=True)
            except (NotFoundError, BucketNotFoundError, KeyNotFoundError):
                _log.info("no trajectory waits for %s", self._node)
            except (TimeoutError, StreamError, NatsError, OSError) as error:
                _log.info("%s can't ask for its trajectory yet (%s)", self._node, type(error).__name__)
                pause_s = min(MOST_PAUSE_S, 1.5 * pause_s)
                await asyncio.sleep(pause_s)
                continue
            return

    async def _on_ask(self, message: Msg) -> None:
        try:
            request = wire.decode(message.data)
        except wire.BadRequest as error:
            await message.respond(wire.encode({"ok": False, "code": wire.BAD_REQUEST, "error": str(error)}))
            return
        await message.respond(wire.encode(await self._do(lambda: self._answer(self._core, request, True))))

    async def _on_hello(self, client: Client, _: Msg) -> None:
        """Told as every state is, under this node's own name, which the server vouches for."""
        state = await self._state(whole=True)
        if state is not None:
            await client.publish(fleet_wire.state_subject(self._node), state)

    async def _on_renew(self, message: Msg) -> None:
        """A renewal is unanswered; one that is refused shows in the state that is told."""
        try:
            lease = wire.lease(wire.decode(message.data).get("lease"))
            await self._do(lambda: self._core.apply({}, lease))
        except (wire.BadRequest, AdapterError) as error:
            _log.warning("a renewal is not obeyed: %s", error)

    async def _on_trajectory(self, message: Msg) -> None:
        await self._follow(message.data)

    async def _follow(self, data: bytes, *, waited: bool = False) -> None:
        """Take a trajectory over; an empty one was deleted. One that `waited` renews no lease: who has none, as after a
        reboot, has lost the caps that the lease was for, and follows at once."""
        if not data:
            return
        try:
            await self._do(lambda: self._take(data, waited))
        except (wire.BadRequest, AdapterError) as error:
            _log.warning("the trajectory in the bucket is not followed: %s", error)

    def _take(self, data: bytes, waited: bool) -> None:
        """Read where its age counts: whatever was to be done before it is done."""
        found = fleet_wire.trajectory_in(data, self._wall())
        if found is not None:
            lease = replace(found.lease, expires_in_s=SPENT_S) if waited else found.lease
            self._core.hold(found.steps, found.until_s, lease, found.age_s)

    async def _tell(self, client: Client) -> None:
        """Tell the state, again and again; while no server is there nothing is kept for later. Each node has moments of
        its own, and keeps to them when one was late: a hall that was switched on in one second, or was busy for some,
        would speak as one for ever."""
        loop = asyncio.get_running_loop()
        due = at_grain(loop.time() + self._state_s * share_of(self._node), self._grain_s)
        while True:
            await asyncio.sleep(due - loop.time())
            due = next_due(due, loop.time(), self._state_s)
            if client.is_connected:
                await self.tell(client)

    async def tell(self, client: Client) -> None:
        """Tell the state once, where it is news."""
        state = await self._state()
        if state:
            try:
                await client.publish(fleet_wire.state_subject(self._node), state)
            except (NatsError, OSError) as error:
                _log.warning("the state is not told: %s", error)

    async def _state(self, *, whole: bool = False) -> bytes | None:
        """This node's state as one message, empty where nothing is new; None while its cards can't be reached."""
        try:
            told: bytes = await self._do(lambda: self._told(whole))
        except AdapterError as error:
            _log.warning("%s", error)
            return None
        return told

    def _told(self, whole: bool) -> bytes:
        infos, status = self._core.discover(), self._core.status()
        if not whole and not self._news.worth(infos, status):
            return b""
        return fleet_wire.state_out(self._node, infos, status, whole=whole)


def share_of(node: str) -> float:
    """A number from 0 to 1 that is the same for a node at all times, and another one for the next node."""
    return crc32(node.encode()) / 2**32


def next_due(due: float, now: float, every: float) -> float:
    """The first moment after `now` of those that lie `every` seconds apart, `due` being one that has come."""
    return due + every * (1 + max(0.0, now - due) // every)


def at_grain(moment: float, grain_s: float) -> float:
    """The first whole multiple of `grain_s` that is not before this moment; the moment itself where there is none."""
    return -(-moment // grain_s) * grain_s if grain_s else moment


class FleetEar:
    """Serves one agent on the bus, in the background, until it is closed."""

    def __init__(self, core: AgentCore, settings: BusSettings, answer: Answer, state_s: float = 1.0) -> None:
        """`settings.name` is the node's name. See `Ear`."""
        self._hands = ThreadPoolExecutor(1, thread_name_prefix="bus-orders")
        self._ear = Ear(core, settings.name, answer, state_s, self._do)
        self.bus = Bus(settings, self._ear.begin)

    def close(self) -> None:
        """Stop listening."""
        self.bus.close()
        self._hands.shutdown(wait=False, cancel_futures=True)

    async def _do(self, work: Callable[[], T]) -> T:
        """Run what touches the cards outside the loop, one after the other, so that orders keep their order."""
        return await asyncio.get_running_loop().run_in_executor(self._hands, work)
