"""The books' changes as a JetStream stream: one message a commit, in one order, each only right behind the one before.

Why the stream fences: a message is taken only when the stream still ends where its writer believes. Who leads anew
writes one message first; from then on whatever an old leader still wants to write is refused by the server, however
late it arrives. So the stream is one history, and whoever applies it from the start has the same books.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import ObjectMeta, RawStreamMsg, StorageType, StreamConfig
from nats.js.errors import APIError, NotFoundError
from nats.js.object_store import ObjectStore

from adapters.bus import Bus
from adapters.bus_copies import made
from adapters.ports import AdapterError
from adapters.power.fleet_wire import BOOKS_STREAM, BOOKS_SUBJECT, SNAPSHOTS

T = TypeVar("T")
WRONG_PLACE = {10071, 10164}
"""What the server answers where the stream does not end where the writer believes."""

ASK_S = 1.0
AGAIN_S = 0.1
MOVE_S = 300.0
"""How long a snapshot may take on its way."""

NAME, PART, PARTS = "Nats-Msg-Id", "Gridpace-Part", "Gridpace-Parts"
SNAPSHOT = "books"


class Overtaken(Exception):
    """Somebody else has written to the stream: we do not lead any more."""


class Unknown(Exception):
    """The server did not say whether it took a message."""


@dataclass(frozen=True)
class Extent:
    """Which stream it is, its first and its last message, its size in bytes, and up to which message a snapshot goes
    (-1: there is none)."""

    stream: int
    first: int
    last: int
    size: int
    snapshot: int


class BooksStream:
    """The stream on a bus. Every call has a deadline and raises AdapterError."""

    def __init__(self, bus: Bus, replicas: int = 1) -> None:
        self._bus, self._replicas = bus, replicas
        self._known = (0, -1)

    def extent(self) -> Extent:
        """Where the stream begins and ends now; it is made when it isn't there."""
        return self._call(self._extent(), 3 * ASK_S)

    def append(self, data: bytes, after: int, name: str, patience_s: float) -> int:
        """Write one message right behind number `after`, in parts where it is large; the number of its last part.
        Raises Overtaken, and Unknown when the server does not answer for `patience_s` seconds."""
        most = max(64 * 1024, int(self._bus.client.max_payload or 0) * 3 // 4)
        parts = [data[begin : begin + most] for begin in range(0, len(data), most)] or [b""]
        try:
            for number, part in enumerate(parts):
                headers = {NAME: f"{name}.{number}", PART: str(number), PARTS: str(len(parts))}
                after = self._call(self._append(part, after, headers, patience_s), patience_s + ASK_S)
        except AdapterError as error:
            raise Unknown(str(error)) from error
        return after

    def read(self, first: int, last: int) -> list[RawStreamMsg]:
        """Messages of these numbers, in order; fewer where one of them isn't there (any more)."""
        return self._call(self._read(range(first, last + 1)), 10 * ASK_S)

    def put_snapshot(self, path: Path, stream: int, position: int) -> None:
        """Keep a copy of the books as they are after message `position`; it replaces the one before."""
        self._call(self._put_snapshot(path, stream, position), MOVE_S)
        self._known = (stream, position)

    def get_snapshot(self, path: Path) -> None:
        """Fetch the copy into a file."""
        self._call(self._get_snapshot(path), MOVE_S)

    def forget_until(self, number: int) -> None:
        """Drop messages before this one: a snapshot has them."""
        self._call(self._bus.jetstream.purge_stream(BOOKS_STREAM, seq=number), 10 * ASK_S)

    def begin_anew(self) -> Extent:
        """Drop the stream and its snapshot, and make an empty one."""
        self._call(self._bus.jetstream.delete_stream(BOOKS_STREAM), 10 * ASK_S)
        return self.extent()

    def _call(self, work: Coroutine[Any, Any, T], deadline_s: float) -> T:
        if not self._bus.connected:
            work.close()
            raise self._bus.unreachable()
        return self._bus.call(work, deadline_s)

    # ------------------------------------------------------------ in the bus's loop
    async def _extent(self) -> Extent:
        jetstream = self._bus.jetstream
        try:
            info = await jetstream.stream_info(BOOKS_STREAM)
        except NotFoundError:
            config = StreamConfig(
                name=BOOKS_STREAM,
                subjects=[BOOKS_SUBJECT],
                storage=StorageType.FILE,
                duplicate_window=120.0,
                description="changes of the books of Gridpace's daemons",
            )
            info = await made(lambda copies: jetstream.add_stream(config, num_replicas=copies), self._replicas)
        stream = zlib.crc32(str(info.created).encode())
        state, known = info.state, self._known
        if known[0] != stream or known[1] < state.first_seq - 1:  # a stream that has a snapshot keeps one
            known = self._known = (stream, await self._snapshot(jetstream, stream))
        return Extent(stream, state.first_seq, state.last_seq, state.bytes, known[1])

    async def _snapshot(self, jetstream: JetStreamContext, stream: int) -> int:
        try:
            found = await (await self._snapshots(jetstream)).get_info(SNAPSHOT)
        except NotFoundError:
            return -1
        of, _, position = str(found.description).partition(":")
        return int(position) if of == str(stream) else -1

    async def _snapshots(self, jetstream: JetStreamContext) -> ObjectStore:
        try:
            return await jetstream.object_store(SNAPSHOTS)
        except NotFoundError:
            return await made(lambda copies: jetstream.create_object_store(SNAPSHOTS, replicas=copies), self._replicas)

    async def _append(self, data: bytes, after: int, headers: dict[str, str], patience_s: float) -> int:
        """Ask until the server says yes or no; the message's name keeps it from being written twice."""
        loop = asyncio.get_running_loop()
        ends, jetstream = loop.time() + patience_s, self._bus.jetstream
        asked = headers | {"Nats-Expected-Last-Sequence": str(after), "Nats-Expected-Stream": BOOKS_STREAM}
        while True:
            try:
                ack = await jetstream.publish(BOOKS_SUBJECT, data, min(ASK_S, patience_s), headers=dict(asked))
                return ack.seq
            except APIError as error:
                if error.err_code in WRONG_PLACE:
                    return await self._own(jetstream, after + 1, headers[NAME])
                trouble: Exception = error
            except (NatsError, TimeoutError, OSError) as error:
                trouble = error
            if loop.time() >= ends:
                raise AdapterError(f"the books' stream does not answer: {str(trouble) or type(trouble).__name__}")
            await asyncio.sleep(AGAIN_S)

    async def _own(self, jetstream: JetStreamContext, number: int, name: str) -> int:
        """The number, if the message there is ours, whose answer got lost. Raises Overtaken."""
        try:
            found = await jetstream.get_msg(BOOKS_STREAM, seq=number)
        except NotFoundError:
            raise Overtaken("the books' stream does not end where these books do") from None
        if (found.headers or {}).get(NAME) != name:
            raise Overtaken("another daemon has written to the books' stream")
        return number

    async def _read(self, numbers: Sequence[int]) -> list[RawStreamMsg]:
        asked = (self._bus.jetstream.get_msg(BOOKS_STREAM, seq=number) for number in numbers)
        found: list[RawStreamMsg] = []
        for message in await asyncio.gather(*asked, return_exceptions=True):
            if isinstance(message, NotFoundError):
                break
            if isinstance(message, BaseException):
                raise message
            found.append(message)
        return found

    async def _put_snapshot(self, path: Path, stream: int, position: int) -> None:
        store = await self._snapshots(self._bus.jetstream)
        with path.open("rb") as file:
            await store.put(SNAPSHOT, file, ObjectMeta(description=f"{stream}:{position}"))

    async def _get_snapshot(self, path: Path) -> None:
        store = await self._snapshots(self._bus.jetstream)
        with path.open("wb") as file:
            await store.get(SNAPSHOT, file)
