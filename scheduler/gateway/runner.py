"""Keeps as many requests at one server as the plan allows, and no more.

Slots are what the daemon granted: GPUs of all batches of this server times requests a GPU. When grants fall, nothing
new is sent until enough has come back; what is under way is never broken off. A batch on a firm quote has what its sale
was granted before anybody else, for that was bought, and beyond that what nobody else wants. Tenants share the rest by
weight (start-time fair queueing), a tenant's own batches go by priority, then deadline.

Why queues: thousands of batches wait, and a choice is made for each request. So those that may send stand in a queue of
their tenant's, which `order` makes anew with each turn; in between who may no longer send is found when his turn comes,
and who may again is put back.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from time import monotonic
from typing import Any

import structlog

from scheduler.gateway.answers import Answers
from scheduler.gateway.disk import AGAIN_S
from scheduler.gateway.lines import Line, LineError, answered, parse, read_lines, unanswered
from scheduler.gateway.model import Batch, InputError
from scheduler.gateway.upstream import Answer, Away, Broken, Outcome

log = structlog.get_logger("gridpace.gateway")

ATTEMPTS = 2
"""A request that broke is tried once more."""
BROKEN_IN_A_ROW = 5
"""After so many broken answers and no other it is the server that is broken: it gets one request at a time."""
FIRST_WAIT_S, MOST_WAIT_S = 0.5, 30.0
DISK_WAIT_S = 5.0

Send = Callable[[str, Mapping[str, Any]], Awaitable[Outcome]]


@dataclass
class Running:
    """A batch under way. `gpus` is its grant; `again` are lines to be sent once more before new ones are read; `done`
    is called when nothing of it is under way and nothing is left, or nothing more may be sent; `told`: answers that
    the daemon has heard of; `leaving`: it waits for what is under way, to go to another site; `elsewhere`: answers and
    errors that lie there; `unread_until`: its input could not be read, and is not tried again before (monotonic);
    `spoiled`: why its input is not the one that was checked, so that nothing more of it can be sent."""

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
    unread_until: float = 0.0
    spoiled: InputError | None = None
    _read: int = 0
    _lines: Iterator[tuple[int, bytes]] | None = None
    _all_read: bool = False

    @property
    def eligible(self) -> bool:
        """Whether a request of it may be sent now."""
        unsent = self.answers.left > self.in_flight and (self.again or not self._all_read)
        able = self.gpus > 0 and not self.stopped and self.spoiled is None
        return able and bool(unsent) and monotonic() >= self.unread_until

    def restart(self) -> None:
        """Read the lines from the first on again: others have answered some of them. Nothing may be under way."""
        self.again.clear()
        self.attempts.clear()
        self._lines, self._all_read, self._read = None, False, 0

    def next(self) -> Line | None:
        """The next line that is not answered; None where the input is spoiled. Raises OSError; again goes on where it
        was. To be called while it is eligible."""
        if self.again:
            return self.again.popleft()
        try:
            return self._next_read()
        except OSError:
            self._lines, self.unread_until = None, monotonic() + AGAIN_S
            raise
        except LineError as error:
            self.spoil(self._read, str(error))
            self.done()
            return None

    def _next_read(self) -> Line:
        if self._lines is None:
            self._lines = read_lines(self.source, self._read)
        for number, text in self._lines:
            self._read = number + 1
            if number < self.answers.total and not self.answers.has(number):
                return parse(number, text, self.batch.endpoint)
        self._all_read = True
        raise LineError("input_changed", f"{self.answers.total} lines were checked, and some are gone")

    def spoil(self, line: int, why: str) -> None:
        """Its input was altered after it was checked, as its line with that number (from 1) shows."""
        text = f"{self.batch.input_file}: the file was altered after it was checked: {why}"
        self.spoiled = InputError("input_changed", text, None, line)
        log.error("gateway.input_changed", batch=self.batch.id, line=line, why=why)


class Ring:
    """Batches that take turns."""

    def __init__(self) -> None:
        self._turns: deque[Running] = deque()
        self._names: set[str] = set()

    def add(self, one: Running) -> None:
        """Behind the others, where it does not stand here."""
        if one.batch.id not in self._names:
            self._names.add(one.batch.id)
            self._turns.append(one)

    def next(self, able: Callable[[Running], bool]) -> Running | None:
        """Whose turn it is; who is not able any more leaves."""
        while self._turns and not able(self._turns[0]):
            self._names.discard(self._turns.popleft().batch.id)
        self._turns.rotate(-1)
        return self._turns[-1] if self._turns else None


class Runner:
    """All batches of one server. Lives in one event loop."""

    def __init__(self, name: str, send: Send, per_gpu: int, weights: Mapping[str, float]) -> None:
        self.name, self._send, self._per_gpu, self._weights = name, send, per_gpu, weights
        self.running: dict[str, Running] = {}
        self.in_flight = 0
        self._trouble, self._slots = "", 0
        self._ready: dict[str, list[tuple[int, datetime, str, Running]]] = {}
        self._queued: set[str] = set()
        self._sold, self._spare = Ring(), Ring()
        self._served: dict[str, float] = {}
        self._waiting: set[str] = set()
        self._level = 0.0
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._hold_until, self._wait_s = 0.0, FIRST_WAIT_S
        self._broken = 0

    @property
    def slots(self) -> int:
        """Requests that may be under way."""
        return self._slots

    @property
    def trouble(self) -> str:
        """Why nothing can be sent, or answers can't be kept; "" where that was not so lately: after a wait it is known
        again once something was sent."""
        return self._trouble if self.in_flight or monotonic() < self._hold_until else ""

    def add(self, running: Running) -> None:
        """Take a batch on; it waits for its grant."""
        self.running[running.batch.id] = running

    def grant(self, gpus: Mapping[str, int]) -> None:
        """What the daemon grants from now on; batches that are not named get nothing."""
        for one in self.running.values():
            one.gpus = gpus.get(one.batch.job, 0)
        self.order()

    def order(self) -> None:
        """Look at every batch: which may send, and how many slots there are. To be called when something has changed
        that others decide."""
        self._slots = sum(one.gpus for one in self.running.values() if not one.stopped) * self._per_gpu
        self._ready, self._queued, self._sold, self._spare = {}, set(), Ring(), Ring()
        for one in self.running.values():
            self._queue(one)
        self._wake.set()

    def remove(self, batch: str) -> None:
        """It is over."""
        self.running.pop(batch, None)
        self.order()

    def stop(self, batch: str) -> None:
        """Send nothing more of a batch; what is under way comes back."""
        self.running[batch].stopped = True
        self.order()

    async def run(self) -> None:
        """Send, until cancelled; then wait for what is under way."""
        while True:
            self._wake.clear()
            self._fill()
            held = self._hold_until - monotonic()
            with suppress(TimeoutError):  # asyncio.wait_for can lose a cancellation that comes with the wake-up
                async with asyncio.timeout(held if held > 0 else None):
                    await self._wake.wait()

    async def drain(self, seconds: float) -> None:
        """Wait for what is under way, then break it off: it is sent again after a restart."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # ---------------------------------------------------------------- choosing
    def _fill(self) -> None:
        most = self._slots if self._broken < BROKEN_IN_A_ROW else min(1, self._slots)
        while self.in_flight < most and monotonic() >= self._hold_until:
            chosen = self._choose()
            if chosen is None:
                return
            try:
                line = chosen.next()
            except OSError as error:  # the others go on
                log.error("gateway.unreadable", batch=chosen.batch.id, why=str(error))
                continue
            if line is not None:
                self._begin(chosen, line)

    def _queue(self, one: Running) -> None:
        """Put a batch that may send where such ones stand, if it does not: of a sale, or in its tenant's queue."""
        if one.batch.quote is not None:
            if one.eligible and one.batch.id in self.running:
                self._spare.add(one)
                if self._owed(one):
                    self._sold.add(one)
        elif one.batch.id not in self._queued and one.eligible and one.batch.id in self.running:
            self._queued.add(one.batch.id)
            rank = (-one.batch.priority, one.batch.deadline, one.batch.id, one)
            heapq.heappush(self._ready.setdefault(one.batch.tenant, []), rank)

    def _heads(self) -> dict[str, Running]:
        """The first batch of each tenant that has one; who may not send any more leaves his queue."""
        heads = {}
        for tenant, queue in self._ready.items():
            while queue and not queue[0][-1].eligible:
                self._queued.discard(heapq.heappop(queue)[-1].batch.id)
            if queue:
                heads[tenant] = queue[0][-1]
        return heads

    def _owed(self, one: Running) -> bool:
        """Whether a batch on a firm quote has fewer requests under way than its own grant allows."""
        return one.eligible and one.in_flight < one.gpus * self._per_gpu

    def _choose(self) -> Running | None:
        sold = self._sold.next(self._owed)
        if sold is not None:
            return sold
        heads = self._heads()
        if not heads:
            return self._spare.next(lambda one: one.eligible)
        tenants = heads.keys()
        for name in tenants - self._waiting:
            # Who comes (back) starts level with the others: there is no claim on what was not asked for.
            self._served[name] = max(self._served.get(name, 0.0), self._level)
        self._waiting = set(tenants)
        turn = min(sorted(tenants), key=self._served.__getitem__)
        self._level = self._served[turn]
        self._served[turn] += 1.0 / self._weights.get(turn, 1.0)
        return heads[turn]

    def _begin(self, running: Running, line: Line) -> None:
        running.in_flight += 1
        self.in_flight += 1
        task = asyncio.create_task(self._one(running, line))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ---------------------------------------------------------------- one request
    async def _one(self, running: Running, line: Line) -> None:
        try:
            try:
                outcome = await self._send(running.batch.endpoint, line.body)
                self._settle(running, line, outcome)
            except (RecursionError, TypeError, ValueError) as error:  # an answer that can't be written as JSON
                why = f"{type(error).__name__}: {error}"
                running.answers.put(line.number, unanswered(running.batch.id, line, "gateway_error", why))
        except OSError as error:
            # The disk takes nothing: the answer is lost, the request is not.
            self._hold(f"answers can't be kept: {error}", DISK_WAIT_S)
            running.again.append(line)
        finally:
            running.in_flight -= 1
            self.in_flight -= 1
            self._queue(running)
            self._wake.set()
            if not running.in_flight and (running.stopped or not running.answers.left):
                running.done()

    def _settle(self, running: Running, line: Line, outcome: Outcome) -> None:
        batch = running.batch.id
        if isinstance(outcome, Away):
            running.again.append(line)
            self._hold(outcome.text, outcome.wait_s)
            return
        if isinstance(outcome, Broken):
            self._broken += 1
            if self._broken >= BROKEN_IN_A_ROW:  # or thousands of requests would break on it in a minute
                self._hold(outcome.text, None)
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
        self._wait_s, self._trouble, self._broken = FIRST_WAIT_S, "", 0
        running.attempts.pop(line.number, None)
        running.answers.put(line.number, _text(batch, line, outcome), outcome.body if outcome.good else None)

    def _hold(self, why: str, asked_s: float | None) -> None:
        """Send nothing for a while: as long as the server asked for, else ever longer."""
        now = monotonic()
        wait_s = asked_s or self._wait_s  # who asks for no wait at all would be asked thousands of times a second
        if now >= self._hold_until:
            self._wait_s = min(MOST_WAIT_S, 2 * self._wait_s)
            if why != self._trouble:
                log.warning("gateway.held", upstream=self.name, why=why, seconds=wait_s)
        self._trouble = why
        self._hold_until = max(self._hold_until, now + wait_s)


def _text(batch: str, line: Line, answer: Answer) -> bytes:
    return answered(batch, line, answer.status, answer.request_id, answer.body)


def expire(running: Running) -> None:
    """Write an error line for every request that was not answered in time, or tell that its input is spoiled."""
    number = -1
    try:
        for number, text in read_lines(running.source):
            if number < running.answers.total and not running.answers.has(number):
                line = parse(number, text, running.batch.endpoint)
                error = unanswered(running.batch.id, line, "batch_expired", "not answered before the window ended")
                running.answers.put(number, error)
    except (LineError, FileNotFoundError) as error:
        running.spoil(number + 1, str(error))
    else:
        if running.answers.left:
            running.spoil(number + 1, f"{running.answers.total} lines were checked, and some are gone")
