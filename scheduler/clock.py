"""Where time comes from: the wall, a sped-up wall (the demo), or a virtual clock (backtests and tests).

Why injected: the loops never ask the operating system for the time, so a week of market runs through the very same
code in minutes. Durations, ramps and leases use `monotonic`, which no correction of the wall clock can move.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from adapters.ports import Clock
from optimizer.timegrid import require_utc


class WallClock:
    """The machine's own time."""

    speed = 1.0

    def now(self) -> datetime:
        """Aware UTC time."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds that never step back."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(max(0.0, seconds))


class ScaledClock:
    """A recorded day at `speed` times real time; it stands at `start` until `begin`."""

    def __init__(self, start: datetime, speed: float) -> None:
        if speed <= 0:
            raise ValueError(f"clock.speed must be above 0, not {speed}")
        self.speed = speed
        self._start = require_utc(start, "clock.start")
        self._zero: float | None = None

    def begin(self) -> None:
        """Let time pass from now on; a second call changes nothing."""
        if self._zero is None:
            self._zero = time.monotonic()

    def now(self) -> datetime:
        """Simulated aware UTC time."""
        return self._start + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        """Simulated seconds since the start."""
        return (time.monotonic() - self._zero) * self.speed if self._zero is not None else 0.0

    def sleep(self, seconds: float) -> None:
        """Wait that many simulated seconds."""
        time.sleep(max(0.0, seconds) / self.speed)


class VirtualClock:
    """Time that moves only when told; `sleep` moves it."""

    speed = 1.0

    def __init__(self, start: datetime) -> None:
        self._start = self._now = require_utc(start, "start")
        self._lock = threading.Lock()

    def now(self) -> datetime:
        """Virtual aware UTC time."""
        return self._now

    def monotonic(self) -> float:
        """Virtual seconds since the start."""
        return (self._now - self._start).total_seconds()

    def sleep(self, seconds: float) -> None:
        """Move the clock on."""
        with self._lock:
            self._now += timedelta(seconds=max(0.0, seconds))


@dataclass
class ClockGuard:
    """Notices when the wall clock steps against the monotonic one.

    APScheduler 3.11 keeps next run times in wall time: after a step of one hour back it sleeps for an hour
    (agronholm/apscheduler issues 351 and 752). The owner re-arms its jobs when `step_s` says so.
    """

    clock: Clock
    tolerance_s: float = 2.0

    def __post_init__(self) -> None:
        self._offset = self._measure()

    def _measure(self) -> float:
        return self.clock.now().timestamp() - self.clock.monotonic()

    def step_s(self) -> float:
        """Seconds by which the wall clock stepped since the last call; 0.0 within the tolerance (slow slew
        included)."""
        offset = self._measure()
        step, self._offset = offset - self._offset, offset
        return step if abs(step) > self.tolerance_s else 0.0
