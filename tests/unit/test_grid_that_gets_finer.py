"""The planning grid: fine now, coarse later, and a block that was cut once is never put together again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from optimizer.timegrid import planning_grid

START, MINUTE = datetime(2022, 9, 6, 7, tzinfo=UTC), timedelta(minutes=1)


def lengths(moment: datetime, step: timedelta = 5 * MINUTE) -> list[int]:
    grid = planning_grid(moment, timedelta(hours=24), step)
    return [round(60 * hours) for hours in grid.hours]


def test_a_block_longer_than_the_one_before_waits_on_the_next_length_for_its_place_on_the_clock() -> None:
    assert lengths(START) == [5] * 24 + [15] * 40 + [60] * 12
    assert lengths(START + 5 * MINUTE) == [5] * 26 + [15] * 43 + [60] * 12
    assert lengths(START + 25 * MINUTE) == [5] * 25 + [15] * 42 + [60] * 12
    assert lengths(START, 30 * MINUTE) == [30] * 24 + [60] * 12


@pytest.mark.parametrize("minutes", [5, 15, 30])
def test_each_block_lies_inside_one_of_the_grid_before(minutes: int) -> None:
    step = minutes * MINUTE
    before = planning_grid(START, timedelta(hours=24), step)
    for number in range(1, 30):
        grid = planning_grid(START + number * step, timedelta(hours=24), step)
        assert set(before.edges[1:]) <= set(grid.edges)
        assert len(grid) <= 76 + 5
        before = grid
