"""A rack whose feed trips: nodes fall silent one after the other, connections open, while an event binds."""

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from itertools import count
from threading import Event

import pytest

from adapters.ports import AdapterError, Lease
from adapters.power.fleet import FleetPower
from adapters.power.simulated import SimulatedPower
from scheduler.dispatch import Dispatcher
from scheduler.orders import PoolOrder
from scheduler.store.store import Store
from tests.faults.test_fleet import Node, there
from tests.support.nats import nats_servers
from tests.support.power_worlds import simulated_hall, wait_until

NODES = tuple(f"n{number}" for number in range(1, 8))
DEADLINE_S, WAITS_S = 30.0, 10.0
"""What one that is waited for costs, and what nobody may cost on the slowest of machines."""


class Stuck(SimulatedPower):
    """Cards that nobody gets an answer of while they are `held`."""

    def __init__(self, hall):
        super().__init__(hall)
        self.free, self.pause_s = Event(), 0.0
        self.free.set()

    def discover(self):
        self.free.wait()
        return super().discover()

    def apply(self, caps_w, lease):
        self.free.wait()
        time.sleep(self.pause_s)
        return super().apply(caps_w, lease)


class StuckNode(Node):
    """A node that can stop to answer, as one does that lost its power: nobody hangs up for it."""

    def start(self):
        self.power = Stuck(simulated_hall(self.name))
        super().start()

    def stop(self):
        self.power.free.set()
        super().stop()


@pytest.fixture
def rack(tmp_path):
    """The nodes, and a dispatcher over them that has written once."""
    with ExitStack() as stack:
        servers = stack.enter_context(nats_servers(tmp_path / "bus", *NODES))
        nodes = {name: StuckNode(tmp_path, servers, name) for name in NODES}
        for node in nodes.values():
            stack.callback(node.stop)
        power = FleetPower(servers.settings("daemon"))
        stack.callback(power.close)
        wait_until(lambda: there(power) and len(power.states()) == len(NODES))
        power._deadline_s = DEADLINE_S  # not before: where nobody has connected yet, that long is waited for nodes
        gpus = tuple(gpu for node in nodes.values() for gpu in node.gpus)
        dispatcher = Dispatcher(Store.in_memory(), power, {"all": gpus}, writes=True, epoch=1, lease_s=60.0)
        wait_until(lambda: order((nodes, dispatcher), 650) == set())
        yield nodes, dispatcher


@contextmanager
def standing_still(process):
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def test_a_server_that_stands_still_for_longer_than_the_deadline_makes_nobody_deaf(rack):
    servers, sequences = rack[0]["n1"].servers, count(1000)
    with closing(FleetPower(servers.settings("daemon"), 1.0)) as power:
        wait_until(lambda: there(power) and len(power.states()) == len(NODES))

        def lost():
            caps = {gpu: 600 for node in rack[0].values() for gpu in node.gpus}
            return len(power.apply(caps, Lease(1, next(sequences), 60.0)).failures)

        assert lost() == 0
        with standing_still(servers.processes["s0"]):
            assert lost() == sum(len(node.gpus) for node in rack[0].values())
        until = time.monotonic() + 8.0
        wait_until(lambda: lost() == 0)
        assert time.monotonic() < until, "it hears what comes late, and all that comes then"


def test_who_waits_for_answers_when_the_connection_is_closed_is_told_so(rack):
    nodes = rack[0]
    power = FleetPower(nodes["n1"].servers.settings("daemon"), 1.0)
    with closing(power), ThreadPoolExecutor() as others:
        wait_until(lambda: there(power) and len(power.states()) == len(NODES))
        power._deadline_s = DEADLINE_S
        for node in nodes.values():
            node.power.free.clear()
        began = time.monotonic()
        waits = others.submit(power.apply, dict.fromkeys(nodes["n1"].gpus, 600), Lease(1, 1000, 60.0))
        time.sleep(0.5)
        power.close()
        with pytest.raises(AdapterError, match="is being closed"):
            waits.result(WAITS_S)
        assert time.monotonic() - began < WAITS_S


def order(rack, cap_w):
    """One tick; the nodes that did not obey."""
    nodes, dispatcher = rack
    dispatcher.apply({"all": PoolOrder(cap_w, 1)}, 60.0, datetime.now(UTC))
    away = {gpu for gpus in dispatcher.unreached().values() for gpu in gpus}
    return {name for name, node in nodes.items() if away.intersection(node.gpus)}


def test_nodes_that_die_one_after_the_other_are_not_waited_for(rack):
    nodes, dead = rack[0], set()
    for tick, name in enumerate(NODES[:5]):
        nodes[name].power.free.clear()
        dead.add(name)
        cap_w, started = 600 - 10 * tick, time.monotonic()
        assert dead <= order(rack, cap_w)
        assert time.monotonic() - started < WAITS_S
        alive = nodes.keys() - dead
        wait_until(lambda cap_w=cap_w, alive=alive: all(nodes[name].limits() == {cap_w} for name in alive))
    wait_until(lambda: order(rack, 500) == dead)
    for name in dead:
        nodes[name].power.free.set()
    wait_until(lambda: order(rack, 500) == set())
    assert all(node.limits() == {500} for node in nodes.values())
