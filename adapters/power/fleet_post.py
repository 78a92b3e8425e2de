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
from adapters.bus_copies import Copies
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

Exchange = Callable[[Sequence[Message]], Coroutine[Any, Any, list[Msg | str]]]


class TrajectoryPost:
    """The bucket of trajectories, and the nodes behind it. Lives in the bus's loop."""

    def __init__(self, replicas: int, exchange: Exchange, permit: Callable[[], None]) -> None:
        """`replicas` of the bucket; `exchange` sends messages and waits for their answers; `permit` raises where
        nothing may be ordered now."""
        self._replicas, self._exchange, self._permit = replicas, exchange, permit
        self._bucket: KeyValue | None = None
        self.copies = Copies(replicas, f"KV_{fleet_wire.BUCKET}", may=permit)
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
        """Delete what is kept for these nodes. AdapterError as above."""
        for part in _parts(nodes):
            await self._put(bus, [(fleet_wire.key_subject(node), b"", {"KV-Operation": "DEL"}) for node in part])

    async def _behind(self, ends: float) -> None:
        while (now := monotonic()) < ends and (self.orders or now < self._coming_until):
            await asyncio.sleep(LOOK_S)

    async def _put(self, bus: Bus, messages: Sequence[Message]) -> None:
        await self._open(bus)
        self._permit()
        answers = await self._exchange(messages)
        lost = next((why for why in map(not_kept, answers) if why), None)
        if lost is not None:
            raise AdapterError(f"NATS at {bus.settings.place}: a trajectory was not kept: {lost}")

    async def _open(self, bus: Bus) -> None:
        """The bucket, made when it isn't there."""
        if self._bucket is None:
            stream = bus.jetstream
            try:
                self._bucket = await stream.key_value(fleet_wire.BUCKET)
            except (BucketNotFoundError, NotFoundError):
                made = KeyValueConfig(bucket=fleet_wire.BUCKET, history=1, replicas=self._replicas, direct=True)
                self._bucket = await stream.create_key_value(made)


def _parts(nodes: Sequence[str]) -> list[Sequence[str]]:
    return [nodes[begin : begin + PART] for begin in range(0, len(nodes), PART)]
