"""Messages that come at once: judged one after the other, on disk in one go, and only then answered and seen.

Why: an answer waits for the disk, and a flush takes longer than all else that a message costs. Who comes while another
message is being written waits for the lock anyway; whoever gets it judges all that wait, each on what the one before it
left, and flushes once. A flood costs the loops, which read the same rows, no more waits for the disk than few senders.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

from scheduler.store.store import StoreDegraded

T = TypeVar("T")


@dataclass
class _Call:
    """One caller's step, and what became of it."""

    step: Callable[[], Any]
    done: bool = False
    value: Any = None
    error: Exception | None = None


class Together:
    """Runs steps under `lock`, in the order in which they came. `kept` is a block whose changes are on disk and in
    memory when it ends without an error, and nowhere when it ends with one."""

    def __init__(self, lock: threading.RLock, kept: Callable[[], AbstractContextManager[None]]) -> None:
        self._lock, self._kept = lock, kept
        self._waiting: deque[_Call] = deque()

    def do(self, step: Callable[[], T]) -> T:
        """What `step` returns or raises, once what it changed is on disk. StoreDegraded: it changed nothing."""
        mine = _Call(step)
        self._waiting.append(mine)
        with self._lock:
            if not mine.done:
                self._do_waiting()
        if mine.error is not None:
            raise mine.error
        value: T = mine.value
        return value

    def _do_waiting(self) -> None:
        """All that wait, together; where one of them cannot be written, each by itself, so that nobody fails for
        another's fault. A disk that says no is everybody's."""
        batch = [self._waiting.popleft() for _ in range(len(self._waiting))]
        try:
            error = self._done(batch)
            for one in batch if error is not None else ():
                apart = len(batch) > 1 and not isinstance(error, StoreDegraded)
                one.error = self._done([one]) or one.error if apart else error
        except BaseException:
            for one in batch:
                one.error = StoreDegraded("the write was interrupted")
            raise
        finally:
            for one in batch:
                one.done = True

    def _done(self, batch: list[_Call]) -> Exception | None:
        """Why nothing of `batch` could be written; None when it is. What a step itself raises is its caller's alone."""
        try:
            with self._kept():
                for one in batch:
                    one.value, one.error = _outcome(one.step)
        except Exception as error:  # noqa: BLE001 - it is raised by those whom it concerns
            return error
        return None


def _outcome(step: Callable[[], Any]) -> tuple[Any, Exception | None]:
    try:
        return step(), None
    except Exception as error:  # noqa: BLE001 - its caller raises it
        return None, error
