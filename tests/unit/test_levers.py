"""Which lever moves power: limits where they bind, clocks where they don't, and floors under both."""

from dataclasses import replace

import pytest

from optimizer.curves import cap_for_throughput
from optimizer.domain import CurvePoint, GpuPool, PowerCurve, Work
from scheduler.levers import TICKS, Clocked, Levers
from scheduler.safety import floor_cap_w

CURVE = PowerCurve("test", 75.0, (CurvePoint(200, 190, 0.5), CurvePoint(400, 390, 0.9), CurvePoint(700, 650, 1.0)))
POOL = GpuPool("serve", "north", "H100", 8, Work.INTERACTIVE, CURVE, 2.0, 0.9, 200.0, 700.0)
RANGE = (210, 1980)


def seen(levers, draws, cap_w=700.0, mhz=None):
    return [levers.see(POOL, 200.0, draw_w, cap_w, mhz) for draw_w in draws]


def test_a_draw_below_the_lowest_limit_is_moved_by_clocks_after_some_ticks_and_not_by_a_dip():
    levers = Levers({"serve": RANGE})
    assert not any(seen(levers, [170.0] * (TICKS - 1) + [400.0] + [170.0] * (TICKS - 1)))
    assert seen(levers, [170.0]) == [True]
    assert levers.clocked["serve"].full_w == 170.0


def test_a_limit_that_was_accepted_and_moves_nothing_is_given_up():
    levers = Levers({"serve": RANGE})
    assert any(seen(levers, [420.0] * TICKS, cap_w=300.0))


@pytest.mark.parametrize("draw_w", [None, 80.0, 600.0])
def test_what_nobody_knows_what_idles_and_what_limits_move_stay_with_limits(draw_w):
    levers = Levers({"serve": RANGE})
    assert not any(seen(levers, [draw_w] * (3 * TICKS)))


def test_a_pool_that_may_not_be_locked_never_is():
    assert not any(seen(Levers({}), [150.0] * (3 * TICKS)))


def test_heavy_work_at_free_clocks_brings_limits_back_and_locked_clocks_never_do():
    levers = Levers({"serve": RANGE})
    seen(levers, [170.0] * TICKS)
    seen(levers, [130.0] * (5 * TICKS), mhz=1200)
    assert "serve" in levers.clocked
    assert any(seen(levers, [450.0] * TICKS))
    assert levers.clocked == {}


@pytest.mark.parametrize("floor", [0.5, 0.75, 0.9, 0.95])
def test_a_floor_holds_under_clocks(floor):
    held = Clocked(*RANGE, full_w=180.0)
    pool = held.pool(replace(POOL, floor=floor))
    mhz = held.mhz(75.0, floor_cap_w(pool))
    assert mhz is None or mhz / RANGE[1] >= floor
    assert cap_for_throughput(pool.curve, 1.0) >= 180


def test_orders_become_clocks_and_clocks_what_was_ordered():
    held = Clocked(*RANGE, full_w=260.0, follows=0.7)
    for order_w in (150, 170, 200, 250):
        mhz = held.mhz(75.0, order_w)
        if mhz > held.lowest * RANGE[1] + 1:
            assert held.draw_w(75.0, mhz / RANGE[1]) == pytest.approx(order_w, rel=0.002)
    assert held.mhz(75.0, 260) is None
    assert replace(held, full_w=259.9).mhz(75.0, 259) is None
    assert held.mhz(75.0, 76) == pytest.approx(0.4 * 1980, abs=1)


def test_how_much_of_the_draw_follows_is_learned():
    true, levers = Clocked(*RANGE, full_w=180.0, follows=0.85), Levers({"serve": RANGE})
    seen(levers, [180.0] * TICKS)
    seen(levers, [true.draw_w(75.0, 1188 / 1980)] * 150, mhz=1188)
    assert levers.clocked["serve"].follows == pytest.approx(0.85, abs=0.01)
