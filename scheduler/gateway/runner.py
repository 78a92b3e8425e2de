"""Keeps as many requests at one server as the plan allows, and no more.

Slots are what the daemon granted: GPUs of all batches of this server times requests a GPU. When grants fall, nothing
new is sent until enough has come back; what is under way is never broken off. Tenants share the slots by weight
(start-time fair queueing), a tenant's own batches go by priority, then deadline.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import structlog

from scheduler.gateway.answers import Answers
from scheduler.gateway.lines import Line, answered, parse, read_lines, unanswered
from scheduler.gateway.model import Batch
from scheduler.gateway.upstream import Answer, Away, Broken, Outcome

log = structlog.get_logger("gridpace.gateway")

ATTEMPTS = 2
"""A request that broke is tried once more."""
FIRST_WAIT_S, MOST_WAIT_S = 0.5, 30.0
DISK_WAIT_S = 5.0

Send = Callable[[str, Mapping[str, Any]], Awaitable[Outcome]]


@dataclass
class Running:
    """A batch under way. `gpus` is its grant; `again` are lines to be sent once more before new ones are read; `done`
    is called when nothing of it is under way and nothing is left, or nothing more may be sent; `told`: answers that
    the daemon has heard of; `leaving`: it waits for what is under way, to go to another site; `elsewhere`: answers and
    errors that lie there."""

    batch: Batch
    answers: Answers
    source: Path
    gpus: int = 0
    stopped: bool = False
    in_flight: int = 0
    done: Callable[[], None] = lambda: None
    told: int = 0
    leaving: bool = False
    elsewhere: tuple[int, int] = (0, 0)
    again: deque[Line] = field(default_factory=deque)
    attempts: dict[int, int] = field(default_factory=dict)
    _lines: Iterator[tuple[int, bytes]] | None = None
    _all_read: bool = False

    @property
    def eligible(self) -> bool:
        """Whether a request of it may be sent now."""
        unsent = self.answers.left > self.in_flight and (self.again or not self._all_read)
        return self.gpus > 0 and not self.stopped and bool(unsent)

    def restart(self) -> None:
        """Read the lines from the first on again: others have answered some of them. Nothing may be under way."""
        self.again.clear()
        self.attempts.clear()
        self._lines, self._all_read = None, False

    def next(self) -> Line | None:
        """The next line that is not answered; None when all are sent."""
        if self.again:
            return self.again.popleft()
        if self._lines is None:
            self._lines = read_lines(self.source)
        for number, text in self._lines:
            if not self.answers.has(number):
                return parse(number, text, self.batch.endpoint)
        self._all_read = True
        return None


class Runner:
    """All batches of one server. Lives in one event loop."""

    def __init__(self, name: str, send: Send, per_gpu: int, weights: Mapping[str, float]) -> None:
        self.name, self._send, self._per_gpu, self._weights = name, send, per_gpu, weights
        self.running: dict[str, Running] = {}
        self.in_flight = 0
        self.trouble = ""
        self._served: dict[str, float] = {}
        self._waiting: set[str] = set()
        self._level = 0.0
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._hold_until, self._wait_s = 0.0, FIRST_WAIT_S

    @property
    def slots(self) -> int:
        """Requests that may be under way."""
        return sum(one.gpus for one in self.running.values() if not one.stopped) * self._per_gpu

    def add(self, running: Running) -> None:
        """Take a batch on; it waits for its grant."""
        self.running[running.batch.id] = running

    def grant(self, gpus: Mapping[str, int]) -> None:
        """What the daemon grants from now on; batches that are not named get nothing."""
        for one in self.running.values():
            one.gpus = gpus.get(one.batch.job, 0)
        self._wake.set()

    def stop(self, batch: str) -> None:
        """Send nothing more of a batch; what is under way comes back."""
        self.running[batch].stopped = True
        self._wake.set()

    async def run(self) -> None:
        """Send, until cancelled; then wait for what is under way."""
        while True:
            self._wake.clear()
            self._fill()
            held = self._hold_until - monotonic()
            try:
                await asyncio.wait_for(self._wake.wait(), held if held > 0 else None)
            except TimeoutError:
                continue

    async def drain(self, seconds: float) -> None:
        """Wait for what is under way, then break it off: it is sent again after a restart."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # ---------------------------------------------------------------- choosing
    def _fill(self) -> None:
        slots = self.slots  # nothing that is granted or stopped changes meanwhile
        while self.in_flight < slots and monotonic() >= self._hold_until:
            chosen = self._choose()
            if chosen is None:
                return
            line = chosen.next()
            if line is not None:
                self._begin(chosen, line)

    def _choose(self) -> Running | None:
        eligible = [one for one in self.running.values() if one.eligible]
        if not eligible:
            return None
        tenants = {one.batch.tenant for one in eligible}
        for name in tenants - self._waiting:
            # Who comes (back) starts level with the others: there is no claim on what was not asked for.
            self._served[name] = max(self._served.get(name, 0.0), self._level)
        self._waiting = tenants
        turn = min(sorted(tenants), key=self._served.__getitem__)
        self._level = self._served[turn]
        self._served[turn] += 1.0 / self._weights.get(turn, 1.0)
        own = [one for one in eligible if one.batch.tenant == turn]
        return min(own, key=lambda one: (-one.batch.priority, one.batch.deadline, one.batch.id))

    def _begin(self, running: Running, line: Line) -> None:
        running.in_flight += 1
        self.in_flight += 1
        task = asyncio.create_task(self._one(running, line))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ---------------------------------------------------------------- one request
    async def _one(self, running: Running, line: Line) -> None:
        try:
            outcome = await self._send(running.batch.endpoint, line.body)
            self._settle(running, line, outcome)
        except OSError as error:
            # The disk takes nothing: the answer is lost, the request is not.
            self._hold(f"answers can't be kept: {error}", DISK_WAIT_S)
            running.again.append(line)
        finally:
            running.in_flight -= 1
            self.in_flight -= 1
            self._wake.set()
            if not running.in_flight and (running.stopped or not running.answers.left):
                running.done()

    def _settle(self, running: Running, line: Line, outcome: Outcome) -> None:
        batch = running.batch.id
        if isinstance(outcome, Away):
            running.again.append(line)
            self._hold(outcome.text, outcome.wait_s)
            return
        self._wait_s, self.trouble = FIRST_WAIT_S, ""
        if isinstance(outcome, Broken):
            tried = running.attempts.pop(line.number, 0) + 1
            if tried < ATTEMPTS:
                running.attempts[line.number] = tried
                running.again.append(line)
                return
            answer = outcome.answer
            if answer is None:
                running.answers.put(line.number, unanswered(batch, line, outcome.code, outcome.text))
            else:
                running.answers.put(line.number, _text(batch, line, answer))
            return
        running.attempts.pop(line.number, None)
        running.answers.put(line.number, _text(batch, line, outcome), outcome.body if outcome.good else None)

    def _hold(self, why: str, asked_s: float | None) -> None:
        """Send nothing for a while: as long as the server asked for, else ever longer."""
        now = monotonic()
        wait_s = self._wait_s if asked_s is None else asked_s
        if now >= self._hold_until:
            self._wait_s = min(MOST_WAIT_S, 2 * self._wait_s)
            if why != self.trouble:
                log.warning("gateway.held", upstream=self.name, why=why, seconds=wait_s)
        self.trouble = why
        self._hold_until = max(self._hold_until, now + wait_s)


def _text(batch: str, line: Line, answer: Answer) -> bytes:
    return answered(batch, line, answer.status, answer.request_id, answer.body)


def expire(running: Running) -> None:
    """Write an error line for every request that was not answered in time."""
    for number, text in read_lines(running.source):
        if not running.answers.has(number):
            line = parse(number, text, running.batch.endpoint)
            error = unanswered(running.batch.id, line, "batch_expired", "not answered before the window ended")
            running.answers.put(number, error)
