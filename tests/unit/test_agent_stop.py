"""An agent that is stopped: what is asked for stays for its successor, the rest is given back."""

import time

import pytest

from adapters.ports import AdapterError, Lease
from scheduler.agent.core import AgentCore
from scheduler.agent.state import AgentFiles
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


def test_a_release_in_the_middle_of_a_lease_ends_it_and_its_trajectory(node, monkeypatch):
    monkeypatch.setattr("scheduler.agent.core.sleep", node.clock.sleep)
    node.cap(250)
    node.core.hold([(0.0, dict.fromkeys(node.gpus, 300))], 600.0, Lease(1, 2, 30.0))
    node.core.give_back()
    assert (node.limits(), node.core.outstanding) == ({700}, False)
    node.kill_and_restart()
    assert node.core.status()["phase"] == "free"
    assert set(node.live(5)) == {700}


def test_leases_are_counted_by_a_clock_that_runs_through_a_suspension(node, tmp_path):
    core = AgentCore(node.power, AgentFiles(tmp_path), SETTINGS)
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= core._clock() <= time.clock_gettime(time.CLOCK_BOOTTIME)
    assert boottime is core._clock
