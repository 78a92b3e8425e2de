"""What a site stays above its ceiling: told without a gap however the meter trembles, and no longer than it is so."""

import pytest

from scheduler.missed import OVER_TICKS, Missed

READINGS = 4


def told(shares, ceiling_kw=100.0, spent=True, seen=None):
    """Whether it is told of, reading by reading, where so much of the ceiling is drawn above it."""
    seen = seen or Missed()
    return [seen.stays_kw(ceiling_kw * (1 + share), ceiling_kw, spent, READINGS) > 0 for share in shares]


@pytest.mark.parametrize(
    ("shares", "least"),
    [
        ([0.015], READINGS),
        ([0.015, 0.025], READINGS),
        ([0.015, 0.015, 0.015, 0.025], READINGS),
        ([0.01] * 7 + [-0.001], READINGS),
        ([0.01] * 6 + [-0.001] * 4, READINGS),
        ([0.3], READINGS),
        ([0.004, -0.002], OVER_TICKS),
    ],
)
def test_who_stays_above_is_told_of_within_some_readings_and_without_a_gap(shares, least):
    assert told(shares * 20) == [False] * (least - 1) + [True] * (20 * len(shares) - least + 1)


def test_who_is_below_or_has_a_lever_left_or_is_seen_by_nobody_is_not():
    assert not any(told([-0.001, 0.0005, -0.002] * 20)), "not even where single readings are above"
    assert not any(told([0.01] * 20, spent=False))
    seen = Missed()
    assert not any(seen.stays_kw(None, 100.0, True, READINGS) for _ in range(20))
    assert not any(told([0.01] * 3, seen=seen)), "and what was not known counts for nothing"


def test_it_ends_with_the_ceiling_that_it_was_about_and_else_within_ten_readings():
    for later_kw, drawn_kw in ((102.0, 101.0), (100.5, 100.4), (50.0, 49.9)):
        seen = Missed()
        assert told([0.01] * 20, seen=seen)[-1]
        left = [seen.stays_kw(drawn_kw, later_kw, True, READINGS) > 0 for _ in range(20)]
        assert not any(left[OVER_TICKS:])
        assert later_kw == 100.5 or not any(left), "another limit is another matter"
    for share, spent in ((-0.002, True), (0.01, False)):
        seen = Missed()
        assert told([0.01] * 20, seen=seen)[-1]
        assert not any(told([share] * 15, spent=spent, seen=seen)[OVER_TICKS:])


def test_what_was_drawn_on_the_way_down_says_nothing_of_where_a_site_stays():
    """A hard fall, seen late; and a ramp under which the site is all the time, though each reading is above the ceiling
    of a second later."""
    assert not any(told([0.3, 0.25] + [-0.001] * 30))
    seen, kw = Missed(), [100.0 - 0.1 * second for second in range(300)]
    assert not any(seen.stays_kw(ceiling - 0.05, ceiling, True, READINGS) for ceiling in kw)
    seen = Missed()
    assert told([0.01] * 20, seen=seen)[-1]
    assert not any([seen.stays_kw(ceiling - 0.05, ceiling, False, READINGS) for ceiling in kw][OVER_TICKS:])


def test_a_meter_far_above_the_orders_is_told_of_although_it_trembles_and_a_short_surge_is_not():
    def far(shares):
        seen = Missed()
        return [seen.far(100.0 * (1 + share), 100.0) for share in shares]

    assert far([0.5] * 30) == [False] * (OVER_TICKS - 1) + [True] * (31 - OVER_TICKS)
    assert all(far([0.03, 0.03, 0.03, 0.015] * 20)[30:])
    assert not any(far(([0.5] * 5 + [-0.001]) * 10))
    assert not any(far([0.015] * 50))
