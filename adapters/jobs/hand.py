"""The hand of a job system outside: the thread that reads and writes there, turn by turn, while the loops go on.

Why a thread of its own: a call takes tens of milliseconds and may hang, and the loop that asks comes every second.
Whatever a turn raises is logged and told, and the next one is tried: the hand must outlive it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

log = structlog.get_logger("gridpace.jobs")


class Hand:
    """Takes a `turn` every `refresh_s`, and at once when it is woken. `failed` is told what a turn raised; `gather_s`:
    so long it waits after it was woken, where news comes in bursts."""

    def __init__(
        self,
        name: str,
        refresh_s: float,
        turn: Callable[[], None],
        failed: Callable[[Exception], None],
        gather_s: float = 0.0,
    ) -> None:
        self._name, self._refresh_s, self._gather_s = name, refresh_s, gather_s
        self._turn, self._failed = turn, failed
        self._awake, self._ended, self._starting = threading.Event(), threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._work, name=f"gridpace-{name}", daemon=True)

    @property
    def ended(self) -> bool:
        """Whether it was told to end."""
        return self._ended.is_set()

    def begin(self, first: Callable[[], object]) -> None:
        """Take the `first` reading in the caller's thread and start, where that is still to be done: a plan without the
        jobs would be wrong, so the first one is waited for."""
        with self._starting:
            if not self._thread.is_alive() and not self.ended:
                first()
                self._thread.start()

    def wake(self) -> None:
        """Take a turn now."""
        self._awake.set()

    def end(self, wait_s: float) -> None:
        """End it, and wait so long for the turn that it is in."""
        self._ended.set()
        self._awake.set()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(wait_s)

    def _work(self) -> None:
        while not self._ended.is_set():
            self._awake.wait(self._refresh_s)
            self._ended.wait(self._gather_s)
            self._awake.clear()
            if self._ended.is_set():
                return
            try:
                self._turn()
            except Exception as error:
                log.exception("jobs.hand_failed", system=self._name)
                self._failed(error)
