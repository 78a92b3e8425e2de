"""The lease's entry in a JetStream key-value bucket."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from nats.js.api import KeyValueConfig
from nats.js.errors import BucketNotFoundError, KeyNotFoundError, KeyWrongLastSequenceError, NotFoundError
from nats.js.kv import KeyValue

from adapters.bus import Bus
from adapters.bus_copies import made
from adapters.power.fleet_wire import LEADER, LEADERS

T = TypeVar("T")


class BucketCell:
    """`lease.Cell` on a bus; a call takes at most `deadline_s` seconds. `written` is called in the bus's loop behind
    each entry of ours that was taken."""

    def __init__(
        self, bus: Bus, deadline_s: float, replicas: int = 1, written: Callable[[], None] = lambda: None
    ) -> None:
        self._bus, self._deadline_s, self._replicas, self._written = bus, deadline_s, replicas, written

    def read(self) -> tuple[int, bytes | None]:
        """Revision and content."""
        return self._bus.call(self._there(self._read()), self._deadline_s)

    def write(self, data: bytes, last: int) -> int | None:
        """The new revision, or None where another one is there than `last`."""
        return self._bus.call(self._there(self._write(data, last)), self._deadline_s)

    def _there(self, work: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
        if not self._bus.connected:
            work.close()
            raise self._bus.unreachable()
        return work

    async def _read(self) -> tuple[int, bytes | None]:
        bucket = await self._bucket()
        try:
            entry = await bucket.get(LEADER)
        except KeyNotFoundError:
            return 0, None
        return entry.revision or 0, entry.value

    async def _write(self, data: bytes, last: int) -> int | None:
        bucket = await self._bucket()
        try:
            revision = await bucket.update(LEADER, data, last=last)
        except KeyWrongLastSequenceError:
            return None
        self._written()
        return revision

    async def _bucket(self) -> KeyValue:
        """The bucket, made when it isn't there; read where it is written, so that nobody sees an old entry."""
        jetstream = self._bus.jetstream
        try:
            return await jetstream.key_value(LEADERS)
        except (BucketNotFoundError, NotFoundError):

            def make(copies: int) -> Coroutine[Any, Any, KeyValue]:
                bucket = KeyValueConfig(bucket=LEADERS, history=1, replicas=copies, direct=False)
                return jetstream.create_key_value(bucket)

            return await made(make, self._replicas)
