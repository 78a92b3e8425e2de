"""Daemon and node agent, both real: what the agent does when the daemon is killed in the middle of an event."""

import subprocess
import sys
import time

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
    process = subprocess.Popen([*command, "--release-w-per-s", str(RELEASE_W_PER_S)], cwd=ROOT, env=made.fake.env())
    made.agent = AgentPower(socket)
    wait_until(lambda: serves(made.agent))
    yield made
    made.close()
    made.agent.close()
    process.terminate()
    assert process.wait(30) == 0
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
    assert life.stop() == 0
    assert machine.fake.limits_w() == machine.first
    assert machine.agent.status()["phase"] == "free"


def test_with_no_successor_the_event_is_delivered_and_then_every_card_ramps_back(machine):
    life = machine.start(before=NO_SPARE_INTERVALS)
    ends = under_event(machine, life, 14)
    life.kill()
    assert time.monotonic() < ends, "this machine is too slow for so short an event"
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
