"""Clocks, the guard against wall-clock steps, and the alignment of the slow loop."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from scheduler.clock import ClockGuard, ScaledClock, VirtualClock, WallClock
from scheduler.timing import AlignedTrigger, Timer, next_boundary

NOON = datetime(2022, 9, 6, 12, tzinfo=UTC)


class SteppedClock:
    """A clock whose wall time can be set against its monotonic time."""

    speed = 1.0

    def __init__(self) -> None:
        self.wall, self.mono = NOON, 0.0

    def now(self) -> datetime:
        return self.wall

    def monotonic(self) -> float:
        return self.mono

    def sleep(self, seconds: float) -> None:
        self.wall += timedelta(seconds=seconds)
        self.mono += seconds


@pytest.mark.parametrize("step_s", [-3600.0, 3600.0, 86400.0 * 3650])
def test_guard_sees_a_step_once_and_never_a_slew(step_s: float) -> None:
    clock = SteppedClock()
    guard = ClockGuard(clock)
    clock.sleep(600)
    clock.wall += timedelta(milliseconds=300)  # what NTP slews
    assert guard.step_s() == 0.0
    clock.wall += timedelta(seconds=step_s)
    assert guard.step_s() == pytest.approx(step_s, abs=1)
    assert guard.step_s() == 0.0


def test_timer_ticks_again_at_once_after_the_wall_clock_stepped_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """APScheduler alone would wait for the hour to come round again."""
    ticks: list[int] = []
    clock = VirtualClock(NOON)
    timer = Timer(clock, timedelta(minutes=5), timedelta(milliseconds=20), lambda: None, lambda: ticks.append(1))
    stepped = SteppedClock()
    timer._guard = ClockGuard(stepped)
    timer.start()
    try:
        job = timer._scheduler.get_job("tick")
        timer._scheduler.modify_job("tick", next_run_time=datetime.now(UTC) + timedelta(hours=1))
        stepped.wall -= timedelta(hours=1)
        assert timer.guard() == pytest.approx(-3600)
        job = timer._scheduler.get_job("tick")
        assert job.next_run_time - datetime.now(UTC) < timedelta(seconds=1)
        assert timer.guard() == 0.0
    finally:
        timer.stop()


def test_a_flood_of_wake_ups_gets_a_plan_each_period_and_not_one_after_the_other() -> None:
    plans: list[float] = []

    def cycle() -> None:
        plans.append(time.monotonic())
        timer._woken.wait(30)  # news comes while it is made

    timer = Timer(WallClock(), timedelta(hours=1), timedelta(milliseconds=500), cycle, lambda: None)
    timer.start()
    try:
        while len(plans) < 3:
            timer.wake()
            time.sleep(0.001)
    finally:
        timer.wake()
        timer.stop()
    assert min(right - left for left, right in pairwise(plans)) > 0.1


def test_who_hurries_gets_a_tick_at_once_also_while_one_is_running() -> None:
    """APScheduler alone drops a run that comes due while the last one is still going on."""
    ticking, go_on, begun = threading.Event(), threading.Event(), []

    def tick() -> None:
        begun.append(at_once.acquire(blocking=False))
        ticking.set()
        go_on.wait(10)
        at_once.release()

    at_once = threading.Lock()
    timer = Timer(WallClock(), timedelta(hours=1), timedelta(hours=1), lambda: None, tick)
    timer.start()
    try:
        for number in (1, 2):
            assert ticking.wait(10), f"tick {number}"
            ticking.clear()
            timer.hurry()
            time.sleep(0.2)  # time for the scheduler to try, and to drop it
            go_on.set()
        assert ticking.wait(10), "the tick after the one that was hurried"
        while timer._ticking.locked():
            time.sleep(0.01)
        ticking.clear()
        timer.hurry()
        assert ticking.wait(10), "and with none under way"
    finally:
        timer.stop()
    assert begun == [True] * len(begun), "never two at once"
    assert 3 <= len(begun) <= 5


def test_a_plan_lets_the_fast_loop_act_first_where_that_was_hurried() -> None:
    order: list[str] = []
    go_on, acting = threading.Event(), threading.Event()

    def tick() -> None:
        acting.set()
        go_on.wait(10)
        order.append("tick")

    timer = Timer(WallClock(), timedelta(hours=1), timedelta(hours=1), lambda: order.append("plan"), tick)
    go_on.set()
    timer.start()
    try:
        while not {"tick", "plan"} <= set(order):
            time.sleep(0.01)
        go_on.clear()
        acting.clear()
        order.clear()
        timer.hurry()
        timer.wake()
        assert acting.wait(10)
        time.sleep(0.3)  # time for the plan to come first, if it would
        assert order == []
        go_on.set()
        while "plan" not in order:
            time.sleep(0.01)
    finally:
        go_on.set()
        timer.stop()
    assert order[:2] == ["tick", "plan"]


def test_slow_loop_fires_on_the_controlled_clocks_boundaries() -> None:
    clock = ScaledClock(NOON + timedelta(minutes=2), speed=60.0)
    time.sleep(0.05)
    assert clock.now() == NOON + timedelta(minutes=2)  # a recorded day waits until everything is built
    clock.begin()
    wall = datetime.now(UTC)
    fire = AlignedTrigger(clock, timedelta(minutes=5)).get_next_fire_time(None, wall)
    assert (fire - wall).total_seconds() == pytest.approx(3.0, abs=0.1)  # three simulated minutes
    assert next_boundary(NOON, timedelta(minutes=5)) == NOON + timedelta(minutes=5)


def test_no_plan_begins_before_its_interval() -> None:
    """The scheduler reads its own clock first; on a busy machine much later ones are read after it."""
    minute = timedelta(minutes=1)
    asked = datetime.now(UTC) - timedelta(seconds=0.5)
    boundary = next_boundary(datetime.now(UTC), minute)
    assert AlignedTrigger(WallClock(), minute).get_next_fire_time(None, asked) >= boundary


def test_clocks_refuse_what_means_nothing() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        VirtualClock(datetime(2022, 9, 6))  # noqa: DTZ001
    with pytest.raises(ValueError, match=r"clock\.speed"):
        ScaledClock(NOON, 0.0)
