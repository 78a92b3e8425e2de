"""Threads that share out calls which may block: as few of them as will do, as many as it takes.

Why not a thread for each card: a wake-up costs more than a reading. One thread makes a round of readings, one after the
other; only where that takes long does each of those that are left get a thread of its own, so that a card that hangs
holds up the others for ALONE_S, once, and then is nobody's matter but its own.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from time import monotonic
from typing import Any, Generic, TypeVar

from adapters.workers import Abandoned

T = TypeVar("T")

ALONE_S = 0.05
"""So long one thread makes a round of readings by itself; eight cards take a hundredth of a second as a rule."""


class Call(Generic[T]):
    """One call: what it returned or raised, once it is `back`."""

    __slots__ = ("_work", "back", "error", "result")

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self.back = False
        self.error: Exception | None = None
        self.result: T | None = None

    def make(self) -> None:
        """Make it. An error belongs to whoever asked, not to the thread."""
        try:
            self.result = self._work()
        except Exception as error:  # noqa: BLE001 - see above
            self.error = error
        self.back = True

    def drop(self) -> None:
        """It is never made."""
        self.error, self.back = Abandoned("not begun in time"), True


class _Round:
    """Calls that are waited for together; each is taken up by one hand, or dropped."""

    def __init__(self, calls: Sequence[Call[Any]]) -> None:
        self.waiting, self._size = deque(calls), len(calls)
        self._back: list[None] = []
        self.over = threading.Event()

    def work(self) -> bool:
        """Make calls until none waits; whether all are back."""
        while self.waiting:
            try:
                call = self.waiting.popleft()
            except IndexError:  # another hand was quicker
                break
            call.make()
            self._back.append(None)
        return len(self._back) == self._size

    def drop(self) -> None:
        """What nobody has begun is begun no more."""
        while self.waiting:
            try:
                self.waiting.popleft().drop()
            except IndexError:
                return


class Hands:
    """Threads for calls that may block; there are never more of them than calls were out at once."""

    def __init__(self, name: str) -> None:
        self._name, self._count = name, 0
        self._idle: list[SimpleQueue[_Round | None]] = []
        self._stopped = False

    def make(self, calls: Sequence[Call[Any]], seconds: float, alone_s: float = 0.0) -> None:
        """Make these calls; returns when all are back, or after `seconds`. For `alone_s` one thread makes one after the
        other, then all that are left are made at once. A call that was begun and is not `back` is still out."""
        if not calls:
            return
        work, ends = _Round(calls), monotonic() + seconds
        if alone_s > 0 and len(calls) > 1:
            self._lend(work)
            if work.over.wait(min(alone_s, seconds)):
                return
        for _ in range(len(work.waiting)):
            self._lend(work)
        work.over.wait(max(0.0, ends - monotonic()))
        work.drop()

    def stop(self) -> None:
        """End all threads, those with a call that is out when it returns."""
        self._stopped = True
        while self._idle:
            self._idle.pop().put(None)

    def _lend(self, work: _Round) -> None:
        """Another hand for this round."""
        try:
            given = self._idle.pop()
        except IndexError:
            given, self._count = SimpleQueue(), self._count + 1
            threading.Thread(target=self._serve, args=(given,), name=f"{self._name}-{self._count}", daemon=True).start()
        given.put(work)

    def _serve(self, given: SimpleQueue[_Round | None]) -> None:
        while (work := given.get()) is not None:
            over = work.work()
            self._idle.append(given)  # before anybody hears that it is over, and would start another thread
            if over:
                work.over.set()
            if self._stopped:
                return
