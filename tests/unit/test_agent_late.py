"""Trajectories that are on their way for longer than it takes to say something else, and clocks that differ."""

import asyncio

import pytest

from adapters.ports import Lease
from adapters.power.fleet_wire import trajectory_in, trajectory_out
from benchmarks.support.storm_bus import Wires
from scheduler.agent.bus import Ear
from scheduler.agent.process import answer
from tests.support.agent_node import Node


@pytest.fixture
def node(tmp_path):
    return Node(tmp_path)


def hold(node, told, skew_s=0.0):
    """The node, whose clock is ahead by so much, takes a trajectory."""
    found = trajectory_in(told, node.clock.now().timestamp() + skew_s)
    node.core.hold(found.steps, found.until_s, found.lease, found.age_s)


@pytest.mark.parametrize("late_s", [0, 8])
@pytest.mark.parametrize("skew_s", [-100.0, 0.0, 30.0])
def test_a_trajectory_takes_back_no_order_that_is_younger_than_its_step(node, late_s, skew_s):
    """To ten thousand nodes it is on its way for ten seconds: an event was withdrawn, and its caps were raised, before
    it came. Which of the two is younger their numbers say, whatever the node's clock does."""
    wall = node.clock.now().timestamp()
    told = trajectory_out(((0.0, dict.fromkeys(node.gpus, 300)),), 600.0, Lease(1, 2, 90.0), wall)
    node.clock.sleep(late_s)
    node.cap(500, sequence=3 if late_s else 1, seconds=60.0)
    running = node.core._clock
    node.core._clock = lambda: (node.clock.sleep(0.001), running())[1]  # time passes while an order is obeyed
    hold(node, told, skew_s)
    lasts_s = round(node.core.status()["lease_left_s"])
    assert set(node.live(lasts_s - 2)) == {500}
    assert node.live(4)[-1] == 300, "once the lease is over it is followed"


def test_a_step_that_falls_while_its_trajectory_is_on_its_way_is_followed_when_it_comes(node):
    """Who sent it may be dead by then."""
    wall = node.clock.now().timestamp()
    told = trajectory_out(((0.0, dict.fromkeys(node.gpus, 500)), (5.0, dict.fromkeys(node.gpus, 300))),
                          600.0, Lease(1, 2, 60.0), wall)  # fmt: skip
    node.cap(500, seconds=60.0)
    node.clock.sleep(6)
    hold(node, told)
    assert node.live(1) == [300]


def test_a_step_is_followed_in_time_by_a_node_whose_clock_is_ahead(node):
    """It was said after what was heard a second ago, so it is no older than that."""
    wall = node.clock.now().timestamp()
    node.cap(500, seconds=60.0)
    node.clock.sleep(1)
    told = trajectory_out(((0.0, dict.fromkeys(node.gpus, 500)), (5.0, dict.fromkeys(node.gpus, 300))),
                          600.0, Lease(1, 2, 60.0), wall + 1)  # fmt: skip
    hold(node, told, skew_s=20.0)
    assert node.live(5) == [500] * 3 + [300] * 2


@pytest.mark.parametrize("word", ["renewal", "trajectory"])
def test_a_lease_is_of_nothing_on_a_machine_that_has_lost_what_was_ordered(node, monkeypatch, word):
    """Its cards are at their default; who renews all leases doesn't know that yet."""
    caps = dict.fromkeys(node.gpus, 300)
    node.cap(300, seconds=60.0)
    monkeypatch.setattr("scheduler.agent.state.boot_id", lambda: "another boot")
    node.hall.set_limits(dict.fromkeys(node.gpus, 700.0))
    node.kill_and_restart()
    node.core.hold(((0.0, caps),), 600.0, Lease(1, 2, 0.001), 20.0)
    if word == "renewal":
        node.core.apply({}, Lease(1, 3, 60.0))
    else:
        node.core.hold(((0.0, caps),), 600.0, Lease(1, 3, 60.0))
    assert node.live(1) == [300]
    node.cap(400, sequence=4, seconds=60.0)
    node.core.apply({}, Lease(1, 5, 60.0))
    assert set(node.live(30)) == {400}


def test_a_lease_that_could_not_be_read_is_renewed_with_the_caps_in_force(node):
    node.cap(400, seconds=60.0)
    (node.folder / "lease.json").write_text("{", encoding="ascii")
    node.kill_and_restart()
    node.core.apply({}, Lease(1, 3, 60.0))
    assert set(node.live(30)) == {400}


def test_a_trajectory_that_waits_for_a_slow_card_grows_older_meanwhile(node):
    """Orders are obeyed one after the other."""
    wires = Wires(asyncio.new_event_loop())
    wall = node.clock.now().timestamp()
    told = trajectory_out(((0.0, dict.fromkeys(node.gpus, 300)),), 600.0, Lease(1, 2, 60.0), wall)

    async def later(work):
        node.clock.sleep(2)
        node.cap(500, sequence=3, seconds=60.0)
        return work()

    ear = Ear(node.core, "n1", answer, 1.0, later, lambda: node.clock.now().timestamp())
    wires.at_once(ear._follow(told))
    wires.loop.close()
    assert set(node.live(50)) == {500}
