"""The grid of a plan: fine now, coarse later, anchored to the clock, and as far as the deadlines ask."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.timegrid import floor_time, local_day, planning_grid
from scheduler.problem import horizon
from tests.support.problems import job

NOON = datetime(2022, 9, 6, 12, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def test_five_minutes_for_two_hours_quarters_up_to_twelve_and_hours_beyond():
    grid = planning_grid(NOON, DAY)
    lengths = [end - start for start, end in pairwise(grid.edges)]
    assert lengths == [5 * MINUTE] * 24 + [15 * MINUTE] * 40 + [HOUR] * 12
    assert (grid.start, grid.end) == (NOON, NOON + DAY)


@given(st.integers(0, 24 * 60 - 1), st.integers(1, 8 * 24), st.sampled_from((1, 5, 15)))
def test_every_block_lies_on_its_own_multiple_of_the_clock(minute, hours, step):
    now, fine = NOON + minute * MINUTE, step * MINUTE
    grid = planning_grid(now, hours * HOUR, fine)
    assert grid.start == floor_time(now, fine) <= now
    assert grid.end >= grid.start + hours * HOUR
    lengths = [end - start for start, end in pairwise(grid.edges)]
    for start, length in zip(grid.starts, lengths, strict=True):
        assert floor_time(start, length) == start, "whole blocks of the clock"
        ahead = start - grid.start
        assert length == fine or length <= (
            5 * MINUTE if ahead < 2 * HOUR else 15 * MINUTE if ahead < 12 * HOUR else HOUR
        )


@pytest.mark.parametrize(
    ("deadlines", "voluntary_h", "expected_h"),
    [((), None, 36), ((4, 20), None, 36), ((4, 60.5), None, 61), ((500,), None, 168), ((), 50, 50)],
)
def test_the_horizon_stretches_over_days_to_the_last_deadline_and_the_last_offer(deadlines, voluntary_h, expected_h):
    """Deferring across days is what helps in a scarcity of days: a plan that ends before a deadline can't see it."""
    jobs = [job(f"j{n}", (0, hour), grid_start=NOON) for n, hour in enumerate(deadlines)]
    offers = [] if voluntary_h is None else [SimpleNamespace(over_at=NOON + voluntary_h * HOUR)]
    ctx = SimpleNamespace(
        timing=SimpleNamespace(horizon=36 * HOUR, max_horizon=7 * DAY), ledger=SimpleNamespace(awaiting=lambda: offers)
    )
    assert horizon(ctx, jobs, NOON) == expected_h * HOUR


@pytest.mark.parametrize(("day", "hours"), [(date(2022, 3, 27), 23), (date(2022, 9, 6), 24), (date(2022, 10, 30), 25)])
def test_a_local_day_is_as_long_as_the_clocks_make_it(day, hours):
    start, end = local_day(day, ZoneInfo("Europe/Berlin"))
    assert end - start == hours * HOUR
