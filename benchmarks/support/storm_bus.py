"""A bus inside one process, for thousands of virtual hours of a fleet: who is connected hears what is said, at once.

Why not the real server here: a storm runs under a virtual clock, and no server waits for that. What the daemon's side
and the node's side say to each other, and how each of them judges it, is the product's own code; `tests/faults` runs
the same over a real server, and cuts a real cable.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, TypeVar

from nats.js.errors import KeyNotFoundError

from adapters.bus_settings import BusSettings
from adapters.ports import AdapterError
from adapters.power import fleet_wire

T = TypeVar("T")
Hear = Callable[[Any], Awaitable[None]]
PREFIX = fleet_wire.key_subject("")


@dataclass
class Wires:
    """The server: subscriptions by owner, kept trajectories, and who is cut off."""

    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    heard: dict[str, dict[str, Hear]] = field(default_factory=dict)
    kept: dict[str, bytes] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)
    inboxes: int = 0

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end."""
        return self.loop.run_until_complete(work)

    def at_once(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine that waits for nobody; RuntimeError for one that would."""
        try:
            work.send(None)
        except StopIteration as done:
            value: T = done.value
            return value
        raise RuntimeError("it waits for somebody")

    def leave(self, owner: str) -> None:
        """This client is gone with all that it heard."""
        self.heard.pop(owner, None)

    async def publish(self, owner: str, subject: str, data: bytes, reply: str, headers: Mapping[str, str]) -> None:
        """Hand a message to everybody who hears its subject; one that nobody hears is answered by the server."""
        if owner in self.cut:
            return
        if subject.startswith(PREFIX):
            self.kept[subject.removeprefix(PREFIX)] = data
            said = json.dumps({"stream": fleet_wire.BUCKET}).encode()
            await self._deliver(reply, said, "", {})
        elif not await self._deliver(subject, data, reply, headers) and reply:
            await self._deliver(reply, b"", "", {"Status": "503"})

    async def _deliver(self, subject: str, data: bytes, reply: str, headers: Mapping[str, str]) -> bool:
        hears = [
            (name, hear)
            for name, mine in list(self.heard.items())
            if name not in self.cut
            for pattern, hear in list(mine.items())
            if pattern == subject or (pattern.endswith(".*") and subject.rpartition(".")[0] == pattern[:-2])
        ]
        for name, hear in hears:

            async def respond(answer: bytes, name: str = name) -> None:
                await self.publish(name, reply, answer, "", {})

            await hear(SimpleNamespace(subject=subject, data=data, reply=reply, headers=headers, respond=respond))
        return bool(hears)


class LocalClient:
    """What the product asks of a NATS client."""

    is_connected = True

    def __init__(self, wires: Wires, name: str) -> None:
        self._wires, self._name = wires, name

    def new_inbox(self) -> str:
        """A subject that nobody else hears."""
        self._wires.inboxes += 1
        return f"_INBOX_{self._name}.{self._wires.inboxes}"

    async def subscribe(self, subject: str, cb: Hear, **_limits: int) -> SimpleNamespace:
        """Hear a subject from now on."""
        mine = self._wires.heard.setdefault(self._name, {})
        mine[subject] = cb

        async def unsubscribe() -> None:
            mine.pop(subject, None)

        return SimpleNamespace(unsubscribe=unsubscribe)

    async def publish(
        self, subject: str, data: bytes, reply: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        """Say something."""
        await self._wires.publish(self._name, subject, data, reply, headers or {})

    def jetstream(self, **_options: object) -> LocalClient:
        """The bucket's side of it."""
        return self

    async def key_value(self, _bucket: str) -> LocalClient:
        """The trajectories' bucket."""
        return self

    async def get(self, key: str) -> SimpleNamespace:
        """What is kept under a key. Raises KeyNotFoundError."""
        if not self._wires.kept.get(key):
            raise KeyNotFoundError
        return SimpleNamespace(value=self._wires.kept[key])


class LocalBus:
    """`adapters.bus.Bus` without a server."""

    def __init__(self, wires: Wires, name: str) -> None:
        self._wires = wires
        self.settings = BusSettings(("local",), name)
        self.client = LocalClient(wires, name)

    @property
    def connected(self) -> bool:
        """Whether anybody can be reached."""
        return self.settings.name not in self._wires.cut

    @property
    def jetstream(self) -> LocalClient:
        """The bucket's side of it."""
        return self.client

    def wait_connected(self, _seconds: float) -> None:
        """Nothing to wait for. AdapterError while cut off."""
        if not self.connected:
            raise self.unreachable()

    def call(self, work: Coroutine[Any, Any, T], _deadline_s: float) -> T:
        """Run it now."""
        return self._wires.run(work)

    def unreachable(self) -> AdapterError:
        """The error that says that nobody is there."""
        return AdapterError("the bus: cut off")

    def close(self) -> None:
        """Hang up."""
        self._wires.leave(self.settings.name)
