"""Trajectories on their way to thousands of nodes: kept for who is away, told to who is there, and behind every order.

Why behind: an order is what somebody waits for now, and each node does one thing after the other. So trajectories go in
small parts, and before each part whatever order is on its way is let through.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from time import monotonic
from typing import Any

from nats.aio.msg import Msg
from nats.js.api import KeyValueConfig
from nats.js.errors import BucketNotFoundError, NotFoundError
from nats.js.kv import KeyValue

from adapters.bus import Bus
from adapters.bus_copies import Copies, made
from adapters.ports import AdapterError
from adapters.power import fleet_wire
from adapters.power.fleet_answers import not_kept
from adapters.power.fleet_ask import Message

PART = 250
"""So many nodes at a time; all of them may wait for the server's word at once, which drops what comes faster than it
writes."""

WAY_S = 1.0
"""So long nothing more goes out where an order is about to come: it is made in the same process meanwhile."""

LOOK_S = 0.005
"""How often a waiting part looks whether the order is over."""

TURNS = 2
"""So many times a message that the server says nothing to is sent, each for its share of the patience: while the
servers choose who leads the bucket, for about a second after it got more copies or lost one, what comes is lost."""

Exchange = Callable[[Sequence[Message], float], Coroutine[Any, Any, list[Msg | str]]]


class TrajectoryPost:
    """The bucket of trajectories, and the nodes behind it. Lives in the bus's loop."""

    def __init__(self, replicas: int, exchange: Exchange, permit: Callable[[], None]) -> None:
        """`replicas` of the bucket; `exchange` sends messages and waits for their answers for this share of
        the patience with them; `permit` raises where nothing may be ordered now."""
        self._replicas, self._exchange, self._permit = replicas, exchange, permit
        self._bucket: KeyValue | None = None
        self.copies = Copies(replicas, f"KV_{fleet_wire.BUCKET}", may=permit, by_itself=True)
        self.orders = 0
        """Orders that are on their way now."""
        self._coming_until = float("-inf")

    def make_way(self) -> None:
        """An order comes. From any thread."""
        self._coming_until = monotonic() + WAY_S

    def renew(self) -> None:
        """The connection is new: the bucket is looked up again, and how many servers keep it."""
        self._bucket = None
        self.copies.renew()

    async def hand_over(self, bus: Bus, nodes: Sequence[str], told: Callable[[str], bytes], most_s: float) -> None:
        """Keep nodes' trajectories for who is away, then tell who is there: a bucket's own news don't pass a leaf. The
        trajectory of a node is written down (`told`) when its turn comes. AdapterError for the first that isn't kept.
        It lets orders through for `most_s` seconds altogether."""
        ends = monotonic() + most_s
        for part in _parts(nodes):
            await self._behind(ends)
            puts = {node: told(node) for node in part}
            await self._put(bus, [(fleet_wire.key_subject(node), data, None) for node, data in puts.items()])
            await self._behind(ends)
            for node, data in puts.items():
                await bus.client.publish(fleet_wire.follow_subject(node), data)
        self.copies.look(bus)

    async def forget(self, bus: Bus, nodes: Sequence[str]) -> None:
        """Delete what is kept for these nodes. AdapterError as above: nobody gives limits back then, since a node that
        comes back would follow what is still kept, and no one would know."""
        for part in _parts(nodes):
            gone: list[Message] = [(fleet_wire.key_subject(node), b"", {"KV-Operation": "DEL"}) for node in part]
            await self._put(bus, gone, "deleted, so that no limit is given back")

    async def _behind(self, ends: float) -> None:
        while (now := monotonic()) < ends and (self.orders or now < self._coming_until):
            await asyncio.sleep(LOOK_S)

    async def _put(self, bus: Bus, messages: Sequence[Message], done: str = "kept") -> None:
        """Write these: the same one twice does no harm."""
        await self._open(bus)
        for _ in range(TURNS):
            self._permit()
            answers = await self._exchange(messages, 1.0 / TURNS)
            refused = next(
                (why for answer in answers if not isinstance(answer, str) and (why := not_kept(answer))), None
            )
            unheard = [(one, why) for one, why in zip(messages, answers, strict=True) if isinstance(why, str)]
            if refused or not unheard:
                break
            messages = [one for one, _ in unheard]
        lost = refused or next((why for _, why in unheard), None)
        if lost is not None:
            raise AdapterError(f"NATS at {bus.settings.place}: a trajectory was not {done}: {lost}")

    async def _open(self, bus: Bus) -> None:
        """The bucket, made when it isn't there."""
        if self._bucket is None:
            stream = bus.jetstream
            try:
                self._bucket = await stream.key_value(fleet_wire.BUCKET)
            except (BucketNotFoundError, NotFoundError):

                def make(copies: int) -> Coroutine[Any, Any, KeyValue]:
                    bucket = KeyValueConfig(bucket=fleet_wire.BUCKET, history=1, replicas=copies, direct=True)
                    return stream.create_key_value(bucket)

                self._bucket = await made(make, self._replicas)


def _parts(nodes: Sequence[str]) -> list[Sequence[str]]:
    return [nodes[begin : begin + PART] for begin in range(0, len(nodes), PART)]
