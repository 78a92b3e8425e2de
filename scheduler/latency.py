"""The latency guard: takes throttling of a pool back in the tick in which its users begin to wait too long.

Why in the fast loop: a plan is made every few minutes, and what it knows of latencies is what was seen before. Here the
newest histograms are judged every second, and a reading that shows a slip asks for a tick at once. A slip raises the
pool's floor to full power; only a hard limit, an operator's order or an emergency that the operator allowed may hold it
lower (`scheduler/latency_trim.py`). What slipped at which load and cap is remembered (`scheduler/latency_book.py`), so
that the next plan doesn't do it again. Power is let go again after objectives have been kept for a while, by a tenth,
one step after the other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from adapters.latency.window import FEW, LONGEST_S, LatencyReading, LatencySource
from adapters.ports import AdapterError
from optimizer.curves import throughput_at_cap
from optimizer.domain import GpuPool
from optimizer.reasons import Note, Reason, Severity
from scheduler.latency_book import Cell, LatencyBook, Place, place_of
from scheduler.status import LatencyStatus

BAND = 0.9
"""Share of a threshold below which an objective counts as kept with room to spare."""

STEP, LEAD = 0.02, 0.05
"""Throughput that is let go at a time, and how far below what the pool runs at: a plan must follow first."""

NOT_THE_CAP = 2.0
"""After so many windows at full power a slip was not the caps' doing."""


class GuardState(StrEnum):
    """What the guard does."""

    IDLE = "idle"
    FEW = "few"
    KEPT = "kept"
    SLIPPING = "slipping"
    HOLDING = "holding"
    MISSED = "missed"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Objective:
    """A share `quantile` of the requests (ttft) or tokens (itl) comes within `threshold_s`."""

    metric: str
    quantile: float
    threshold_s: float

    @property
    def name(self) -> str:
        """For people and labels, such as `ttft_p95`."""
        return f"{self.metric}_p{100 * self.quantile:g}"


@dataclass
class Guard:
    """The guard of one pool. `floor`: throughput that it holds now beyond the configured floor (0: none);
    `configured` is that one. What slipped counts for `remember`. `alarm` is called, in whatever thread a reading comes,
    where it shows a slip that is not acted on yet."""

    pool: str
    source: LatencySource
    objectives: tuple[Objective, ...]
    hold: timedelta
    books: dict[str, LatencyBook]
    configured: float = 0.0
    remember: timedelta = timedelta(days=1)
    state: GuardState = GuardState.IDLE
    floor: float = 0.0
    measured_s: dict[str, float] = field(default_factory=dict)
    wait_s: float | None = None
    """How long the last of those that wait now will have waited, at the present rate."""
    few: dict[str, str] = field(default_factory=dict)
    """Why an objective is not judged though requests came, by its name."""
    changed: bool = False
    """Whether the books have news."""
    alarm: Callable[[], None] = lambda: None
    _speeds: deque[tuple[datetime, float]] = field(default_factory=deque)
    _slipped: datetime | None = None
    _slipped_last: datetime | None = None
    _calm: datetime | None = None
    _stalled: datetime | None = None
    _blamed: dict[tuple[str, Place], Cell | None] = field(default_factory=dict)

    def step(self, load: float, speed: float, top: float, now: datetime) -> tuple[Note, ...]:
        """Judge the newest reading under the present busy share and throughput (`top`: at full power)."""
        self._speeds.append((now, speed))
        self._outlive(now)
        try:
            reading = self.source.read()
        except AdapterError as error:
            self.state, self.measured_s, self.wait_s, self._calm, self.few = GuardState.LOST, {}, None, None, {}
            text = f"{self.pool}: {error}; what was learned of its latencies holds"
            return (Note(Reason.LATENCY_LOST, self.pool, text, Severity.WARNING, now),)
        longest = timedelta(seconds=max(LONGEST_S, reading.window_s))
        while len(self._speeds) > 1 and self._speeds[0][0] < now - longest:
            self._speeds.popleft()
        worst, window = self._judge(reading, load, now)
        notes = self._act(worst, load, top, window, now)
        if reading.lost:
            text = f"{self.pool}: no latencies from {', '.join(reading.lost[:5])}"
            notes += (Note(Reason.LATENCY_LOST, self.pool, text, Severity.WARNING, now),)
        return notes

    def hear(self, reading: LatencyReading) -> None:
        """A new reading: a slip in it waits for no tick. Changes nothing; the tick judges it again."""
        if self.floor < 1.0 and self._worst(self._judged(reading), self._queue_s(reading)) > 1.0:
            self.alarm()

    def _outlive(self, now: datetime) -> None:
        """No floor outlives what is remembered of the slip that raised it, also where nobody tells of its end."""
        if self._slipped_last is not None and now - self._slipped_last >= self.remember:
            self.floor, self._slipped_last = 0.0, None

    def least_speed(self, load: float, now: datetime) -> float:
        """Throughput that the objectives need at a load, by what was seen."""
        return max(book.least_speed(load, now) for book in self.books.values())

    def floor_at(self, load: float, now: datetime) -> float:
        """Throughput that the pool needs now: while power is let go step by step, what the guard still holds."""
        return self.floor or self.least_speed(load, now)

    def _slips(self, load: float, now: datetime) -> float:
        return max(book.missed(load, now) for book in self.books.values())

    def forget(self, now: datetime) -> None:
        """Drop what is too old to count."""
        for book in self.books.values():
            book.forget(now)

    def sentence(self) -> str:
        """What is seen, in words."""
        measured_s, wait_s, few = self.measured_s, self.wait_s, self.few  # the fast loop replaces them meanwhile
        seen = [
            f"{one.name} {1000 * measured_s[one.name]:.0f} ms of {1000 * one.threshold_s:.0f}"
            if one.name in measured_s
            else f"{one.name} {few[one.name]}"
            for one in self.objectives
            if one.name in measured_s or one.name in few
        ]
        queued = f", a queue of {wait_s:.1f} s" if wait_s is not None and wait_s > 0.05 else ""
        return (", ".join(seen) or "no requests") + queued

    def _judge(self, reading: LatencyReading, load: float, now: datetime) -> tuple[float | None, timedelta]:
        """The worst quantile over its threshold, learned on the way (None where nobody waits and nothing that can be
        judged came), and the time of which it is."""
        judged = self._judged(reading)
        self.measured_s = {
            one.name: judged[one.name][0] * one.threshold_s for one in self.objectives if one.name in judged
        }
        self.few = self._too_few(reading)
        for name, (ratio, span_s) in judged.items():
            self._learn(name, load, ratio, timedelta(seconds=span_s), now)
        self.wait_s = self._wait_s(reading, now)
        worst = self._worst(judged, self.wait_s)
        spans_s = [span_s for ratio, span_s in judged.values() if ratio >= worst]
        window = timedelta(seconds=max(spans_s, default=reading.window_s))
        return (worst if worst > 0 or judged else None), window

    def _judged(self, reading: LatencyReading) -> dict[str, tuple[float, float]]:
        """Quantiles over their thresholds by objective, each with the seconds of which it is; those of too few requests
        are left out."""
        found = {}
        for one in self.objectives:
            histogram, span_s = reading.seen(one.metric)
            quantile = histogram.quantile(one.quantile) if histogram and histogram.total >= FEW else None
            if quantile is not None:
                found[one.name] = quantile / one.threshold_s, span_s
        return found

    def _too_few(self, reading: LatencyReading) -> dict[str, str]:
        """What is said of objectives for which something came, and not enough to judge by."""
        seen = ((one.name, *reading.seen(one.metric)) for one in self.objectives)
        return {
            name: f"of {histogram.total:.0f} in {span_s:.0f} s, too few to judge"
            for name, histogram, span_s in seen
            if histogram and 0.5 <= histogram.total < FEW
        }

    def _worst(self, judged: dict[str, tuple[float, float]], wait_s: float | None) -> float:
        """The worst of the quantiles, and of the queue where it is longer than the shortest threshold; 0: none."""
        firsts = [one.threshold_s for one in self.objectives if one.metric == "ttft"]
        queue = [wait_s / min(firsts)] if firsts and wait_s is not None and wait_s > min(firsts) else []
        return max([*(ratio for ratio, _ in judged.values()), *queue], default=0.0)

    @staticmethod
    def _queue_s(reading: LatencyReading) -> float | None:
        """Little's law: those that wait over the rate at which first tokens came; None: nobody tells, or none came."""
        if not reading.waiting:
            return None if reading.waiting is None else 0.0
        return reading.waiting / reading.rate if reading.rate > 0 else None

    def _wait_s(self, reading: LatencyReading, now: datetime) -> float | None:
        """How long the last of those that wait will have waited; while no first token comes, since when."""
        known = self._queue_s(reading)
        if known is not None or reading.waiting is None:
            self._stalled = None
            return known
        self._stalled = self._stalled or now
        return (now - self._stalled).total_seconds()

    def _speeds_in(self, window: timedelta, now: datetime) -> list[float]:
        """Throughputs of the last `window`; at least the newest."""
        return [speed for at, speed in self._speeds if at >= now - window] or [self._speeds[-1][1]]

    def _learn(self, name: str, load: float, ratio: float, window: timedelta, now: datetime) -> None:
        """The window holds requests under every throughput in it: what was missed is the slowest one's doing, what was
        kept the fastest one's merit. While it is not the caps' doing nothing is held against them."""
        if ratio > 1.0 and self.state is GuardState.MISSED:
            return
        speeds = self._speeds_in(window, now)
        book, place = self.books[name], place_of(load, min(speeds) if ratio > 1.0 else max(speeds))
        if ratio > 1.0:
            self._blamed.setdefault((name, place), book.cells.get(place))
        book.see(place, ratio, now)
        self.changed = True

    def _act(self, worst: float | None, load: float, top: float, window: timedelta, now: datetime) -> tuple[Note, ...]:
        if worst is not None and worst > 1.0:
            return self._take_back(top, window, now)
        self._slipped, self._blamed = None, {}
        if worst is not None and worst > BAND:
            self._calm = None
        elif self._calm is None:
            self._calm = now
        least = max(self.floor - STEP, self._speeds[-1][1] - LEAD)  # no further than the pool has followed
        if 0 < least < self.floor and self._calm is not None and now - self._calm >= self.hold:
            self.floor = least if least > max(self.configured, self._slips(load, now)) else 0.0
            self._calm = now - self.hold + max(window, self.hold / 6)
        idle = GuardState.FEW if self.few else GuardState.IDLE
        self.state = GuardState.HOLDING if self.floor > 0 else idle if worst is None else GuardState.KEPT
        return ()

    def _take_back(self, top: float, window: timedelta, now: datetime) -> tuple[Note, ...]:
        self._slipped, self._slipped_last, self._calm, self.floor = self._slipped or now, now, None, 1.0
        full = all(speed >= top - 1e-6 for speed in self._speeds_in(window, now))
        if full and now - self._slipped >= NOT_THE_CAP * window:
            self._acquit()
            self.state = GuardState.MISSED
            text = f"{self.pool}: {self.sentence()} at full power; it is not the caps that slow it"
            return (Note(Reason.LATENCY_MISSED, self.pool, text, Severity.ALERT, now),)
        self.state = GuardState.SLIPPING
        text = f"{self.pool} is brought to full power: {self.sentence()}"
        return (Note(Reason.LATENCY_GUARD, self.pool, text, Severity.WARNING, now),)

    def _acquit(self) -> None:
        """Forget what the caps were blamed for when the slip began."""
        for (name, place), before in self._blamed.items():
            self.books[name].put_back(place, before)
        self._blamed = {}


def status_of(guard: Guard, forecast_s: dict[str, tuple[float | None, ...]]) -> tuple[LatencyStatus, ...]:
    """The objectives as every surface shows them; `forecast_s` by objective on the plan's grid."""
    return tuple(
        LatencyStatus(
            one.name, one.threshold_s, guard.measured_s.get(one.name), guard.state.value, forecast_s.get(one.name, ())
        )
        for one in guard.objectives
    )


def speed_of(pool: GpuPool, cap_w: float) -> float:
    """Throughput under a cap, 0 to 1."""
    return min(1.0, throughput_at_cap(pool.curve, cap_w))
