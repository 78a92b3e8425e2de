"""An agent that is stopped: what is asked for stays for its successor, the rest is given back."""

import json
import time
from itertools import pairwise

import pytest

from adapters.ports import AdapterError, Lease
from scheduler.agent.core import AgentCore
from scheduler.agent.ending import only_one, release_alone
from scheduler.agent.state import AgentFiles, Found, Held
from scheduler.boottime import boottime
from tests.support.agent_node import SETTINGS, Node


@pytest.fixture
def node(tmp_path):
    return Node(tmp_path)


@pytest.mark.parametrize("phase", ["leased", "holding"])
def test_a_stop_leaves_what_a_lease_or_a_trajectory_asks_for_to_a_successor(node, phase):
    node.cap(250, seconds=30.0)
    node.core.hold([(0.0, dict.fromkeys(node.gpus, 300))], 600.0, Lease(1, 2, 30.0))
    if phase == "holding":
        node.live(40)
    kept, status = node.limits(), node.core.status()
    assert status["phase"] == phase
    assert "for the next agent" in node.core.stop()
    with pytest.raises(AdapterError, match="stopping"):
        node.cap(300, sequence=9)
    assert node.limits() == kept
    node.kill_and_restart()
    assert node.core.status() == {**status, "caps_w": node.core.status()["caps_w"]}
    assert set(node.live(2)) == kept
    node.live(700)
    assert node.limits() == {700}


def test_a_stop_restores_everything_where_nobody_asks_for_it_any_more(node, monkeypatch):
    monkeypatch.setattr("scheduler.agent.core.sleep", node.clock.sleep)
    node.cap(250, seconds=1.0)
    node.live(2)
    assert node.core.status()["phase"] == "releasing"
    assert "given back" in node.core.stop()
    assert node.limits() == {700}
    assert not node.core.outstanding


@pytest.mark.parametrize("restarted", [True, False])
def test_a_release_ends_lease_and_trajectory_and_takes_the_whole_ramp(node, monkeypatch, restarted):
    """As `gridpace agent --release` does it: in a process that has written nothing itself."""
    seen = watched(node, monkeypatch)
    node.cap(250)
    node.core.hold([(0.0, dict.fromkeys(node.gpus, 300))], 600.0, Lease(1, 2, 30.0))
    if restarted:
        node.kill_and_restart()
    node.core.give_back(hurry=False)
    assert (node.limits(), node.core.outstanding) == ({700}, False)
    assert max(after - before for before, after in pairwise([250, *seen, 700])) <= SETTINGS.release_w_per_s
    node.kill_and_restart()
    assert node.core.status()["phase"] == "free"
    assert set(node.live(5)) == {700}


def watched(node, monkeypatch):
    """The first card's limit whenever the agent sleeps."""
    seen = []

    def sleep(seconds):
        seen.append(node.limit())
        node.clock.sleep(seconds)

    monkeypatch.setattr("scheduler.agent.core.sleep", sleep)
    return seen


def test_a_restarted_agent_that_is_stopped_while_it_releases_hurries_and_does_not_jump(node, monkeypatch):
    seen = watched(node, monkeypatch)
    node.cap(250, seconds=1.0)
    node.live(2)
    node.kill_and_restart()
    assert "given back" in node.core.stop()
    steps = [after - before for before, after in pairwise([*seen, 700])]
    assert len(steps) <= SETTINGS.stop_s + 1
    assert max(steps) <= 1.1 * 450 / (SETTINGS.stop_s / 2), "450 W within half of what a stop may take"


def test_a_release_that_is_broken_off_stays_one(node, monkeypatch):
    def killed(_seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr("scheduler.agent.core.sleep", killed)
    node.cap(250, seconds=300.0)
    node.core.hold([(0.0, dict.fromkeys(node.gpus, 300))], 600.0, Lease(1, 2, 300.0))
    with pytest.raises(KeyboardInterrupt):
        node.core.give_back(hurry=False)
    node.kill_and_restart()
    assert node.core.status()["phase"] == "releasing"
    assert node.live(60)[-1] == 700


def test_a_folder_that_is_not_there_is_no_agents(node, tmp_path):
    with pytest.raises(AdapterError, match="no such folder; name the one of the agent"):
        release_alone(node.power, tmp_path / "mistyped", SETTINGS)
    assert not (tmp_path / "mistyped").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(AdapterError, match="Not a directory"), only_one(tmp_path / "file" / "state"):
        pass


@pytest.mark.parametrize("older", [True, False])
def test_times_of_an_agent_whose_clock_stands_still_in_a_suspension_are_read_as_it_would(tmp_path, monkeypatch, older):
    files = AgentFiles(tmp_path)
    files.save_found(Found({"GPU-a": 700.0}, steps=[(50.0, {"GPU-a": 300}), (0.0, {})], hold_until=90.0))
    files.save_lease(Held(boot=files.boot, expires_at=40.0, heard_at=-1.0))
    for name in ("found.json", "lease.json") if older else ():
        body = json.loads((tmp_path / name).read_text())
        assert body.pop("clock") == "boottime"
        (tmp_path / name).write_text(json.dumps(body))
    monkeypatch.setattr("scheduler.agent.state.boottime", lambda: time.monotonic() + 600.0)
    found, held = AgentFiles(tmp_path).load()
    late_s = 600.0 if older else 0.0
    assert found.more == {}
    assert [at for at, _ in found.steps] == pytest.approx([50.0 + late_s, 0.0], abs=1.0)
    assert found.hold_until == pytest.approx(90.0 + late_s, abs=1.0)
    assert (held.expires_at, held.heard_at) == (pytest.approx(40.0 + late_s, abs=1.0), -1.0)


def test_leases_are_counted_by_a_clock_that_runs_through_a_suspension(node, tmp_path):
    core = AgentCore(node.power, AgentFiles(tmp_path), SETTINGS)
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= core._clock() <= time.clock_gettime(time.CLOCK_BOOTTIME)
    assert boottime is core._clock
