"""Keeps as many requests at one server as the plan allows, and no more.

Slots are what the daemon granted: GPUs of all batches of this server times requests a GPU. When grants fall, nothing
new is sent until enough has come back; what is under way is never broken off. A batch on a firm quote has what its sale
was granted before anybody else, for that was bought, and beyond that what nobody else wants. Tenants share the rest by
weight, in seconds of slots (`Shares`), a tenant's own batches go by priority, then deadline.

Whom a server turns away for load waits. Where all batches that send are turned away, all of them do, as long as the
server asks for. Where others are answered, that batch does, and its line as long as the server asks for; and where it
is one line again and again (`Turned`), that line alone, until what the server says is its answer.

Why queues: thousands of batches wait, and a choice is made for each request. So those that may send stand in a queue of
their tenant's, which `order` makes anew with each turn; in between who may no longer send is found when his turn comes,
and who may again is put back.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import datetime
from time import monotonic
from typing import Any

import structlog

from scheduler.gateway.lines import Line, answered, unanswered
from scheduler.gateway.running import Ring, Running
from scheduler.gateway.shares import Begun, Shares
from scheduler.gateway.turned import Turned
from scheduler.gateway.upstream import Answer, Away, Broken, Outcome

log = structlog.get_logger("gridpace.gateway")

ATTEMPTS = 2
"""A request that broke is tried once more."""
BROKEN_IN_A_ROW = 5
"""After so many broken answers and no other it is the server that is broken: it gets one request at a time."""
FIRST_WAIT_S, MOST_WAIT_S = 0.5, 30.0
DISK_WAIT_S = 5.0

Send = Callable[[str, Mapping[str, Any]], Awaitable[Outcome]]


class Runner:
    """All batches of one server. Lives in one event loop."""

    def __init__(self, name: str, send: Send, per_gpu: int, weights: Mapping[str, float]) -> None:
        self.name, self._send, self._per_gpu = name, send, per_gpu
        self.running: dict[str, Running] = {}
        self.in_flight = 0
        self._trouble, self._slots = "", 0
        self._ready: dict[str, list[tuple[int, datetime, str, Running]]] = {}
        self._queued: set[str] = set()
        self._sold, self._spare = Ring(), Ring()
        self._shares = Shares(weights)
        self._refused: set[str] = set()  # batches that were turned away since the last answer
        self._answered = self._turned = 0
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
        return heads[self._shares.turn(heads.keys())]

    def _begin(self, running: Running, line: Line) -> None:
        running.in_flight += 1
        self.in_flight += 1
        begun = self._shares.begin(running.batch.tenant) if running.batch.quote is None else None
        task = asyncio.create_task(self._one(running, line, begun))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ---------------------------------------------------------------- one request
    async def _one(self, running: Running, line: Line, begun: Begun | None = None) -> None:
        """Send it and take in what comes back. `begun`: as its tenant's share counts it (None: it was bought)."""
        try:
            try:
                try:
                    outcome = await self._send(running.batch.endpoint, line.body)
                finally:
                    if begun is not None:
                        self._shares.end(running.batch.tenant, begun)
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
            self._turn_away(running, line, outcome)
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
        self._answered += 1
        self._refused.clear()
        running.held_s = 0.0
        running.attempts.pop(line.number, None)
        running.turned.pop(line.number, None)
        running.answers.put(line.number, _text(batch, line, outcome), outcome.body if outcome.good else None)

    def _turn_away(self, running: Running, line: Line, said: Away) -> None:
        """The server took it not: who waits for that, and how long."""
        if not said.reached:
            running.again.append(line)
            self._hold(said.text, said.wait_s)
            return
        self._turned += 1
        turned = running.turned.setdefault(line.number, Turned())
        if turned.again(self._answered, self._turned):  # it is this line, whatever waits longer for the server
            if turned.given_up:
                self._give_up(running, line, said)
            else:
                self._wait_alone(running, line, turned, said)
            return
        self._refused.add(running.batch.id)
        if self._all_refused():
            running.again.append(line)
            self._hold(said.text, said.wait_s)
            return
        self._wait_alone(running, line, turned, said)
        if running.hold(FIRST_WAIT_S, MOST_WAIT_S):
            log.warning("gateway.batch_held", batch=running.batch.id, why=said.text, seconds=running.held_s)
            self._stir_in(running, running.held_s)

    def _all_refused(self) -> bool:
        """Whether every batch that sends was turned away since the last answer."""
        return all(name in self._refused for name, one in self.running.items() if one.in_flight or one.eligible)

    def _wait_alone(self, running: Running, line: Line, turned: Turned, said: Away) -> None:
        wait_s = max(said.wait_s or 0.0, min(MOST_WAIT_S, FIRST_WAIT_S * 2.0**turned.waits))
        turned.waits += 1
        running.wait(line, wait_s)
        self._stir_in(running, wait_s)

    def _stir_in(self, running: Running, seconds: float) -> None:
        """Look at a batch again then; a little later, for timers may come early by a clock's tick."""

        def stir() -> None:
            self._queue(running)
            self._wake.set()

        asyncio.get_running_loop().call_later(seconds + 0.001, stir)

    def _give_up(self, running: Running, line: Line, said: Away) -> None:
        batch, answer = running.batch.id, said.answer
        log.warning("gateway.given_up", batch=batch, line=line.number + 1, why=said.text)
        del running.turned[line.number]
        if answer is None:
            running.answers.put(line.number, unanswered(batch, line, "upstream_busy", said.text))
        else:
            running.answers.put(line.number, _text(batch, line, answer))

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
