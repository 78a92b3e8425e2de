"""A batch under way at a server: which of its lines is sent next, which come again, and when."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import structlog

from scheduler.gateway.answers import Answers
from scheduler.gateway.disk import AGAIN_S
from scheduler.gateway.lines import Line, LineError, parse, read_lines, unanswered
from scheduler.gateway.model import Batch, InputError
from scheduler.gateway.turned import Turned

log = structlog.get_logger("gridpace.gateway")


@dataclass
class Running:
    """A batch under way. `gpus` is its grant; `again` are lines to be sent once more before new ones are read; `done`
    is called when nothing of it is under way and nothing is left, or nothing more may be sent; `told`: answers that
    the daemon has heard of; `leaving`: it waits for what is under way, to go to another site; `elsewhere`: answers and
    errors that lie there; `unread_until`: its input could not be read, and is not tried again before (monotonic);
    `later` are lines that wait by themselves, first those that are due first (monotonic); `turned`: lines that were
    turned away; `held_until`: none is sent before (monotonic), since the server turned some away, `held_s`: how long it
    was held last (0: answered since); `spoiled`: why its input is not the one that was checked, so that nothing more of
    it can be sent."""

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
    later: list[tuple[float, int, Line]] = field(default_factory=list)
    turned: dict[int, Turned] = field(default_factory=dict)
    held_until: float = 0.0
    held_s: float = 0.0
    spoiled: InputError | None = None
    _read: int = 0
    _lines: Iterator[tuple[int, bytes]] | None = None
    _all_read: bool = False

    @property
    def eligible(self) -> bool:
        """Whether a request of it may be sent now."""
        able = self.gpus > 0 and not self.stopped and self.spoiled is None
        return able and self._unsent and monotonic() >= max(self.unread_until, self.held_until)

    @property
    def _unsent(self) -> bool:
        """Whether a line stands ready: one that comes again, or one that was never sent."""
        if self.again or self._due:
            return self.answers.left > self.in_flight
        return not self._all_read and self.answers.left > self.in_flight + len(self.later)

    @property
    def _due(self) -> bool:
        return bool(self.later) and self.later[0][0] <= monotonic()

    def wait(self, line: Line, seconds: float) -> None:
        """Send a line again no sooner than in so many seconds; the others go on."""
        heapq.heappush(self.later, (monotonic() + seconds, line.number, line))

    def hold(self, first_s: float, most_s: float) -> bool:
        """Send nothing of it for a while, ever longer until one is answered; False where it waits already."""
        if monotonic() < self.held_until:
            return False
        self.held_s = min(most_s, 2 * self.held_s or first_s)
        self.held_until = monotonic() + self.held_s
        return True

    def restart(self) -> None:
        """Read the lines from the first on again: others have answered some of them. Nothing may be under way."""
        for waiting in (self.again, self.later, self.attempts, self.turned):
            waiting.clear()
        self._lines, self._all_read, self._read = None, False, 0

    def next(self) -> Line | None:
        """The next line that is not answered; None where the input is spoiled. Raises OSError; again goes on where it
        was. To be called while it is eligible."""
        if self.again:
            return self.again.popleft()
        if self._due:
            return heapq.heappop(self.later)[-1]
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
