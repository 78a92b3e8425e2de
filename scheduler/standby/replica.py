"""Tells the stream of each change to the books before it is committed here; ends the lead when that can't be done.

Why before: a change that the stream has and this disk hasn't comes back from the stream; the other way round it would
be known here alone. Where the stream's answer stays away nobody can know whether the change is in it: then this daemon
stops leading, forgets the change with its caller told so, and learns from the stream like anybody else.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from uuid import uuid4

from adapters.ports import AdapterError
from scheduler.standby.lease import Lease
from scheduler.standby.stream import BooksStream, Overtaken, Unknown
from scheduler.store import capture
from scheduler.store.database import NotReplicated

PATIENCE_S = 3.0
"""How long a change waits for the stream's answer at most; in a cluster that has just lost a server it needs some."""


class Told:
    """`scheduler.store.database.Replica` over the stream, from message `position` on. Called under the store's lock."""

    def __init__(self, stream: BooksStream, lease: Lease, position: int, lost: Callable[[str], None]) -> None:
        self._stream, self._lease, self._lost = stream, lease, lost
        self._epoch = lease.epoch
        self._ended = ""
        self.position = position

    def begin(self, connection: sqlite3.Connection) -> None:
        """Note what this connection changes."""
        connection.execute("PRAGMA temp_store = MEMORY")
        if capture.get_meta(connection, capture.POSITION) != self.position:
            self._end("the books were replaced while they were opened")
        capture.watch(connection)

    def commit(self, connection: sqlite3.Connection) -> None:
        """Write the running transaction's changes to the stream. Raises NotReplicated."""
        change = capture.taken(connection, self._epoch)
        if change.empty:
            return
        if not self._ended and capture.get_meta(connection, capture.POSITION) != self.position:
            self._end("this disk did not take what the books' stream has")
        if self._ended or not self._lease.holds():
            why = f": {self._ended}" if self._ended else ""
            raise NotReplicated(f"this daemon does not lead now{why}")
        try:
            patience_s = min(PATIENCE_S, self._lease.left_s())
            number = self._stream.append(capture.encode(change), self.position, uuid4().hex, patience_s)
        except (Overtaken, Unknown, AdapterError) as error:
            self._end(str(error))
            raise NotReplicated(self._ended) from error
        capture.set_meta(connection, capture.POSITION, number)
        self.position = number

    def _end(self, why: str) -> None:
        self._ended = why
        self._lost(why)
