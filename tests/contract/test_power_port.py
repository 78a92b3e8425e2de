"""What every power actuator must do, whatever stands behind it: simulated GPUs, NVML, the node agent, a
management controller, AMD SMI, zeusd."""

from time import perf_counter

import pytest

from adapters.ports import AdapterError, Lease, LimitReader
from optimizer.reasons import Reason
from tests.support.power_worlds import DEADLINE_S, power_world, wait_until

FAULTS = [Reason.GPU_LOST, Reason.NO_PERMISSION, Reason.CAP_REFUSED, Reason.CALL_TIMEOUT]


@pytest.fixture(params=["simulated", "nvml", "agent", "fleet", "redfish", "amdsmi", "zeusd"])
def world(request, tmp_path, monkeypatch):
    with power_world(request.param, tmp_path, monkeypatch) as made:
        yield made


def lease(sequence=1):
    return Lease(1, sequence, 60.0)


def test_discover_tells_what_the_card_says(world):
    found = world.actuator.discover()
    assert list(found) == world.gpus
    info = found[world.gpus[0]]
    assert (info.min_w, info.max_w, info.default_w, info.limit_w, info.enforced_w) == (200, 700, 700, 700, 700)
    assert info.draw_w == pytest.approx(650, abs=1)
    assert (info.persistence, info.mig) == (True, False)
    assert info.model


def test_a_cap_is_set_and_the_enforced_one_read_back(world):
    caps = {gpu: 300 + place for place, gpu in enumerate(world.gpus)}
    receipt = world.actuator.apply(caps, lease())
    assert receipt.failures == {}
    assert receipt.enforced_w == pytest.approx(caps)
    assert world.truth() == pytest.approx(caps)
    assert receipt.seconds < 5


def test_a_cap_outside_the_range_is_clamped_and_said(world):
    low, high, fine = world.gpus[:3]
    receipt = world.actuator.apply({low: 50, high: 5000, fine: 400}, lease())
    assert receipt.enforced_w == {low: 200, high: 700, fine: 400}
    assert receipt.failures == {}
    assert {(note.code, note.subject) for note in receipt.notes} == {
        (Reason.CAP_CLAMPED, low),
        (Reason.CAP_CLAMPED, high),
    }


def test_an_unknown_gpu_fails_alone(world):
    receipt = world.actuator.apply({"GPU-nowhere": 300, world.gpus[0]: 300}, lease())
    assert receipt.failures == {"GPU-nowhere": Reason.GPU_LOST}
    assert receipt.enforced_w == {world.gpus[0]: 300}


@pytest.mark.parametrize("reason", FAULTS)
def test_a_bad_gpu_is_named_and_never_stops_the_others(world, reason):
    world.actuator.discover()
    bad, *good = world.gpus
    world.fail(bad, reason)
    started = perf_counter()
    receipt = world.actuator.apply(dict.fromkeys(world.gpus, 350), lease())
    assert perf_counter() - started < 2 * DEADLINE_S
    assert receipt.failures == {bad: reason}
    assert receipt.enforced_w == dict.fromkeys(good, 350)
    assert bad in {note.subject for note in receipt.notes}


def test_a_limit_set_behind_the_driver_shows_as_drift(world):
    drifting = world.gpus[2]
    world.board(drifting, 500)
    receipt = world.actuator.apply(dict.fromkeys(world.gpus, 600), lease())
    assert receipt.failures == {drifting: Reason.CAP_DRIFT}
    assert receipt.enforced_w[drifting] == 500
    assert world.actuator.discover()[drifting].limit_w == (600 if world.tells_requested else 500)


def test_release_restores_exactly_what_was_found(world):
    found = {gpu: 650.0 + place for place, gpu in enumerate(world.gpus)}
    if world.fake is None:
        world.actuator.release(found)
    else:
        found[world.gpus[0]] = 612.345
        for gpu, limit in found.items():
            world.fake.set(gpu, limit_w=limit)
    before = {gpu: info.limit_w for gpu, info in world.actuator.discover().items()}
    assert before == pytest.approx(found)
    world.actuator.apply(dict.fromkeys(world.gpus, 300), lease())
    receipt = world.actuator.release(before)
    assert receipt.failures == {}
    assert receipt.enforced_w == pytest.approx(before, abs=1e-9)
    assert world.truth() == pytest.approx(found, abs=1e-9)


# ---------------------------------------------------------------- who tells limits every second
READERS = pytest.mark.parametrize("world", ["simulated", "nvml", "fleet", "redfish", "amdsmi", "zeusd"], indirect=True)


def test_all_but_the_agent_say_that_they_tell_limits(world, request):
    assert isinstance(world.actuator, LimitReader) == (request.node.callspec.params["world"] != "agent")


@READERS
def test_limits_are_told_as_they_are_read_back(world):
    caps = {gpu: 300 + place for place, gpu in enumerate(world.gpus)}
    world.actuator.apply(caps, lease())
    wait_until(lambda: world.actuator.enforced(world.gpus) == pytest.approx(caps))
    raised, asked = world.gpus[3], world.gpus[2:5]
    world.write(raised, 650.0)
    if "fleet" not in type(world.actuator).__module__:  # its node sets it again at once
        wait_until(lambda: world.actuator.enforced(asked)[raised] == 650.0)
    assert list(world.actuator.enforced(asked)) == asked, "nobody else's"
    assert world.actuator.enforced(()) == {}


@READERS
def test_a_card_that_does_not_answer_has_no_limit_and_none_of_them_is_an_error(world):
    world.actuator.apply(dict.fromkeys(world.gpus, 300), lease())
    lost, *others = world.gpus
    world.fail(lost, Reason.GPU_LOST)
    wait_until(lambda: world.actuator.enforced(world.gpus) == dict.fromkeys(others, 300.0))
    for gpu in others:
        world.fail(gpu, Reason.GPU_LOST)
    wait_until(lambda: _refused(world))


def _refused(world):
    try:
        world.actuator.enforced(world.gpus)
    except AdapterError as error:
        return str(error)
    return ""


def test_an_empty_order_is_no_error(world):
    receipt = world.actuator.apply({}, lease())
    assert (receipt.enforced_w, receipt.failures) == ({}, {})


@pytest.mark.parametrize("world", ["nvml", "agent", "fleet"], indirect=True)
def test_cards_are_served_at_the_same_time(world):
    world.fake.set_all(latency_ms=30)
    assert world.actuator.apply(dict.fromkeys(world.gpus, 300), lease()).failures == {}
    assert world.fake.header.most_in_flight == len(world.gpus)


@pytest.mark.parametrize("world", ["nvml", "agent", "fleet"], indirect=True)
def test_an_order_in_force_is_not_written_again(world):
    for sequence in range(3):
        world.actuator.apply(dict.fromkeys(world.gpus, 300), lease(sequence))
    assert [world.fake.state(gpu)["set_calls"] for gpu in world.gpus] == [1] * 8
