"""Meters that tell what was drawn seconds ago: each value is held against the orders of its time, and nothing hunts."""

from dataclasses import replace
from datetime import timedelta

import pytest

from adapters.ports import Reading
from benchmarks.support.old_meter import OldMeter
from benchmarks.support.track import reversals
from optimizer.envelope import event_limit_kw
from scheduler.engine import Moment
from scheduler.hardware import Meters
from scheduler.lagging import bring_up
from scheduler.orders import PoolOrder
from tests.support.loops import START, lab, order

SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
MEAN = "\npower: {type: simulated, sensor_mean: 1s, seed: 3}\n"


class Blind:
    """A meter of pools alone."""

    def __init__(self, meter):
        self._meter = meter

    def read(self):
        return replace(self._meter.read(), import_kw={})


def with_meter(made, wrap):
    """The lab behind another meter."""
    made.parts.ctx = made.ctx = made.facade.ctx = replace(made.ctx, meter=wrap(made.ctx.meter))


@pytest.mark.parametrize("every", [2, 5])
@pytest.mark.parametrize("what", ["sites", "pools", "both"])
def test_an_event_is_met_to_the_kw_and_without_hunting_by_meters_of_seconds_ago(tmp_path, every, what):
    def wrap(meter):
        seen = Blind(meter) if what == "pools" else meter
        return OldMeter(seen, made.clock, every * SECOND, sites=what != "pools", pools=what != "sites")

    with lab(tmp_path, lambda text: text.split("jobs:")[0] + MEAN) as made:
        with_meter(made, wrap)
        made.run(3 * MINUTE)
        start = made.clock.now() + 30 * SECOND
        made.facade.accept(order(start, start + 6 * MINUTE, ramp_in_s=30.0, ramp_out_s=60.0))
        made.run(60 * SECOND)
        (event,) = made.ctx.ledger.active(made.clock.now())
        limit_kw, drawn, caps = event_limit_kw(event, start + MINUTE), [], []
        made.run(4 * MINUTE, watch=lambda tick: (drawn.append(made.hall.reading().import_kw["lab"]),
                                                 caps.append(tick.cap_w["chat"])))  # fmt: skip
        assert max(drawn[15:]) <= limit_kw
        assert min(drawn[15:]) > 0.99 * limit_kw
        assert reversals(caps) == 0


def test_what_is_old_is_moved_by_what_orders_did_since_and_what_was_measured_is_kept(tmp_path):
    with lab(tmp_path, lambda text: text.split("jobs:")[0] + MEAN) as made:
        made.run(MINUTE)
        now, state = made.clock.now(), made.state
        fresh = made.ctx.meter.read()
        half = {pool: PoolOrder(200, held.active_gpus) for pool, held in state.held.items()}
        state.past.append(Moment(now - 2 * SECOND, half, state.it_kw))
        state.held = half
        span = (now - 3 * SECOND, now - 2 * SECOND)
        state.reading = replace(fresh, taken={"chat": span}, import_taken={"lab": span})
        bring_up(made.ctx, state, now)
        assert state.measured.pool_kw == fresh.pool_kw
        moved = state.reading.pool_kw["chat"] - fresh.pool_kw["chat"]
        assert -0.6 * fresh.pool_kw["chat"] < moved < -0.3 * fresh.pool_kw["chat"], "half the cap since then"
        assert state.reading.pool_kw["train"] == fresh.pool_kw["train"], "this one is of now"
        assert state.reading.import_kw["lab"] - fresh.import_kw["lab"] == pytest.approx(moved, rel=0.25)
        state.reading = fresh
        bring_up(made.ctx, state, now)
        assert state.reading == fresh, "nothing is added to what is of this second"


def test_of_several_meters_each_value_keeps_its_own_time():
    class Says:
        def __init__(self, reading):
            self.read = lambda: reading

    old, new = (START - 3 * SECOND, START - 2 * SECOND), (START - 2 * SECOND, START - SECOND)
    cards = Reading(START, {"a": 1.0, "b": 2.0}, {"a": 9.0}, taken={"a": old, "b": old}, import_taken={"a": old})
    later = Reading(START, {"b": 3.0}, {"a": 8.0}, import_taken={"a": new})
    merged = Meters((Says(cards), Says(later))).read()
    assert merged.taken == {"a": old}
    assert merged.import_taken == {"a": new}, "a site may be called as a pool is"


@pytest.mark.parametrize("back_s", [7, 60])
def test_a_clock_that_is_put_back_takes_no_power_off_what_is_measured(tmp_path, back_s):
    with lab(tmp_path, lambda text: text.split("jobs:")[0] + MEAN) as made:
        made.run(2 * MINUTE)
        now = made.clock.now() - back_s * SECOND
        fresh = made.ctx.meter.read()
        made.state.reading = replace(fresh, import_taken={"lab": (now - 3 * SECOND, now - 2 * SECOND)})
        bring_up(made.ctx, made.state, now)
        assert made.state.reading.import_kw == fresh.import_kw
