"""What only NVML has: drivers that reload, boards that limit, cards that hang or hide, a library that isn't there."""

import subprocess
import sys
import threading
from pathlib import Path
from time import perf_counter

import pynvml
import pytest
from pynvml import NVML_ERROR_UNINITIALIZED, NVML_ERROR_UNKNOWN, NVMLError, nvmlDeviceGetPowerUsage

from adapters.meters.sums import PoolSums
from adapters.nvml_session import NvmlSession
from adapters.ports import AdapterError, Lease
from adapters.power.nvml import NvmlPower
from optimizer.reasons import Reason
from tests.support.fake_nvml import HANG_ALL, HANG_SET
from tests.support.power_worlds import fake_machine, wait_until

LEASE = Lease(1, 1, 60.0)
DEADLINE_S = 2.0
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def fake(tmp_path, monkeypatch):
    machine = fake_machine(tmp_path, monkeypatch, count=4)
    yield machine
    machine.set_all(hang=0)


@pytest.fixture
def power(fake):
    made = NvmlPower(DEADLINE_S)
    yield made
    fake.set_all(hang=0)
    made.close()


def caps(fake, watts):
    return {gpu.uuid: watts for gpu in fake.gpus}


def test_a_driver_reload_is_seen_said_and_put_right_by_the_next_order(fake, power):
    power.apply(caps(fake, 300), LEASE)
    fake.reload_driver()
    receipt = power.apply(caps(fake, 300), LEASE)
    assert receipt.failures == {}
    assert fake.limits_w() == caps(fake, 300)
    assert [(note.code, note.subject) for note in receipt.notes] == [(Reason.CAP_DRIFT, gpu) for gpu in caps(fake, 0)]
    assert "700 W" in receipt.notes[0].text
    assert power.apply(caps(fake, 310), LEASE).notes == ()


def test_a_cap_that_resets_itself_is_set_again(fake, power):
    fake.set(1, reset_after_ms=20)
    power.apply(caps(fake, 300), LEASE)
    wait_until(lambda: fake.state(1)["limit_w"] == 700)
    receipt = power.apply(caps(fake, 300), LEASE)
    assert {note.subject for note in receipt.notes} == {fake.gpus[1].uuid}
    assert fake.state(1)["set_calls"] == 2


def test_a_boards_limit_is_no_news_twice_but_a_failure_every_time(fake, power):
    fake.set(0, bmc_w=250)
    for _ in range(2):
        receipt = power.apply(caps(fake, 300), LEASE)
        assert receipt.failures == {fake.gpus[0].uuid: Reason.CAP_DRIFT}
        assert not [note for note in receipt.notes if "had been set" in note.text]
    assert fake.state(0)["set_calls"] == 1


@pytest.mark.parametrize("kind", [HANG_SET, HANG_ALL])
def test_a_hanging_card_costs_one_deadline_once_and_its_late_order_is_dropped(fake, power, kind):
    power.discover()
    fake.set(2, hang=kind)
    started = perf_counter()
    assert power.apply(caps(fake, 300), LEASE).failures == {fake.gpus[2].uuid: Reason.CALL_TIMEOUT}
    assert perf_counter() - started < 2 * DEADLINE_S
    started = perf_counter()
    assert power.apply(caps(fake, 350), LEASE).failures == {fake.gpus[2].uuid: Reason.CALL_TIMEOUT}
    assert perf_counter() - started < DEADLINE_S / 4, "a card known to hang must not be waited for again"
    assert fake.state(0)["limit_w"] == 350
    fake.set(2, hang=0)
    wait_until(lambda: power.apply(caps(fake, 350), LEASE).failures == {})
    # Hung while reading: the old order was never begun. Hung in the set itself: it lands late, and is put right.
    assert fake.state(2)["limit_w"] == 350
    assert fake.state(2)["set_calls"] == (1 if kind == HANG_ALL else 2)


def test_a_card_that_hangs_from_the_start_hides_none_of_the_others(fake, power):
    fake.set(0, hang=HANG_ALL)
    assert list(power.discover()) == [gpu.uuid for gpu in fake.gpus[1:]]
    assert list(power.discover()) == [gpu.uuid for gpu in fake.gpus[1:]]


def test_a_lost_card_comes_back_by_its_uuid(fake, power):
    power.discover()
    fake.set(3, lost=1)
    assert power.apply(caps(fake, 300), LEASE).failures == {fake.gpus[3].uuid: Reason.GPU_LOST}
    fake.bring_back(3)
    assert power.apply(caps(fake, 300), LEASE).failures == {}
    assert fake.limits_w() == caps(fake, 300)


def test_a_card_that_is_away_is_not_discovered(fake, power):
    fake.set(3, lost=1)
    assert list(power.discover()) == [gpu.uuid for gpu in fake.gpus[:3]]


def test_a_driver_that_went_away_is_opened_again(fake, power):
    power.discover()
    fake.header.no_driver = 1
    assert set(power.apply(caps(fake, 300), LEASE).failures.values()) == {Reason.GPU_LOST}
    with pytest.raises(AdapterError, match="driver is not loaded"):
        power.apply(caps(fake, 300), LEASE)
    fake.header.no_driver = 0
    assert power.apply(caps(fake, 300), LEASE).failures == {}


def test_persistence_off_is_said_once_per_discovery_and_mig_is_told(fake, power):
    fake.set(0, persistence=0)
    fake.set(1, mig=1)
    fake.set(2, mig=2)
    infos = power.discover()
    assert [(info.persistence, info.mig) for info in infos.values()] == [
        (False, False), (True, True), (True, False), (True, False),
    ]  # fmt: skip
    assert [note.code for note in power.apply(caps(fake, 300), LEASE).notes] == [Reason.PERSISTENCE_OFF]
    assert power.apply(caps(fake, 310), LEASE).notes == ()
    assert [note.subject for note in power.describe()] == [fake.gpus[0].uuid]


def test_no_permission_says_what_to_do(fake, power):
    fake.set_all(no_permission=1)
    receipt = power.apply(caps(fake, 300), LEASE)
    assert set(receipt.failures.values()) == {Reason.NO_PERMISSION}
    assert "root" in receipt.notes[0].text
    assert "and 3 more" in receipt.notes[0].text


def test_a_look_at_all_cards_takes_one_thread_and_orders_one_each(fake):
    before = {thread.ident for thread in threading.enumerate()}
    session, readers = NvmlSession(60.0), set()  # on a busy machine a reading is slow, and then there may be more
    for _ in range(20):
        made, failures = session.look(session.find(), lambda _gpu, _handle, _turn: threading.get_ident())
        assert failures == {}
        readers.add(frozenset(made.values()))
    assert min(map(len, readers)) == 1
    assert len({thread.ident for thread in threading.enumerate()} - before) <= len(fake.gpus)
    meet = threading.Barrier(4)
    assert sorted(session.each(session.find(), lambda *_: meet.wait(20.0))[0].values()) == [0, 1, 2, 3]
    session.close()


def test_a_card_that_hangs_delays_a_look_at_the_others_once(fake, power):
    gpus = list(power.discover())
    fake.set(0, hang=HANG_ALL)  # the first one to be asked
    assert list(power.enforced(gpus)) == gpus[1:]
    started = perf_counter()
    assert list(power.enforced(gpus)) == gpus[1:]
    assert perf_counter() - started < DEADLINE_S / 4
    fake.set(0, hang=0)
    wait_until(lambda: list(power.enforced(gpus)) == gpus)


def draws(session, fake):
    """Whether each card tells its draw, and what those that don't suffer from."""
    return session.each(
        [gpu.uuid for gpu in fake.gpus], lambda _gpu, handle, _turn: nvmlDeviceGetPowerUsage(handle) > 0
    )


@pytest.fixture
def sessions(fake):
    made = NvmlSession(DEADLINE_S), NvmlSession(DEADLINE_S)
    all_is_well = (dict.fromkeys((gpu.uuid for gpu in fake.gpus), True), {})
    for session in made:
        assert draws(session, fake) == all_is_well
    made[0].all_is_well = all_is_well
    yield made
    for session in made:
        session.close()
    assert fake.header.clients == 0


def test_a_driver_reload_is_survived_by_each_of_two_sessions_any_number_of_times(fake, sessions):
    for reload in range(1, 4):
        fake.reload_driver()
        for session in sessions * 2:
            assert draws(session, fake) == sessions[0].all_is_well
        assert fake.header.inits == 2 * (reload + 1), "each opens it once, and none shuts it down for the other again"
    fake.reload_driver()
    assert sessions[0].find()
    sessions[1].close()  # what it had open is gone, and not the other's
    assert draws(sessions[0], fake) == sessions[0].all_is_well
    assert fake.header.inits == 9


def test_what_one_card_or_one_odd_answer_says_shuts_nothing_down(fake, sessions, monkeypatch):
    """Whoever shut the driver down would lose all limits where persistence mode is off."""
    session, asked = sessions[0], []
    fake.set_all(persistence=0, limit_w=300)

    def odd(gpu, _handle, _turn):
        asked.append(gpu)
        if gpu == fake.gpus[2].uuid and asked.count(gpu) == 1:
            raise NVMLError(NVML_ERROR_UNINITIALIZED)
        return True

    assert session.each([gpu.uuid for gpu in fake.gpus], odd) == session.all_is_well
    assert sorted(asked) == sorted([*(gpu.uuid for gpu in fake.gpus), fake.gpus[2].uuid]), "the others are asked once"
    monkeypatch.setattr("pynvml.nvmlDeviceGetCount", lambda: (_ for _ in ()).throw(NVMLError(NVML_ERROR_UNKNOWN)))
    with pytest.raises(AdapterError):
        session.find()
    monkeypatch.undo()
    assert session.find()
    assert fake.header.inits == 2
    assert set(fake.limits_w().values()) == {300}


def test_a_driver_that_opens_or_shuts_down_slowly_costs_no_more_than_the_deadline(fake, sessions, monkeypatch):
    init, let = pynvml.nvmlInit, threading.Event()
    monkeypatch.setattr("pynvml.nvmlInit", lambda: (let.wait(30), init()))
    fake.reload_driver()
    started = perf_counter()
    assert set(draws(sessions[0], fake)[1].values()) == {Reason.GPU_LOST}
    assert perf_counter() - started < DEADLINE_S
    let.set()
    wait_until(lambda: fake.header.inits == 3)
    assert draws(sessions[0], fake) == sessions[0].all_is_well
    stuck = threading.Event()
    shutdown = pynvml.nvmlShutdown
    monkeypatch.setattr("pynvml.nvmlShutdown", lambda: (stuck.wait(30), shutdown()))
    started = perf_counter()
    sessions[0].close()
    assert perf_counter() - started < 2 * DEADLINE_S
    stuck.set()
    wait_until(lambda: fake.header.clients <= 1)


def test_a_session_that_is_closed_while_the_driver_opens_leaves_nothing_open(fake, monkeypatch):
    init, begun, let = pynvml.nvmlInit, threading.Event(), threading.Event()
    monkeypatch.setattr("pynvml.nvmlInit", lambda: (begun.set(), let.wait(30), init()))
    session = NvmlSession(0.2)
    monkeypatch.setattr("adapters.nvml_session.OPENING_S", 0.2)
    with pytest.raises(AdapterError, match="did not say"):
        session.find()
    session.close()
    let.set()
    wait_until(lambda: fake.header.inits == 1)
    wait_until(lambda: fake.header.clients == 0)


def test_two_sessions_live_side_by_side(fake):
    first, second = NvmlSession(DEADLINE_S), NvmlSession(DEADLINE_S)
    assert first.find() == second.find()
    first.close()
    assert second.each(second.find(), lambda gpu, _handle, _turn: gpu)[1] == {}
    second.close()


def test_without_a_library_the_error_says_what_to_do_and_nothing_is_simulated(tmp_path):
    (tmp_path / "libnvidia-ml.so.1").touch()  # hides a real one, should this machine have it
    code = "from adapters.power.nvml import NvmlPower; NvmlPower().discover()"
    run = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        cwd=ROOT,
        env={"LD_LIBRARY_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert "AdapterError: NVML: libnvidia-ml.so.1 was not found. Install the NVIDIA driver" in run.stderr


def test_energy_survives_a_counter_that_starts_again():
    sums = PoolSums({"a": "p", "b": "p"})
    assert sums.energy_kwh({"a": 1000.0, "b": 5.0}) == {"p": 0.0}
    assert sums.energy_kwh({"a": 1001.0}) == {"p": 1.0}
    assert sums.energy_kwh({"a": 0.5, "b": 6.0}) == {"p": 2.5}
