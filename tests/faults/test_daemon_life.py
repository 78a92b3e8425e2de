"""The life of the real daemon: one at a time, reloads, stops, what it tells systemd, and every bad start."""

import json
import resource
import signal
import socket
import sqlite3
import threading
import time
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from scheduler.store.store import Store
from tests.support.daemon import Machine

pytestmark = pytest.mark.xdist_group("daemon-life")
HANG_ALL = 2


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One daemon for the tests that leave it as it was."""
    machine = Machine(tmp_path_factory.mktemp("shared"))
    life = machine.start()
    yield life.ready()
    machine.close()


@pytest.fixture
def machine(tmp_path):
    """One whose site may draw so little that the first tick caps it."""
    made = Machine(tmp_path, limit=4.5)
    yield made
    made.close()


def lines_of(life):
    return len(life.lines())


def state_of(life, event_id):
    return next(event["state"] for event in life.get("/api/v1/events")["events"] if event["id"] == event_id)


def jobs_of(life):
    return {job["id"]: job for job in life.get("/api/v1/jobs")["jobs"]}


def in_utc(**later):
    return (datetime.now(UTC) + timedelta(**later)).isoformat()


# ---------------------------------------------------------------- one daemon that lives
def test_ready_comes_after_the_first_plan_and_the_status_line_says_how_it_goes(shared):
    told = [said for _, said in shared.told]
    first = next(number for number, said in enumerate(told) if "READY=1" in said)
    assert "STATUS=control · lab" in told[first]
    assert "plan optimum" in told[first]
    assert not any("STATUS=" in said for said in told[:first])
    assert shared.get("/api/v1/health")["ok"]


def test_a_second_daemon_is_told_who_runs_and_changes_nothing(shared):
    before = shared.machine.fake.limits_w()
    second = shared.machine.start(text=True)
    assert second.process.wait(30) == 3
    text = second.log.read_text()
    assert f"another gridpace is running as process {shared.process.pid}" in text
    assert "Traceback" not in text
    assert shared.process.poll() is None
    assert shared.machine.fake.limits_w() == before


def test_a_wrong_config_is_refused_with_its_line_and_the_old_one_stays(shared):
    machine, seen, told = shared.machine, lines_of(shared), len(shared.told)
    good = machine.path.read_text()
    try:
        machine.path.write_text(good.replace("limit_kw: 100", "limit_kW: 4"))
        shared.process.send_signal(signal.SIGHUP)
        line = shared.wait(lambda: shared.said("reload refused", seen))
        number = good[: good.index("limit_kw: 100")].count("\n") + 1
        assert f"gridpace.yaml:{number}: sites[0].limit_kW" in line["problems"]
        shared.wait(lambda: any("READY=1" in said for _, said in shared.told[told:]))
        assert any("RELOADING=1" in said for _, said in shared.told[told:])
        assert shared.get("/api/v1/status")["tick"]["limit_kw"] == {"lab": 100}
    finally:
        machine.path.write_text(good)


@contextmanager
def watched(fake):
    """The highest sum of all limits while the block runs, in W."""
    stop, seen = threading.Event(), []

    def watch():
        while not stop.wait(0.003):
            seen.append(sum(fake.limits_w().values()))

    thread = threading.Thread(target=watch)
    thread.start()
    yield seen
    stop.set()
    thread.join()


def test_a_reload_in_the_middle_of_an_event_takes_effect_and_lets_no_cap_go(shared):
    machine, fake, seen = shared.machine, shared.machine.fake, lines_of(shared)
    try:
        assert shared.event(id="reload", duration="PT30M", limit_kw=4.5)[1]["opt"] == "in"
        shared.wait(lambda: shared.get("/api/v1/status")["tick"]["import_kw"]["lab"] < 4.5)
        capped = sum(fake.limits_w().values())
        machine.configure(limit=3.6)
        with watched(fake) as sums:
            shared.process.send_signal(signal.SIGHUP)
            shared.wait(lambda: shared.said("reloaded", seen))
            shared.serving().wait(lambda: shared.get("/api/v1/status")["tick"]["import_kw"]["lab"] < 3.6)
        assert max(sums) <= capped * 1.02, "caps were let go during the reload"
        assert state_of(shared, "reload") == "active"
        reconciled = shared.said("reconciled", seen)
        assert reconciled["outstanding_gpus"] == 8
        assert not any(
            "did not stop in order" in note["text"] for note in shared.get("/api/v1/status")["cycle"]["notes"]
        )
    finally:
        machine.configure(limit=100)
        shared.event(id="reload", version=2, cancelled=True)
        seen = lines_of(shared)
        shared.process.send_signal(signal.SIGHUP)
        shared.wait(lambda: shared.said("reloaded", seen))
    shared.serving().wait(lambda: fake.limits_w() == machine.first)


def test_a_config_that_is_right_but_cannot_run_brings_the_old_one_back(shared):
    machine, seen, told = shared.machine, lines_of(shared), len(shared.told)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = machine.fields["port"]
        machine.configure(port=taken.getsockname()[1])
        shared.process.send_signal(signal.SIGHUP)
        line = shared.wait(lambda: shared.said("the new config can't run", seen))
        machine.configure(port=port)
    assert "cannot listen" in line["exception"]
    shared.wait(lambda: any("READY=1" in said for _, said in shared.told[told:]))
    shared.serving()
    notes = shared.get("/api/v1/status")["cycle"]["notes"]
    assert any("reload failed: api: cannot listen" in note["text"] for note in notes)


def test_the_watchdog_hears_finished_ticks_only_and_a_lost_meter_is_an_alert(shared):
    """Calls of the driver have deadlines, so ticks go on over cards that hang; but the one that waits says nothing."""
    fake = shared.machine.fake
    hung = time.monotonic()
    try:
        fake.set_all(hang=HANG_ALL)

        def lost():
            return any(note["code"] == "meter_lost" for note in shared.get("/api/v1/status")["tick"]["notes"])

        shared.wait(lost)
        beats = [at for at, said in shared.told if "WATCHDOG=1" in said and at > hung]
        assert beats[0] - hung < 0.6 or beats[0] - hung > 1.2  # the tick under way may have been done with its calls
        gaps = [after - before for before, after in zip([hung, *beats], beats, strict=False)]
        assert max(gaps) > 1.2, "the watchdog was fed while the tick hung"
    finally:
        fake.set_all(hang=0)
    shared.wait(lambda: not lost())
    assert shared.get("/api/v1/health")["ok"]


def test_a_full_disk_stops_acknowledgements_and_not_control(shared):
    """An event that was acknowledged before begins while nothing can be written: it is delivered, jobs and all:
    its limit is below what caps alone can reach."""
    fake, pid = shared.machine.fake, shared.process.pid
    unlimited = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    job = {"id": "busy", "pool": "tune", "work_gpu_h": 30, "max_gpus": 3, "deadline": in_utc(hours=10.3)}
    assert shared.call("POST", "/api/v1/jobs", job)[0] == 201
    shared.wait(lambda: jobs_of(shared)["busy"]["gpus"] == 3)
    announced = {"id": "announced", "start": in_utc(seconds=4), "duration": "PT30M", "limit_kw": 2.3}
    assert shared.event(**announced)[1]["opt"] == "in"
    try:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, unlimited[1]))
        status, body = shared.event(id="never", duration="PT30M", limit_kw=4)
        assert status == 503
        assert "not acknowledged" in body["error"]
        assert shared.call("POST", "/api/v1/jobs", job | {"id": "never"})[0] == 503
        assert shared.call("POST", "/api/v1/operator", {"action": "pause"})[0] == 503
        assert state_of(shared, "announced") in {"near", "scheduled", "received"}
        # The floors: five users' cards at 275 W and three at 200, which these fakes draw with no work too, by the PUE.
        shared.wait(lambda: shared.get("/api/v1/status")["tick"]["import_kw"]["lab"] < 2.37 * 1.01)
        shared.wait(lambda: jobs_of(shared)["busy"]["gpus"] < 3)
        assert not shared.get("/api/v1/health")["store"]["ok"]
        assert shared.get("/api/v1/health")["ok"], "both loops turn"
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)
    shared.wait(lambda: shared.event(id="announced", version=2, cancelled=True)[0] == 200)
    shared.call("DELETE", "/api/v1/jobs/busy")
    shared.wait(lambda: shared.get("/api/v1/health")["store"]["ok"])
    assert "never" not in json.dumps(shared.get("/api/v1/events")) + json.dumps(shared.get("/api/v1/jobs"))
    shared.wait(lambda: fake.limits_w() == shared.machine.first)


# ---------------------------------------------------------------- stops and starts
def test_a_stop_in_the_middle_of_a_cycle_is_quick_and_restores(machine):
    life = machine.start()
    life.wait(lambda: life.said("started"))
    life.wait(lambda: machine.fake.limits_w() != machine.first)
    assert not life.said("control"), "the first cycle is still waiting for its solver"
    began = time.monotonic()
    assert life.stop() == 0
    assert time.monotonic() - began < 10
    assert machine.fake.limits_w() == machine.first
    assert any("STOPPING=1" in said for _, said in life.told)
    assert "Traceback" not in life.log.read_text()


def test_a_taken_port_is_an_error_before_anything_is_written(machine):
    with socket.create_server(("127.0.0.1", machine.fields["port"])):
        life = machine.start()
        assert life.process.wait(60) == 1
    text = life.log.read_text()
    assert f"cannot listen at 127.0.0.1:{machine.fields['port']}" in text
    assert "Traceback" not in text
    assert sum(machine.fake.state(k)["set_calls"] for k in range(8)) == 0


def test_a_state_folder_that_cannot_be_is_an_error_before_anything_is_written(machine):
    machine.configure(state="secret/below-a-file")
    life = machine.start()
    assert life.process.wait(60) == 1
    assert "state_dir:" in life.log.read_text()
    assert "Traceback" not in life.log.read_text()
    assert machine.fake.limits_w() == machine.first


def test_an_unknown_key_is_named_with_its_line_and_exit_code_2(machine):
    machine.path.write_text(machine.path.read_text() + "marginn: 0.1\n")
    life = machine.start()
    assert life.process.wait(60) == 2
    number = machine.path.read_text().count("\n")
    assert f"gridpace.yaml:{number}: marginn" in life.log.read_text()
    assert 'Did you mean "margin"' in life.log.read_text()


def test_books_of_a_newer_gridpace_are_refused_and_left_as_they_are(machine):
    path = machine.state / "gridpace.db"
    Store.open(path).close()
    with closing(sqlite3.connect(path)) as books, books:
        books.execute("UPDATE meta SET value = 99 WHERE key = 'schema'")
        books.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    life = machine.start()
    assert life.process.wait(60) == 1
    assert "schema version 99" in life.log.read_text()
    assert path.read_bytes() == before
    assert machine.fake.limits_w() == machine.first


def test_ruined_books_are_put_aside_and_the_first_limits_survive_them(machine):
    life = machine.start()
    life.wait(lambda: machine.fake.limits_w() != machine.first)
    life.kill()
    path = machine.state / "gridpace.db"
    path.write_bytes(b"this is no database" * 500)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    life = machine.start()
    life.wait(lambda: life.said("started"))
    assert life.said("reconciled")["outstanding_gpus"] == 8
    assert list(machine.state.glob("gridpace.db.damaged-*"))
    assert life.stop() == 0
    assert machine.fake.limits_w() == machine.first


def test_a_daemon_that_may_not_write_any_more_gives_back_what_a_killed_one_left(machine):
    life = machine.start()
    life.wait(lambda: machine.fake.limits_w() != machine.first)
    life.kill()
    machine.configure(mode="observe")
    life = machine.start()
    life.wait(lambda: life.said("reconciled"))
    assert machine.fake.limits_w() == machine.first
    life.kill()


def test_a_pool_that_left_the_config_gets_its_limits_back(machine):
    life = machine.start()
    life.wait(lambda: machine.fake.limits_w() != machine.first)
    life.kill()
    text = machine.path.read_text()
    lines = [line for line in text.splitlines() if "id: tune" not in line]
    machine.path.write_text("\n".join(lines) + "\n")
    life = machine.start()
    life.wait(lambda: life.said("reconciled"))
    kept = list(machine.first)[5:]
    assert {gpu: machine.fake.limits_w()[gpu] for gpu in kept} == {gpu: machine.first[gpu] for gpu in kept}
    assert sorted(machine.records("first_limit")) == sorted(list(machine.first)[:5])
    life.kill()
