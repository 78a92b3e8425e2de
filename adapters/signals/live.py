"""What every source that is asked over a network shares: when to ask, how long to wait, and what is kept meanwhile.

Why one wrapper: the loops may read at any moment (an event wakes them), but a market's server may be asked only so
often, may hang, and may be down for an hour. So a read answers from what is held; asking goes on beside it, at most
every `refresh`, ever later after failures, never before the time that the server names (Retry-After). What is held
carries the time at which it was read, so that the gate sees it age. Values are replaced as a whole over the time that
was asked for: a revision counts, and what the server withdrew is no longer told as if it did.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import monotonic
from typing import ClassVar

from pydantic import Field

from adapters.context import AdapterContext
from adapters.fields import Duration
from adapters.ports import AdapterError, SourceError
from adapters.signals.base import SignalConfig, Unit
from optimizer.domain import Series, Span
from optimizer.quality import duration_text
from optimizer.reasons import Note, Reason

FIRST_PAUSE_S, MOST_PAUSE_S = 15.0, 900.0
GRACE_S = 3.0
"""How long a read waits for a fresh answer while it holds an older one: less than the loops give all sources."""
FORWARD = timedelta(days=1)
"""How far the window may grow at its end before it is asked for at once."""


class LiveConfig(SignalConfig):
    """Keys of every source that is asked over a network."""

    measured: ClassVar[bool] = True

    refresh: Duration = Field(
        default=timedelta(minutes=15), description="How often the source is asked at most.", examples=["15m"]
    )
    timeout: Duration = Field(
        default=timedelta(seconds=20),
        description="How long one answer may take, all its pages together.",
        examples=["20s"],
    )
    revisit: Duration = Field(
        default=timedelta(days=2),
        description="How far back values are asked for again, because the source may revise them.",
        examples=["2d"],
    )


class NetConfig(LiveConfig):
    """Keys about the way there."""

    proxy: str | None = Field(
        default=None,
        pattern=r"^(https?|socks5h?)://[^\s/?#@]+/?$",
        description="Proxy to go through; those of the environment are not used.",
        examples=["http://proxy.example.net:3128"],
    )
    ca: str | None = Field(
        default=None,
        description="File with the certificate authority of the server; absent: those that Python's requests trusts.",
        examples=["/etc/gridpace/proxy-ca.pem"],
    )


class ChildConfig(NetConfig):
    """Keys of a source that a library asks in a process of its own."""

    timeout: Duration = Field(
        default=timedelta(minutes=2),
        description="How long one answer may take; the process is ended then.",
        examples=["2m"],
    )


def within(floor: float | None, cap: float | None, lowest: float, highest: float) -> tuple[float, float]:
    """Bounds as configured, where they are, else these."""
    return lowest if floor is None else floor, highest if cap is None else cap


class TryLater(SourceError):
    """The server asks to be left alone for `after_s` seconds."""

    def __init__(self, text: str, after_s: float) -> None:
        super().__init__(text)
        self.after_s = after_s


@dataclass(frozen=True, slots=True)
class Ask:
    """One question: the times asked for, the moment it is asked at, until when (monotonic seconds) it may take, and
    since when values are wanted at all."""

    start: datetime
    end: datetime
    now: datetime
    ends_at: float
    since: datetime

    def left_s(self) -> float:
        """Seconds that are left; SourceError when there are none."""
        left = self.ends_at - monotonic()
        if left <= 0:
            raise SourceError("no answer in time")
        return left


@dataclass(frozen=True)
class Told:
    """What a source told about a window, in the unit used inside, in any order; `notes` say what was odd about it."""

    spans: tuple[Span, ...]
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True)
class _Held:
    """What is known: over [start, end) as asked, and when it was read."""

    start: datetime
    end: datetime
    at: datetime
    spans: tuple[Span, ...]
    notes: tuple[Note, ...]


class Live:
    """Reads from what is held, and asks `fetch` for news in a thread of its own."""

    def __init__(self, config: LiveConfig, context: AdapterContext, unit: Unit, fetch: Callable[[Ask], Told]) -> None:
        self._config, self._clock, self._unit, self._fetch = config, context.clock, unit, fetch
        self._pending: tuple[Ask, Future[Told]] | None = None
        self._held: _Held | None = None
        self._fault: str | None = None
        self._not_before, self._pause_s = float("-inf"), FIRST_PAUSE_S

    def read(self, start: datetime, end: datetime, now: datetime) -> Series:
        """What is known about [start, end). Raises SourceError while nothing is."""
        self._settle(now)
        if self._pending is None and self._due(start, end):
            self._begin(start, end, now)
        if self._pending is not None:
            left_s = self._pending[0].ends_at - monotonic()
            wait([self._pending[1]], max(0.0, left_s if self._held is None else min(left_s, GRACE_S)))
            self._settle(now)
        if self._held is None:
            raise SourceError(self._fault or "no answer yet")
        return self._series(self._held, start, end, now)

    # ------------------------------------------------------------ asking
    def _due(self, start: datetime, end: datetime) -> bool:
        """True when it may be asked, or when the window lies where nothing was asked for yet."""
        held = self._held
        elsewhere = held is not None and (start < held.start or end > held.end + FORWARD)
        return (elsewhere and self._fault is None) or self._clock.monotonic() >= self._not_before

    def _begin(self, start: datetime, end: datetime, now: datetime) -> None:
        """Ask for what may have changed; for everything where the past is not held yet."""
        held = self._held
        known_past = held is not None and held.start <= start and held.end >= now - self._config.revisit
        first = min(end, max(start, now - self._config.revisit)) if known_past else start
        ask = Ask(first, end, now, monotonic() + self._config.timeout.total_seconds(), start)
        future: Future[Told] = Future()
        threading.Thread(
            target=_answered, args=(self._fetch, ask, future), name=f"signal-{self._config.id}", daemon=True
        ).start()
        self._pending = (ask, future)

    def _settle(self, now: datetime) -> None:
        """Take an answer that has come; say so where none came in time."""
        if self._pending is None:
            return
        ask, future = self._pending
        if not future.done():
            if monotonic() >= ask.ends_at:
                self._fault = f"no answer within {self._config.timeout.total_seconds():g} s"
            return
        self._pending = None
        try:
            told = future.result()
        except TryLater as error:
            self._failed(str(error), error.after_s)
        except AdapterError as error:
            self._failed(str(error))
        except Exception as error:  # noqa: BLE001 - a library's bug is a source that fails, with its name
            self._failed(f"{type(error).__name__}: {error}")
        else:
            self._fault, self._pause_s = None, FIRST_PAUSE_S
            self._not_before = self._clock.monotonic() + self._config.refresh.total_seconds()
            self._held = _merged(self._held, ask, told)

    def _failed(self, text: str, after_s: float = 0.0) -> None:
        """Leave it alone for a while, ever longer; by chance a little more, so that sites don't come back as one."""
        pause_s = max(after_s, self._pause_s * random.uniform(1.0, 1.5))
        self._pause_s = min(MOST_PAUSE_S, 2 * self._pause_s)
        self._not_before = self._clock.monotonic() + pause_s
        self._fault = text

    # ------------------------------------------------------------ telling
    def _series(self, held: _Held, start: datetime, end: datetime, now: datetime) -> Series:
        notes = tuple(note for note in held.notes if note.at is None or start <= note.at < end)
        if self._fault is not None:
            age = duration_text(max(0.0, (now - held.at).total_seconds()))
            text = f"{self._config.id}: {self._fault}; what was read {age} ago is kept"
            notes = (*notes, Note(Reason.STALE_SIGNAL, self._config.id, text))
        spans = tuple(span for span in held.spans if span.end > start and span.start < end)
        return Series(self._config.id, self._unit.canonical, spans, min(held.at, now), notes)


def _answered(fetch: Callable[[Ask], Told], ask: Ask, future: Future[Told]) -> None:
    try:
        future.set_result(fetch(ask))
    except Exception as error:  # noqa: BLE001 - it belongs to whoever reads, not to this thread
        future.set_exception(error)


def _merged(held: _Held | None, ask: Ask, told: Told) -> _Held:
    """The answer, and before it what was known of the window before."""
    fresh = tuple(sorted(told.spans, key=lambda span: span.start))
    if held is None or ask.start <= held.start or ask.start > held.end:
        return _Held(ask.start, ask.end, ask.now, fresh, told.notes)
    first = min(ask.start, fresh[0].start) if fresh else ask.start
    kept = tuple(span for span in held.spans if ask.since < span.end <= first)
    notes = tuple(note for note in held.notes if note.at is not None and ask.since < note.at < first)
    return _Held(max(held.start, ask.since), ask.end, ask.now, (*kept, *fresh), (*notes, *told.notes))
