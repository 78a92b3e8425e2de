"""What every meter must do: tell power and energy per pool, name what it can't read, and never call it zero."""

from datetime import UTC, datetime

import pytest

from adapters.ports import AdapterError, CardMeter, Lease
from optimizer.reasons import Reason
from tests.support.power_worlds import meter_world, wait_until


@pytest.fixture(params=["simulated", "nvml", "agent", "fleet", "prometheus"])
def pair(request, tmp_path, monkeypatch):
    with meter_world(request.param, tmp_path, monkeypatch) as made:
        yield made


def let_pass(world, seconds):
    if world.fake is None:
        world.actuator.hall.clock.sleep(seconds)
    else:
        before = world.fake.state(0)["energy_j"]
        wait_until(lambda: world.fake.state(0)["energy_j"] > before + seconds * 100)


def test_it_reads_the_pools_power(pair):
    meter, _ = pair
    reading = meter.read()
    assert reading.pool_kw == pytest.approx({"serve": 8 * 0.65}, rel=1e-3)
    assert reading.lost == ()
    assert reading.at.tzinfo is UTC
    assert reading.taken.keys() <= reading.pool_kw.keys()
    assert all(begins < ends <= datetime.now(UTC) for begins, ends in reading.taken.values())


def test_it_tells_how_many_gpus_work(pair):
    meter, world = pair
    assert meter.read().busy_gpus == pytest.approx({"serve": 8.0})
    if world.fake is not None:
        world.fake.set_all(busy_percent=25)
        assert meter.read().busy_gpus == pytest.approx({"serve": 2.0})
        for gpu in range(2):
            world.fake.set(gpu, no_utilisation=1)
        assert meter.read().busy_gpus == {}, "three quarters of a pool are not the pool"


def test_power_follows_the_cap(pair):
    meter, world = pair
    meter.read()
    world.actuator.apply(dict.fromkeys(world.gpus, 200), Lease(1, 1, 60))
    let_pass(world, 1.0)
    assert meter.read().pool_kw["serve"] == pytest.approx(8 * 0.195, rel=0.03)


@pytest.mark.parametrize("pair", ["simulated", "nvml", "prometheus"], indirect=True)
def test_energy_counts_up_by_the_power_drawn(pair):
    meter, world = pair
    first = meter.read()
    let_pass(world, 1.0)
    second = meter.read()
    hours = (second.at - first.at).total_seconds() / 3600
    grown = second.energy_kwh["serve"] - first.energy_kwh["serve"]
    assert grown == pytest.approx(8 * 0.65 * hours, rel=0.2)
    assert meter.read().energy_kwh["serve"] >= second.energy_kwh["serve"]


def test_a_lost_gpu_is_named_and_not_counted_as_zero(pair):
    meter, world = pair
    meter.read()
    world.fail(world.gpus[5], Reason.GPU_LOST)
    reading = meter.read()
    assert reading.lost == (world.gpus[5],)
    assert reading.pool_kw == pytest.approx({"serve": 8 * 0.65}, rel=1e-3)


def test_a_pool_of_which_too_little_is_seen_is_named_instead_of_guessed(pair):
    meter, world = pair
    meter.read()
    for gpu in world.gpus[:2]:
        world.fail(gpu, Reason.GPU_LOST)
    reading = meter.read()
    assert "serve" not in reading.pool_kw
    assert set(reading.lost) == {"serve", *world.gpus[:2]}


def test_with_nothing_left_to_read_it_says_so(tmp_path, monkeypatch):
    with meter_world("nvml", tmp_path, monkeypatch) as (meter, world):
        meter.read()
        world.fake.set_all(lost=1)
        with pytest.raises(AdapterError, match="gpu_lost"):
            meter.read()


def test_whoever_reads_cards_knows_what_each_of_them_drew(pair, request):
    meter, _ = pair
    assert isinstance(meter, CardMeter) == (request.node.callspec.params["pair"] != "prometheus")
    if isinstance(meter, CardMeter):
        meter.read()
        assert list(meter.cards().values()) == pytest.approx([650.0] * 8, rel=1e-3)
