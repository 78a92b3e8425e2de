"""Asks a server of latencies again and again in a thread of its own, so that the fast loop never waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from time import monotonic

import structlog

from adapters.latency.window import LatencyReading
from adapters.ports import AdapterError

log = structlog.get_logger("gridpace.latency")


class Polled:
    """The newest answer of `ask`, which is called every `every_s` seconds and may take its time or raise AdapterError.
    An answer older than `max_age_s` is none. `heard` is called in the thread, with each new answer that is one."""

    def __init__(self, ask: Callable[[], LatencyReading], every_s: float, max_age_s: float, place: str) -> None:
        self._ask, self._every_s, self._max_age_s, self._place = ask, every_s, max_age_s, place
        self.heard: Callable[[LatencyReading], None] = lambda _reading: None
        self._newest: tuple[float, LatencyReading] | None = None
        self._error = "no answer yet"
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="latency", daemon=True)
        self._thread.start()

    def read(self) -> LatencyReading:
        """The newest reading with its age. Raises AdapterError."""
        newest = self._newest
        age_s = monotonic() - newest[0] if newest is not None else float("inf")
        if newest is None or age_s + newest[1].age_s > self._max_age_s:
            raise AdapterError(f"{self._place}: {self._error}")
        return replace(newest[1], age_s=newest[1].age_s + age_s)

    def close(self) -> None:
        """End the thread after its present question."""
        self._stopped.set()
        self._thread.join(5.0)

    def _serve(self) -> None:
        while not self._stopped.is_set():
            begun = monotonic()
            try:
                self._newest = (begun, self._ask())
                self._error = "its last answer is too old"
                self.heard(self.read())
            except AdapterError as error:
                self._error = str(error).removeprefix(f"{self._place}: ")
            except Exception as error:  # the thread must outlive whatever a server says
                log.exception("latency.failed", place=self._place)
                self._error = repr(error)
            self._stopped.wait(max(0.05, self._every_s - (monotonic() - begun)))
