"""Threads that wait for slow things, so that whoever asks never waits longer than it said.

Why threads: a driver's call, a name's look-up or a controller that sends a byte a second may block for ever, and no
time-out of a library covers all of that. Whoever asked goes on at its deadline; what has not returned is left alone
until it does, and holds up nothing else.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable, Mapping
from concurrent.futures import Future, wait
from queue import SimpleQueue
from time import monotonic
from typing import Any, Generic, TypeVar

from adapters.ports import AdapterError, Clock

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

MOST_PAUSE_S = 30.0


class Abandoned(Exception):
    """The caller stopped waiting before the call began to change anything, or before it returned."""


class Turn:
    """Says whether the caller still waits; asked right before a card is changed, so that no late order is set."""

    def __init__(self, deadline_s: float) -> None:
        self._ends = monotonic() + deadline_s

    def check(self) -> None:
        """Raise Abandoned once the deadline has passed."""
        if monotonic() > self._ends:
            raise Abandoned


class Worker:
    """One thread; takes one call at a time and refuses another while one is out."""

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = SimpleQueue()
        self._pending: Future[Any] | None = None
        threading.Thread(target=self._serve, name=name, daemon=True).start()

    def submit(self, call: Callable[[], T]) -> Future[T] | None:
        """Begin a call; None when the last one has not returned."""
        if self._pending is not None and not self._pending.done():
            return None
        future: Future[T] = Future()
        self._pending = future
        self._calls.put((call, future))
        return future

    def answer(self, call: Callable[[], T], seconds: float, place: str) -> T:
        """What the call returns or raises; AdapterError, naming the place, when it takes longer than `seconds`."""
        future = self.submit(call)
        if future is None:
            raise AdapterError(f"{place}: the question before is still without an answer")
        if not wait([future], seconds).done:
            raise AdapterError(f"{place}: no answer within {seconds:g} s")
        return future.result()

    def stop(self) -> None:
        """End the thread after its present call."""
        self._calls.put(None)

    def _serve(self) -> None:
        while (item := self._calls.get()) is not None:
            call, future = item
            try:
                future.set_result(call())
            except Exception as error:  # noqa: BLE001 - an error belongs to whoever asked, not to the thread
                future.set_exception(error)


class Crew(Generic[K]):
    """A thread for each of many things; one that hangs holds up none of the others. Two threads that ask take turns."""

    def __init__(self, name: str) -> None:
        self._name, self._round = name, threading.Lock()
        self._workers: dict[K, Worker] = {}

    def each(self, keys: Iterable[K], call: Callable[[K, Turn], T], deadline_s: float) -> Mapping[K, T | Exception]:
        """What `call` returned or raised for each key, all at once; Abandoned for those that are not back in time."""
        futures: dict[K, Future[T] | None] = {}
        with self._round:
            turn = Turn(deadline_s)
            for key in keys:
                if key not in self._workers:
                    self._workers[key] = Worker(f"{self._name}-{key}")
                futures[key] = self._workers[key].submit(lambda key=key: call(key, turn))  # type: ignore[misc]
            wait([future for future in futures.values() if future is not None], deadline_s)
        return {key: _outcome(future) for key, future in futures.items()}

    def stop(self) -> None:
        """End all threads after their present calls."""
        for worker in self._workers.values():
            worker.stop()
        self._workers.clear()


def _outcome(future: Future[Any] | None) -> Any:
    if future is None or not future.done():
        return Abandoned("no answer in time")
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, Exception):
        return error
    raise error


class Patience:
    """Leaves alone what has just failed, ever longer, so that one lost device costs few ticks a time-out."""

    def __init__(self, clock: Clock, place: str) -> None:
        self._clock, self._place = clock, place
        self._quiet_until, self._pause_s = float("-inf"), 1.0

    def check(self) -> None:
        """Raise AdapterError while it is left alone."""
        if self._clock.monotonic() < self._quiet_until:
            raise AdapterError(f"{self._place}: still left alone after no answer")

    def failed(self, text: str) -> AdapterError:
        """Begin or lengthen the pause; the error to raise."""
        self._quiet_until = self._clock.monotonic() + self._pause_s
        self._pause_s = min(MOST_PAUSE_S, 2 * self._pause_s)
        return AdapterError(f"{self._place}: {text}")

    def worked(self) -> None:
        """It answers: the next pause begins short again."""
        self._pause_s = 1.0
