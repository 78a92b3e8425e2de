"""When the loops run: APScheduler jobs, aligned to the clock of the world that is controlled.

Why the guard: APScheduler 3.11 keeps next run times in wall time, so that a step of one hour back leaves a 1-s job
silent for an hour. `Timer.guard()` is called from the daemon's main thread and re-arms both jobs when the wall clock
stepped against the monotonic one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.interval import IntervalTrigger

from adapters.ports import Clock
from optimizer.timegrid import floor_time
from scheduler.clock import ClockGuard, WallClock

URGENT_S = 10.0
"""How long a plan lets the fast loop go first, where that was hurried: it needs the processor more, and the bus."""

LEAST_APART_S = 1.0
"""Least time between the beginnings of two plans of which the second was asked for while the first was made."""


def next_boundary(now: datetime, interval: timedelta) -> datetime:
    """First multiple of `interval` (from the UTC epoch) after `now`."""
    return floor_time(now, interval) + interval


class AlignedTrigger(BaseTrigger):  # type: ignore[misc]
    """Fires at each multiple of `interval` on a clock that may run faster than the wall."""

    def __init__(self, clock: Clock, interval: timedelta) -> None:
        self._clock, self._interval = clock, interval

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """Wall time of the next boundary (APScheduler's interface), and never before it: counted from `now`, which was
        read earlier than the clock here, a plan would begin in the interval that is just ending, and be made for that
        one."""
        here = self._clock.now()
        wait = (next_boundary(here, self._interval) - here).total_seconds()
        wall = max(now, datetime.now(now.tzinfo))
        return wall + timedelta(seconds=max(0.01, wait / getattr(self._clock, "speed", 1.0)))


class Timer:
    """The two periodic jobs: `cycle` at every interval and at once when woken, `tick` every control period."""

    def __init__(
        self,
        clock: Clock,
        interval: timedelta,
        period: timedelta,
        cycle: Callable[[], object],
        tick: Callable[[], object],
    ) -> None:
        self._clock, self._interval, self._period = clock, interval, period
        self._cycle = cycle
        self._woken, self._stopping = threading.Event(), threading.Event()
        self._lock, self._turning = threading.Lock(), False
        self._tick, self._ticking, self._hurried = tick, threading.Lock(), threading.Event()
        self._acting, self._asked, self._acted = threading.Condition(), 0, 0
        self._guard = ClockGuard(WallClock())
        self._scheduler: Any = BackgroundScheduler(
            timezone=UTC,
            executors={"default": ThreadPoolExecutor(4)},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )
        self._scheduler.add_job(
            self._turn, AlignedTrigger(clock, interval), id="cycle", next_run_time=datetime.now(UTC), max_instances=2
        )  # of two the second returns at once; it begins one that was asked for while the first was ending
        self._scheduler.add_job(
            self._beat, self._tick_trigger(), id="tick", next_run_time=datetime.now(UTC), max_instances=2
        )  # likewise

    def _period_s(self) -> float:
        """A control period in seconds of the wall clock."""
        return max(0.02, self._period.total_seconds() / getattr(self._clock, "speed", 1.0))

    def _tick_trigger(self) -> Any:
        return IntervalTrigger(seconds=self._period_s(), timezone=UTC)

    def start(self) -> None:
        """Run both jobs from now on."""
        self._scheduler.start()

    def _turn(self) -> None:
        """One cycle, and another one for who asked while it ran: APScheduler would leave that to the next interval.

        Such a one begins no sooner than a second (or a control period, where that is shorter) after the one before:
        whoever floods us with news does not get the processor that the loops and the answers to others need. What is
        urgent acts in the fast loop meanwhile.
        """
        with self._lock:
            if self._turning:
                return
            self._turning = True
        while True:
            self._let_act()
            self._woken.clear()
            soonest = time.monotonic() + min(LEAST_APART_S, self._period_s())
            try:
                self._cycle()
                if self._woken.is_set():
                    self._stopping.wait(max(0.0, soonest - time.monotonic()))
            finally:
                with self._lock:
                    again = self._turning = self._woken.is_set() and not self._stopping.is_set()
            if not again:
                return

    def _let_act(self) -> None:
        """Wait until the fast loop has acted on what it was hurried for by now, or has had its time."""
        with self._acting:
            asked = self._asked
            self._acting.wait_for(lambda: self._acted >= asked or self._stopping.is_set(), URGENT_S)

    def wake(self) -> None:
        """Plan at once, or soon after the plan that is being made; several wake-ups before it are one. A flood of them
        costs a flag each, and no more than a plan a second."""
        with self._lock:
            self._woken.set()
            if self._turning:
                return
        if self._scheduler.running:
            self._scheduler.modify_job("cycle", next_run_time=datetime.now(UTC))

    def _beat(self) -> None:
        """One tick, and another one for who hurried while it ran. Never two at once: a second one returns."""
        while self._ticking.acquire(blocking=False):
            try:
                self._hurried.clear()
                asked = self._asked
                self._tick()
            finally:
                self._ticking.release()
                self._say_acted(asked)
            if not self._hurried.is_set() or self._stopping.is_set():
                return

    def _say_acted(self, asked: int) -> None:
        with self._acting:
            self._acted = asked
            self._acting.notify_all()

    def hurry(self) -> None:
        """Tick at once; those after it come a period apart from there. Plans wait for it."""
        with self._acting:
            self._asked += 1
        self._hurried.set()
        if self._scheduler.running and not self._stopping.is_set():
            self._scheduler.modify_job("tick", next_run_time=datetime.now(UTC))

    def guard(self) -> float:
        """Re-arm both jobs after a step of the wall clock; returns the step in seconds (0.0: none)."""
        step = self._guard.step_s()
        if step:
            self._scheduler.reschedule_job("cycle", trigger=AlignedTrigger(self._clock, self._interval))
            self._scheduler.reschedule_job("tick", trigger=self._tick_trigger())
            self.wake()
        return step

    def stop(self) -> None:
        """Let the running turns finish, start no more."""
        self._stopping.set()
        self._say_acted(self._asked)
        if self._scheduler.running:
            self._scheduler.shutdown(wait=True)
