"""How many servers keep a copy of a stream that is there already: brought to what the config says, while work goes on.

Why in the background: the change is asked of the servers once, and they may refuse it, or (where the key may not ask)
say nothing at all. No order, no trajectory and no lease waits for that; whoever uses the streams calls `look` right
after it wrote to them, which is when the servers are there and this daemon leads. A stream that gets more copies takes
nothing for about a second, so that moment is also the one in which the next write is farthest away.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine, Mapping
from time import monotonic
from typing import Any, TypeVar

from nats.errors import Error as NatsError
from nats.js.errors import APIError

from adapters.bus import Bus
from adapters.ports import AdapterError
from optimizer.reasons import Note, Reason, Severity

T = TypeVar("T")
_log = logging.getLogger("gridpace.bus")

ASK_S = 5.0
"""So long one answer is waited for."""

FIRST_S, AGAIN_S = 2.0, 60.0
"""What was refused is asked for again after so long, each time twice as long, up to the second; on a new connection at
once."""

TOLD = 3
"""So many refusals in a row are told of: servers that have just started do not know yet that all of them are there."""

PAUSE_S = 1.5
"""So long the next stream waits behind one that gets more copies, and takes nothing meanwhile."""

LATER_S = 0.05
"""Two clocks: the pause is over for sure."""

STREAM_NOT_FOUND = 10059


TOO_FEW = {10005, 10074}
"""What a server answers that has not so many others to keep copies (or is alone)."""


async def made(make: Callable[[int], Coroutine[Any, Any, T]], wanted: int) -> T:
    """What `make` makes with so many copies; with one where too few servers are there: that can work, and `Copies`
    brings it up later, or tells why not."""
    try:
        return await make(wanted)
    except APIError as error:
        if wanted == 1 or error.err_code not in TOO_FEW:
            raise
    return await make(1)


class Copies:
    """Streams that are to have `wanted` copies each. Those that aren't there are left to who makes them. Which number
    is right where two daemons differ: the one of who leads, once for each connection and each lead."""

    def __init__(
        self, wanted: int, *streams: str, may: Callable[[], None] = lambda: None, by_itself: bool = False
    ) -> None:
        """`may` raises AdapterError where nothing may be changed, asked before each change. `by_itself`, where writes
        are far apart: what was refused is then asked for again without one, where it may be."""
        self.streams = streams
        self._wanted, self._may, self._by_itself = wanted, may, by_itself
        self._renewed = False
        self._left: tuple[str, ...] = ()
        self._refusals, self._again_at = 0, 0.0
        self._task: asyncio.Task[None] | None = None
        self._later: asyncio.TimerHandle | None = None
        self._said: set[str] = set()
        self._told: dict[str, str] = {}

    @property
    def notes(self) -> tuple[Note, ...]:
        """What the servers refused, and what to do about it: until it is known to be mended."""
        return tuple(Note(Reason.REPLICAS_REFUSED, s, why, Severity.WARNING) for s, why in self._told.items())

    def renew(self) -> None:
        """Everything is looked at anew, with the next `look`: the connection or the lead is new. From any thread."""
        self._renewed = True

    def look(self, bus: Bus) -> None:
        """Begin with what is due, if anything is; returns at once. In the bus's loop."""
        if self._task is not None and not self._task.done():
            return
        if self._renewed:
            self._renewed, self._left, self._refusals, self._again_at = False, self.streams, 0, 0.0
        if self._left and monotonic() >= self._again_at:
            self._task = asyncio.get_running_loop().create_task(self._settle(bus))

    async def _settle(self, bus: Bus) -> None:
        """One after the other; behind one that pauses now the others wait for a later `look`."""
        found: dict[str, str | None] = {}
        for number, stream in enumerate(self._left, 1):
            found[stream], pauses = await self._one(bus, stream)
            if pauses and number < len(self._left):
                self._keep(bus, found)
                self._left = tuple(stream for stream in self._left if found.get(stream, "") is not None)
                self._again_at = monotonic() + PAUSE_S
                return
        self._refusals += 1
        self._keep(bus, found)
        pause_s = min(AGAIN_S, FIRST_S * 2.0 ** min(self._refusals - 1, 10))
        self._left = tuple(stream for stream, why in found.items() if why is not None)
        self._again_at = monotonic() + pause_s
        if self._left:
            self._wait(bus, pause_s)

    def _keep(self, bus: Bus, found: Mapping[str, str | None]) -> None:
        """What is to be told by now. Of whom nothing is known what was told stays."""
        told = self._told | {s: why for s, why in found.items() if why and self._refusals >= TOLD}
        self._told = {stream: why for stream, why in told.items() if found.get(stream, "") is not None}
        for why in self._told.values():
            if why not in self._said:
                self._said.add(why)
                _log.warning("NATS at %s: %s", bus.settings.place, why)

    def _wait(self, bus: Bus, pause_s: float) -> None:
        if self._by_itself:
            if self._later is not None:
                self._later.cancel()
            self._later = asyncio.get_running_loop().call_later(pause_s + LATER_S, self._again, bus, pause_s)

    def _again(self, bus: Bus, pause_s: float) -> None:
        try:
            self._may()
        except AdapterError:
            self._wait(bus, pause_s)
        else:
            self.look(bus)

    async def _one(self, bus: Bus, stream: str) -> tuple[str | None, bool]:
        """None where a stream has its copies or isn't there; why it has not, in a sentence; or (empty) that nothing is
        known of it, which is for others to tell. And whether it takes nothing now."""
        try:
            info = await _ask(bus, f"INFO.{stream}", b"")
            if "error" in info:
                return (None if info["error"].get("err_code") == STREAM_NOT_FOUND else ""), False
            config = info["config"]
            has = int(config["num_replicas"])
            if has != self._wanted:
                self._may()  # the servers may have been silent for longer than the lead lasted
        except (AdapterError, NatsError, OSError, ValueError, KeyError, TypeError, AttributeError):
            return "", False
        if has == self._wanted:
            return None, False
        why = await _update(bus, stream, {**config, "num_replicas": self._wanted})
        if why is None:
            _log.info("NATS at %s: stream %s: copies: %d, before: %d", bus.settings.place, stream, self._wanted, has)
            return None, has < self._wanted
        if not bus.connected:
            return "", False
        return f"stream {stream} stays with replicas: {has} in place of {self._wanted}: {why}", False


async def _ask(bus: Bus, what: str, data: bytes) -> dict[str, Any]:
    """The server's own words: a config goes back with all that it has, whether this client knows it or not."""
    answer = await bus.client.request(f"$JS.API.STREAM.{what}", data, timeout=ASK_S)
    found: dict[str, Any] = json.loads(answer.data)
    return found


async def _update(bus: Bus, stream: str, config: dict[str, Any]) -> str | None:
    """Why the server has not taken this config, and what to do; None where it has."""
    try:
        error = (await _ask(bus, f"UPDATE.{stream}", json.dumps(config).encode())).get("error")
        if error is None:
            return None
        said, wanted = str(error.get("description", error)), config["num_replicas"]
        return f"{said}; a cluster with {wanted} servers that run and have room can keep so many (or change `replicas`)"
    except (NatsError, OSError, ValueError, AttributeError) as error:
        why = str(error) or type(error).__name__
        return f"{why}; the daemon's key needs `$JS.API.>` (`gridpace fleet init` once more, then reload the servers)"
