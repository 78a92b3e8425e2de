"""Ceiling and set-point of a site: events with their ramps, limits, operator, slew both ways."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.domain import GridEvent, Span
from optimizer.envelope import event_limit_kw, mean_limit_kw
from scheduler.targets import INF, ceiling, setpoint, slew

START = datetime(2022, 9, 7, 0, 17, tzinfo=UTC)
END = START + timedelta(hours=2, minutes=43)


def event(target_kw: float = 3000.0, baseline_kw: float = 4000.0, **changes: object) -> GridEvent:
    fields: dict[str, object] = {
        "id": "e",
        "version": 1,
        "site": "np15",
        "start": START,
        "end": END,
        "targets": (Span(START, END, target_kw),),
        "baseline_kw": baseline_kw,
        "rebound_kw": baseline_kw,
    }
    return GridEvent(**(fields | changes))  # type: ignore[arg-type]


def at(minutes: float) -> float:
    return event_limit_kw(event(), START + timedelta(minutes=minutes))


def test_event_asks_nothing_before_ramps_holds_ramps_and_limits_the_rebound() -> None:
    end = (END - START).total_seconds() / 60
    assert at(-0.1) == INF
    assert [at(0), at(2.5), at(5), at(100)] == [4000, 3500, 3000, 3000]
    assert [at(end), at(end + 2.5), at(end + 5), at(end + 64.9)] == [3000, 3500, 4000, 4000]
    assert at(end + 65) == INF


def test_planning_interval_takes_the_mean_of_its_bound_part() -> None:
    block = START.replace(minute=15)
    assert mean_limit_kw(event(), block, block + timedelta(minutes=5)) == pytest.approx(3700)  # 17..20: 4000 to 3400
    assert mean_limit_kw(event(), block - timedelta(minutes=5), block) == INF


def test_ceiling_meets_a_falling_ramp_ahead_and_takes_the_strictest() -> None:
    now, then = START + timedelta(minutes=1), START + timedelta(minutes=2)
    assert ceiling("np15", 6000, (event(),), INF, now, then).kw == pytest.approx(3600)
    assert ceiling("np15", 3500, (event(),), INF, now, then).kw == 3500
    assert ceiling("np15", 6000, (event(),), 2000, now, then).kw == 2000
    assert ceiling("elsewhere", 6000, (event(),), INF, now, then).kw == 6000


@given(
    wish=st.floats(0, 1e4),
    last=st.floats(0, 1e4),
    cap=st.floats(0, 1e4),
    up=st.floats(1, 1e4),
    down=st.floats(1, 1e4),
    seconds=st.floats(0.1, 300),
)
def test_setpoint_never_exceeds_the_ceiling_nor_rises_faster_than_the_ramp(
    wish: float, last: float, cap: float, up: float, down: float, seconds: float
) -> None:
    aim = setpoint(wish, last, cap, seconds, up, down)
    assert aim <= cap
    assert aim <= last + up * seconds / 60 + 1e-6
    assert aim >= min(wish, cap, last - down * seconds / 60) - 1e-6  # and is not lower than anybody asked


def test_without_history_the_wish_is_taken_as_it_is() -> None:
    assert slew(5.0, None, 1.0, 0.1, 0.1) == 5.0
