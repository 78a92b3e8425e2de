"""Daemon and node agent, both real: what the agent does when the daemon is killed or stopped in mid-event."""

import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from datetime import datetime

import pytest

from adapters.power.agent import AgentPower
from tests.support.daemon import ROOT, Machine
from tests.support.power_worlds import serves, wait_until

pytestmark = pytest.mark.xdist_group("daemon-life")
RELEASE_W_PER_S = 150.0
EVENT_KW = 3.0
NO_SPARE_INTERVALS = "import scheduler.trajectory; scheduler.trajectory.LEASE_INTERVALS = 0"
"""The published trajectory then ends with the event, and not three minutes later."""


@pytest.fixture
def machine(tmp_path):
    """A machine whose cards the agent owns; no jobs, so the last three cards are idle."""
    socket = tmp_path / "agent.sock"
    made = Machine(tmp_path, power=f"{{type: agent, socket: {socket}, lease: 1.5s}}")
    for k in (5, 6, 7):
        made.fake.set(k, demand_w=75)
    options = ["--socket", socket, "--state-dir", tmp_path / "agent", "--tick-s", "0.1"]
    command = [sys.executable, "-m", "scheduler.cli", "agent", *map(str, options)]
    command += ["--release-w-per-s", str(RELEASE_W_PER_S)]
    process = subprocess.Popen(command, cwd=ROOT, env=made.fake.env())
    made.agent = AgentPower(socket)
    wait_until(lambda: serves(made.agent))
    yield made
    made.close()
    made.agent.close()
    process.terminate()
    assert process.wait(30) == 0
    subprocess.run([*command, "--release"], cwd=ROOT, env=made.fake.env(), check=True, timeout=60)
    assert made.fake.limits_w() == made.first


def import_kw(machine):
    return sum(machine.fake.state(k)["draw_w"] for k in range(8)) * 1.2 / 1000


def under_event(machine, life, seconds):
    """Wait for a plan, announce an event that is on, and return once the site is at its target."""
    life.ready()
    assert import_kw(machine) > EVENT_KW * 1.2
    assert life.event(id="now", duration=f"PT{seconds}S", limit_kw=EVENT_KW)[1]["opt"] == "in"
    ends = time.monotonic() + seconds
    life.wait(lambda: any("now active" in str(line.get("event")) for line in life.lines()))
    life.wait(lambda: import_kw(machine) < EVENT_KW)
    time.sleep(1.0)  # the lease is renewed twice a second, and the trajectory with it
    return ends


def test_a_killed_daemons_event_is_held_and_its_successor_takes_over_without_a_jump(machine):
    life = machine.start()
    under_event(machine, life, 600)
    before = machine.agent.status()
    assert before["phase"] == "leased"
    life.kill()
    wait_until(lambda: machine.agent.status()["phase"] == "holding")
    for _ in range(20):
        assert import_kw(machine) < EVENT_KW * 1.02
        time.sleep(0.05)
    life = machine.start()
    life.wait(lambda: machine.agent.status()["phase"] == "leased" or import_kw(machine) > EVENT_KW * 1.05)
    for _ in range(20):
        assert import_kw(machine) < EVENT_KW * 1.02
        time.sleep(0.05)
    after = machine.agent.status()
    assert after["epoch"] > before["epoch"]
    assert after["found_w"] == machine.first
    assert life.serving().get("/api/v1/events")["events"][0]["state"] == "active"
    withdraw(life)
    assert life.stop() == 0
    assert machine.fake.limits_w() == machine.first, "with no event in force a stop gives everything back"
    assert machine.agent.status()["phase"] == "free"


@contextmanager
def watched(machine):
    """Look all the while; the caller gets every import seen, in kW."""
    seen, done = [], threading.Event()

    def look():
        while not done.wait(0.02):
            seen.append(import_kw(machine))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join(10)


def withdraw(life):
    """Withdraw the event, and wait until nothing is left of it, its rebound limit included."""
    assert life.event(id="now", version=2, cancelled=True)[0] == 200
    life.wait(lambda: life.get("/api/v1/events")["events"][0]["state"] in {"cancelled", "completed"})
    time.sleep(5.0)  # its ramp out takes 2 s, its rebound limit 1 s


def test_a_restart_in_the_middle_of_an_event_is_no_gap_in_it(machine):
    life = machine.start()
    under_event(machine, life, 600)
    before = machine.agent.status()["epoch"]
    with watched(machine) as seen:
        assert life.stop() == 0
        assert machine.agent.status()["phase"] == "holding", "at once, and not when a lease has run out"
        life = machine.start().serving()
        life.wait(lambda: machine.agent.status()["phase"] == "leased")
        time.sleep(2.0)
    assert max(seen) < EVENT_KW * 1.02
    assert machine.agent.status()["epoch"] > before
    assert machine.agent.status()["found_w"] == machine.first
    notes = [note["text"] for note in life.get("/api/v1/status")["cycle"]["notes"]]
    assert any("stopped in the middle of an event" in text for text in notes), notes
    withdraw(life)
    assert life.stop() == 0
    assert machine.fake.limits_w() == machine.first
    assert machine.agent.status()["phase"] == "free"


def test_what_a_stop_left_is_listed_and_given_back_at_once_on_request(machine):
    life = machine.start()
    under_event(machine, life, 600)
    assert life.stop() == 0
    said = [text for _, text in life.told if text.startswith("STATUS=stopped in the middle of now: its agents deliver")]
    assert said
    assert next(line for line in life.lines() if line.get("event") == "stopped")["released"] is False
    code, listed = life.command("doctor")
    assert code == 1
    assert "event now: stopped in the middle of now: its agents deliver to the end" in listed
    assert all(f"limit {gpu}: gets back {watts:g} W" in listed for gpu, watts in machine.first.items()), listed
    assert import_kw(machine) < EVENT_KW * 1.02
    assert life.command("release") == (0, "No daemon runs. Everything is given back.\n")
    assert machine.fake.limits_w() == machine.first
    assert machine.agent.status()["phase"] == "free"
    assert life.command("doctor") == (0, "0 held; no daemon runs\n")


@pytest.mark.parametrize("stops", [False, True], ids=["killed", "stopped"])
def test_with_no_successor_the_event_is_delivered_and_then_every_card_ramps_back(machine, stops):
    life = machine.start(before=NO_SPARE_INTERVALS)
    ends = under_event(machine, life, 20)
    if stops:
        assert life.stop() == 0
    else:
        life.kill()
    assert time.monotonic() < ends, "this machine is too slow for so short an event"
    assert machine.agent.status()["phase"] != "free"
    highest = last = max(machine.fake.limits_w().values())
    at = time.monotonic()
    while machine.fake.limits_w() != machine.first:
        now, limits = time.monotonic(), machine.fake.limits_w()
        assert now < ends + 20, limits
        if now < ends:
            assert import_kw(machine) < EVENT_KW * 1.02, "the site sprang back in the middle of the event"
        highest = max(highest, *limits.values())
        # A tick's worth of ramp at once, and what a loaded machine may add to the time between two looks.
        assert highest - last <= RELEASE_W_PER_S * (now - at) + RELEASE_W_PER_S * 0.8
        last, at = highest, now
        time.sleep(0.02)
    wait_until(lambda: machine.agent.status()["phase"] == "free")


def test_an_event_that_ends_on_the_trajectory_of_a_dead_daemon_ends_by_the_sites_ramp(machine):
    """Three intervals reach beyond the event, and from its end on the plan's caps are full. A node that is late only
    stays below the line."""
    up_kw_per_s, step_s = 3.0 / 60.0, 2.0
    machine.configure(limit="100, ramp_kw_per_min: {up: 3}")
    life = machine.start()
    under_event(machine, life, 20)
    end = datetime.fromisoformat(life.get("/api/v1/events")["events"][0]["end"]).timestamp()
    life.kill()
    assert time.time() < end, "this machine is too slow for so short an event"
    seen = []
    while not seen or seen[-1][1] < EVENT_KW * 1.25:
        kw = import_kw(machine)
        seen.append((time.time() - end, kw))
        assert seen[-1][0] < 60, seen[-1]
        time.sleep(0.05)
    assert machine.agent.status()["phase"] == "holding", "the trajectory is not over"
    for after_s, kw in seen:
        # What cards draw beside their curves, and the kilowatts of the step under way, come on top of the line.
        assert kw <= EVENT_KW * 1.02 + 1.3 * up_kw_per_s * max(0.0, after_s + step_s), (after_s, kw)
