"""The power sensors of simulated cards that tell the mean of the last second, as NVIDIA's do from Ampere on."""

from __future__ import annotations

import numpy as np
import pytest

from adapters.hall_sensors import Sensors
from adapters.hall_state import HallPhysics
from adapters.meters.simulated import SimulatedMeter
from adapters.power.simulated import SimulatedPower
from tests.unit.test_hall import LEASE, caps, hall_of, pool


def test_a_step_is_told_in_a_straight_line_over_the_window():
    clock, hall = hall_of(pool(), physics=HallPhysics(settle_down_s=0.003, sensor_s=1.0))
    power, meter = SimulatedPower(hall), SimulatedMeter(hall)
    clock.sleep(5)
    before = meter.read()
    power.apply(caps(hall, 200), LEASE)
    told = []
    for _ in range(12):
        clock.sleep(0.1)
        told.append(meter.read())
    fall = before.pool_kw["serve"] - told[-1].pool_kw["serve"]
    assert fall > 0.1 * before.pool_kw["serve"]
    shares = [(before.pool_kw["serve"] - reading.pool_kw["serve"]) / fall for reading in told]
    assert shares == pytest.approx([0.1 * (k + 1) for k in range(10)] + [1.0, 1.0], abs=0.02)
    assert told[0].import_kw["north"] == pytest.approx(
        told[-1].import_kw["north"], rel=1e-6
    )  # the site's meter is no card


def test_every_way_to_ask_tells_the_same():
    clock, hall = hall_of(pool(), physics=HallPhysics(sensor_s=1.0))
    clock.sleep(5)
    SimulatedPower(hall).apply(caps(hall, 200), LEASE)
    clock.sleep(0.25)
    told_kw = SimulatedMeter(hall).read().pool_kw["serve"]
    assert sum(info.draw_w for info in hall.infos().values()) / 1000 == pytest.approx(told_kw)
    assert hall.columns().draw_w.sum() / 1000 == pytest.approx(told_kw)
    clock.sleep(5)
    assert SimulatedMeter(hall).read().pool_kw["serve"] < 0.97 * told_kw


@pytest.mark.parametrize("step_s", [0.05, 0.3, 0.7, 1.0, 4.0])
def test_the_mean_is_of_the_window_however_long_the_steps(step_s):

    sensors, watts = Sensors(1.0), np.array([100.0, 400.0])
    for _ in range(200):
        sensors.ran(step_s, watts * step_s)
        assert sensors.told_w(watts) == pytest.approx(watts)
    for _ in range(round(1.0 / step_s + 1)):
        sensors.ran(step_s, 2 * watts * step_s)
    assert sensors.told_w(watts) == pytest.approx(2 * watts)
