"""What loads do in the next second: go on as they went, turn, or come back; and what each of these costs in room."""

from collections import deque
from datetime import timedelta

import pytest

from optimizer.curves import draw_at_cap
from optimizer.domain import Work
from scheduler.engine import State
from scheduler.orders import PoolOrder
from scheduler.predict import coming_kw, it_kw, missing_kw, quiet_kw
from scheduler.surprise import BUCKET_TICKS, BUCKETS, Highest, Surprises
from scheduler.trim import still
from tests.support.loops import lab
from tests.support.problems import pool

CAP_KW, LEAST = 100.0, 0.003


def lived(*drawn_kw, aimed_kw=99.0):
    """A site that was held to `aimed_kw`, and drew this in one second after the other."""
    loads = Surprises()
    for kw in drawn_kw:
        loads.see(kw)
        loads.surge_kw(kw, aimed_kw)
        loads.aim(aimed_kw, aimed_kw, kw)
    return loads


def test_a_rise_goes_on_from_its_first_second_and_its_end_is_seen_at_once():
    """Smoothed loads are half a second behind: a rise of 0.6 shows as 0.3 above the model in its first second."""
    loads = Surprises()
    allowed = []
    for drawn_kw, modelled_kw, ordered_kw in ((99.0, 99.0, 99.0), (99.6, 99.3, 98.4), (99.0, 98.7, 98.7)):
        allowed.append(loads.surge_kw(drawn_kw, modelled_kw))
        loads.aim(99.0, ordered_kw, drawn_kw)
    assert allowed == pytest.approx([0.0, 0.3 + 0.6, 0.3 + 0.3])


def test_a_rise_of_our_own_that_comes_out_larger_is_allowed_for_like_the_loads():
    """Two kW were ordered on a curve that is too flat by a fifth, or users came: nobody can tell in that second."""
    loads = Surprises()
    loads.surge_kw(97.3, 97.3)
    loads.aim(99.5, 98.9, 97.3)
    allowed_kw = loads.surge_kw(99.3, 99.0)
    assert loads.rising
    assert allowed_kw == pytest.approx((99.3 - 99.0) + (99.3 - 98.9))


def test_a_rise_goes_on_while_pools_say_so_though_our_own_orders_bring_the_meter_down():
    """Caps came down by more than was modelled: the meter shows less than expected, and users still come."""
    allowed = []
    for adds_kw in (0.0, 0.5, 5.0):
        loads = Surprises()
        for drawn_kw, modelled_kw, ordered_kw in ((99.0, 99.0, 99.0), (99.6, 99.3, 98.4)):
            loads.surge_kw(drawn_kw, modelled_kw)
            loads.aim(99.0, ordered_kw, drawn_kw)
        allowed.append(loads.surge_kw(98.5, 98.4, adds_kw))
        assert loads.rising == (adds_kw > 0.0)
    assert allowed == pytest.approx([0.1, 0.1 + 0.5, 0.1 + 0.6]), "no faster than the meter saw it go"


def test_a_rise_that_our_own_orders_hide_from_the_meter_begins_with_the_pools_readings():
    """0.4 kW were taken off and came out larger, while users came: for the meter nothing rose. A pool's broken sensor
    makes no more of it than was taken off, and nothing where nothing was."""
    allowed = []
    for ordered_kw, adds_kw in ((98.6, 0.3), (98.6, 5.0), (98.6, 0.0), (99.0, 5.0), (99.2, 5.0)):
        loads = Surprises()
        loads.surge_kw(99.0, 99.0)
        loads.aim(99.0, ordered_kw, 99.0)
        allowed.append(loads.surge_kw(ordered_kw, ordered_kw, adds_kw))
    assert allowed == pytest.approx([0.3, 0.4, 0.0, 0.0, 0.0])


@pytest.mark.parametrize(("before", "stands"), [(40.0, True), (39.0, False)])
def test_caps_that_stand_still_take_of_the_margin_only_while_no_load_rises(before, stands):
    """Half a margin of 0.3 % is 0.15 % above the target: to stand there needs no order, and room for no users."""
    chat, state = pool("chat", count=64), State()
    state.busy["chat"], state.loads["chat"] = 40.0, deque([before, 40.0])
    state.held["chat"] = PoolOrder(300, 64)
    target_kw = it_kw(state, [chat], state.held) / 1.001
    orders = {"chat": PoolOrder(299, 64)}
    assert (still(state, [chat], orders, target_kw, LEAST) == state.held) is stands


def test_what_comes_is_what_users_add_and_falls_take_nothing_off():
    state, pools = State(), [pool("chat", count=64), pool("ask", count=64), pool("jobs", Work.BATCH, count=64)]
    for name, before, now in (("chat", 20.0, 22.0), ("ask", 22.0, 20.0), ("jobs", 20.0, 40.0)):
        state.loads[name] = deque([before, now])
    each_w = draw_at_cap(pools[0].curve, pools[0].max_cap_w) - pools[0].curve.idle_w
    assert coming_kw(state, pools) == pytest.approx(2.0 * each_w / 1000.0)


def test_a_fall_is_room_at_once_and_a_meter_that_is_broken_is_not():
    loads = Surprises()
    loads.surge_kw(100.0, 100.0)
    assert loads.ebb_kw == 0.0
    assert loads.surge_kw(99.2, 100.0) == 0.0
    assert loads.ebb_kw == pytest.approx(0.8)
    loads.surge_kw(10.0, 100.0)
    assert loads.ebb_kw == pytest.approx(0.2), "no load falls by more than this in a second"
    for _ in range(12):
        loads.surge_kw(90.0, 100.0)
    assert loads.ebb_kw == 0.0, "what stays is a meter that is off, and no room"


def test_what_the_model_lags_behind_is_allowed_for_and_a_meter_that_is_off_by_more_is_not():
    """Cooling that follows a rise shows for as long as it does; a meter of twice the power is no load."""
    lags, off = Surprises(), Surprises()
    for _ in range(12):
        lags.surge_kw(100.4, 100.0)
        off.surge_kw(200.0, 100.0)
    assert lags.surge_kw(100.4, 100.0) == pytest.approx(0.4)
    assert off.surge_kw(200.0, 100.0) == pytest.approx(0.02 * 200.0)


def test_a_load_that_rises_needs_less_margin_than_one_that_may_turn():
    turned = lived(99.0, 99.0, 98.7, 99.5)
    assert turned.rising
    assert turned.margin_kw(CAP_KW, LEAST) == pytest.approx(0.3), "nothing came on top of a rise yet"
    stands = lived(99.0, 99.0, 98.7, 99.5, 99.4)
    assert not stands.rising
    assert stands.margin_kw(CAP_KW, LEAST) == pytest.approx(1.4 * 0.5)
    faster = lived(99.0, 99.4, 99.8)
    assert faster.rising
    assert faster.margin_kw(CAP_KW, LEAST) == pytest.approx(1.0), "1.4 * 0.8 is more than the most"


def test_while_users_of_one_pool_come_those_of_others_may_turn():
    """The margin is that of a load that stands, as far as anybody is missing where nothing rises."""
    turned = lived(99.0, 99.0, 98.7, 99.5)
    margins = []
    for still_kw in (0.0, 0.4, 5.0):
        turned.onset_kw(8.0, CAP_KW, still_kw)
        margins.append(turned.margin_kw(CAP_KW, LEAST))
    assert margins == pytest.approx([0.3, 0.4, 1.4 * 0.5])


def test_a_pool_is_quiet_while_its_load_does_not_rise():
    state, pools = State(), [pool("chat", count=64), pool("ask", count=64)]
    for name, before, now in (("chat", 20.0, 20.1), ("ask", 20.0, 22.0)):
        state.tops[name] = Highest()
        state.tops[name].see(40.0)
        state.loads[name], state.busy[name] = deque([before, now]), now
    missing_w = (40.0 - 20.1) * (draw_at_cap(pools[0].curve, pools[0].max_cap_w) - pools[0].curve.idle_w)
    assert quiet_kw(state, pools) == pytest.approx(missing_w / 1000.0)
    state.loads["ask"].append(22.1)
    assert quiet_kw(state, pools) == pytest.approx(missing_kw(state, pools)), "it has come to rest"


def test_room_for_users_who_are_not_there_is_kept_the_more_the_larger_the_bursts():
    for drawn_kw, kept_kw in ((99.5, 0.05 * 20.0), (99.0 + 1.5 * 1.0 / 1.4, 0.055 * 20.0), (105.0, 0.06 * 20.0)):
        loads = lived(99.0, drawn_kw, 99.0)
        assert loads.onset_kw(20.0, CAP_KW) == pytest.approx(kept_kw)
        assert loads.onset_kw(0.0, CAP_KW) == 0.0
        assert loads.onset_kw(20.0, float("inf")) == pytest.approx(0.05 * 20.0)
    coming = lived(99.0, 99.35, 99.7)
    assert coming.rising
    assert coming.onset_kw(20.0, CAP_KW) == pytest.approx(0.05 * 20.0), "of another pool they may come as well"


def test_bursts_that_left_the_site_alone_for_a_while_are_not_forgotten_at_once():
    loads = lived(99.0, 99.5, 99.0)
    margins = []
    for minutes in (1, 10, 49):
        for _ in range(minutes * BUCKET_TICKS):
            loads.see(98.9)
        margins.append(loads.margin_kw(CAP_KW, LEAST))
    assert margins == pytest.approx([1.4 * 0.5, 0.9 * 0.5, 0.3])


def test_loads_surprise_without_a_ceiling_too():
    loads = Surprises()
    for drawn_kw in (99.0, 99.5):
        loads.see(drawn_kw)
        loads.surge_kw(drawn_kw, 99.0)
        loads.aim(float("inf"), 99.0, drawn_kw)
    loads.surge_kw(99.0, 99.0)
    assert loads.margin_kw(CAP_KW, LEAST) == pytest.approx(0.7)


def test_the_highest_is_forgotten_after_ten_minutes():
    row = Highest()
    row.see(3.0)
    for _ in range(BUCKET_TICKS * (BUCKETS - 1)):
        row.see(1.0)
    assert row.value == 3.0
    for _ in range(BUCKET_TICKS):
        row.see(-1.0)
    assert row.value == 1.0


def test_a_tick_that_comes_late_or_early_teaches_nothing(tmp_path):
    """A load that rises by as much in four seconds as it never does in one, or power that is still on its way."""
    with lab(tmp_path, lambda text: text + "\npower: {type: simulated, load_noise: 0.05, seed: 3}\n") as made:
        margins = []
        for seconds, step_s in ((180, 4), (20, 0.2), (30, 1)):
            made.run(timedelta(seconds=seconds), step_s=step_s)
            loads = made.state.surprises["lab"]
            loads.rising = False
            margins.append(loads.margin_kw(40.0, 0.0))
        assert margins[0] == margins[1] == 0.0 < margins[2]
