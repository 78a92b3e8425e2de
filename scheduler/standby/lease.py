"""Who leads: one entry that is renewed, and taken by whoever finds it unchanged for longer than it was promised for.

Why it is safe: the leader counts its lease from before it asked for it, the others from after they saw it change, both
on their own monotonic clock, so that the leader stops before anybody else begins; each write says which revision it
replaces, so that of two who reach out together one succeeds. What a stalled leader had already sent meanwhile is
refused elsewhere, by its epoch: by the nodes' agents, and by the books' stream.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Protocol

from adapters.ports import AdapterError
from scheduler.boottime import boottime

MARGIN = 0.1
"""Others wait this share of the lease longer than it lasts: clocks run at slightly different rates."""

KEPT = 2.0 / 3.0
"""A lease is renewed when no more than this share of it is left."""


@dataclass(frozen=True)
class Entry:
    """The leader as it tells of itself: its name, where clients reach it, the number of its state folder and of its
    process, its epoch, how long it may be silent; `vacant`: it has stopped in order and the lease is free."""

    name: str
    url: str
    folder: str
    process: str
    lease_s: float
    epoch: int = 0
    vacant: bool = False

    def encode(self) -> bytes:
        """As it lies in the bucket."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, data: bytes) -> Entry:
        """The entry of a bucket. AdapterError when it isn't one."""
        try:
            return cls(**json.loads(data))
        except (ValueError, TypeError) as error:
            raise AdapterError(f"the leader's entry can't be read: {error}") from error


class Cell(Protocol):
    """Where the entry lies: compare-and-set by revision. Both raise AdapterError when the outcome isn't known."""

    def read(self) -> tuple[int, bytes | None]:
        """Its revision and content; (0, None) before the first."""
        ...

    def write(self, data: bytes, last: int) -> int | None:
        """Its new revision; None when `last` is not its present one, and nothing was written."""
        ...


class Lease:
    """This daemon's view of the lease. `turn` is called a few times in each lease, from one thread; the rest from
    any."""

    def __init__(self, cell: Cell, me: Entry, clock: Callable[[], float] = boottime) -> None:
        self._cell, self._me, self._clock = cell, me, clock
        self._lock = threading.RLock()
        self._until = float("-inf")
        self._revision = 0
        self._seen: Entry | None = None
        self._most = 0
        self._seen_at = clock()
        self._leading = False
        self.trouble = ""

    @property
    def leader(self) -> Entry | None:
        """Who was last seen to lead, ourselves included; None before the first, and after one that stopped in order."""
        seen = self._seen
        return None if seen is None or seen.vacant else seen

    @property
    def epoch(self) -> int:
        """The epoch under which we lead, or the last one seen."""
        return self._seen.epoch if self._seen is not None else 0

    @property
    def leading(self) -> bool:
        """True from the moment in which the lease was taken until it was lost or given up, whatever time it is now."""
        return self._leading

    def holds(self) -> bool:
        """Whether we may command now: asked again before every command, since a process may have been stopped."""
        return self._leading and self._clock() < self._until

    def left_s(self) -> float:
        """Seconds until we must stop, should no renewal succeed."""
        return max(0.0, self._until - self._clock()) if self._leading else 0.0

    def over_s(self) -> float:
        """For how many seconds a lease that ran out has been over: nothing was commanded since. 0 where none did."""
        return max(0.0, self._clock() - self._until) if math.isfinite(self._until) else 0.0

    def turn(self, eligible: bool, least_epoch: int = 0) -> None:
        """Renew the lease; or look at it, and take it when it is free and we are `eligible`, under an epoch above that
        of the one before and above `least_epoch`."""
        with self._lock:
            try:
                if self._leading and self.left_s() > KEPT * self._me.lease_s:
                    return
                if self._leading:
                    self._renew(self._me)
                else:
                    self._look(eligible, least_epoch)
                self.trouble = ""
            except AdapterError as error:
                self.trouble = str(error)
                if self._leading and self._clock() >= self._until:
                    self._leading = False

    def raise_epoch(self) -> bool:
        """Go on leading under the next epoch, after the books were opened anew. False when the lease is lost."""
        with self._lock:
            wanted = self._me.epoch + 1
            try:
                while self._leading and self._me.epoch < wanted:  # twice where the answer of an earlier one got lost
                    self._renew(replace(self._me, epoch=wanted))
            except AdapterError as error:
                self.trouble = str(error)
                return False
            return self.holds()

    def give_up(self) -> None:
        """Let another one lead at once; where that can't be said, the lease runs out."""
        with self._lock:
            was, self._leading, self._until = self._leading, False, float("-inf")
            if was:
                try:
                    vacant = replace(self._me, vacant=True)
                    revision = self._cell.write(vacant.encode(), self._revision)
                    self._see(revision or 0, vacant if revision else None)
                except AdapterError as error:
                    self.trouble = str(error)

    def _renew(self, entry: Entry) -> None:
        begun = self._clock()
        if begun >= self._until:
            self._leading = False  # others may have begun: look again, like anybody
            return
        revision = self._cell.write(entry.encode(), self._revision)
        if revision is None:
            self._whose()
            return
        self._me = entry
        self._see(revision, entry)
        self._revision, self._until = revision, begun + entry.lease_s

    def _whose(self) -> None:
        """Another revision is there than we believed: an earlier write of ours whose answer got lost, or another's."""
        revision, data = self._cell.read()
        found = Entry.decode(data) if data else None
        mine = found is not None and found.process == self._me.process and not found.vacant
        self._see(revision, found)
        if mine and found is not None:
            self._revision, self._me = revision, found  # the next renewal makes it longer
        else:
            self._leading = False

    def _look(self, eligible: bool, least_epoch: int) -> None:
        revision, data = self._cell.read()
        if revision != self._revision or self._seen is None:
            self._see(revision, Entry.decode(data) if data else None)
        if not eligible or not self._free():
            return
        epoch = max(self._most, least_epoch) + 1  # a bucket may be lost, what it said is not
        entry, begun = replace(self._me, epoch=epoch), self._clock()
        taken = self._cell.write(entry.encode(), self._revision)
        if taken is not None:
            self._me = entry
            self._see(taken, entry)
            self._until, self._leading = begun + entry.lease_s, True

    def _see(self, revision: int, entry: Entry | None) -> None:
        self._revision, self._seen, self._seen_at = revision, entry, self._clock()
        self._most = max(self._most, entry.epoch if entry is not None else 0)

    def _free(self) -> bool:
        """Nobody leads, or whoever did is silent for too long. An entry of our own folder is a dead predecessor's:
        we hold the folder's lock."""
        seen = self._seen
        if seen is None or seen.vacant or (seen.folder, seen.name) == (self._me.folder, self._me.name):
            return True
        return self._clock() - self._seen_at >= seen.lease_s * (1.0 + MARGIN)
