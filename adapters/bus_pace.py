"""An event loop that lets news gather for a moment while nobody waits for it.

Why: a thousand nodes that speak when they like wake a daemon a hundred times a second, each time with cold caches, and
that is most of what it costs while nothing happens. What comes within GATHER_S is read in one go. Whoever waits for an
answer hurries the loop: then nothing gathers, and orders are as quick as ever.
"""

from __future__ import annotations

import selectors
import threading

GATHER_S = 0.05
"""So much later the daemon may hear what a node tells of itself once a second, unasked."""


class Pace(selectors.DefaultSelector):
    """A selector of an event loop; 0 s to gather: one like any other."""

    def __init__(self, gather_s: float = 0.0) -> None:
        super().__init__()
        self._gather_s, self._lock = gather_s, threading.Lock()
        self._waiting, self._hurried = 0, threading.Event()
        self.steady = False
        """Set while a server is there: who connects is in a hurry."""

    def hurry(self) -> None:
        """Somebody waits for an answer, until `rest`."""
        with self._lock:
            self._waiting += 1
            self._hurried.set()

    def rest(self) -> None:
        """One of them waits no longer."""
        with self._lock:
            self._waiting -= 1
            if not self._waiting:
                self._hurried.clear()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready. While the loop has something to do (a `timeout` of 0), it does not wait."""
        ready = super().select(timeout)
        if ready and self._gather_s and self.steady and timeout != 0 and not self._hurried.is_set():
            self._hurried.wait(self._gather_s)
            ready = super().select(0)
        return ready
