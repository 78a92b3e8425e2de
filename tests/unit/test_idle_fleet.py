"""What keeps a fleet cheap while nothing happens, and what it must notice all the same."""

import asyncio
import gc
import signal
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from adapters.ports import AdapterError
from adapters.power import fleet_wire
from adapters.power.fleet import FleetPower
from benchmarks.support.storm_bus import LocalBus, LocalClient, Wires
from optimizer.reasons import Reason
from scheduler.agent.bus import Ear
from scheduler.agent.core import AgentCore, AgentSettings
from scheduler.agent.process import answer
from scheduler.capwatch import DriftRules
from scheduler.config.load import shipped_curves
from scheduler.daemon import STOP, Daemon
from scheduler.dispatch import Dispatcher
from scheduler.fleet.twin import CURVE, TwinFiles
from scheduler.fleet.twin_hall import TwinHall, TwinModel
from scheduler.orders import PoolOrder
from scheduler.store.store import Store

NOW = datetime(2022, 9, 6, 21, tzinfo=UTC)


class Fleet:
    """Two nodes of four cards, a dispatcher over them, and the questions to all nodes."""

    def __init__(self):
        self.wires = Wires(asyncio.new_event_loop())
        self.hellos, self.ears, self.cards, self.now = [], {}, {}, 100.0
        for name in ("n1", "n2"):
            self.cards[name] = TwinHall([name], 4, TwinModel(shipped_curves()[CURVE])).cards[0]
            core = AgentCore(self.cards[name], TwinFiles(), AgentSettings(drift=DriftRules(0)))
            self.ears[name] = Ear(core, name, answer, 1.0, self._do)
            self.wires.run(self.ears[name].listen(LocalClient(self.wires, name)))
        bus = LocalBus(self.wires, "daemon")
        publish = bus.client.publish

        async def told(subject, data, reply="", headers=None):
            if subject == fleet_wire.HELLO:
                self.hellos.append(data)
            await publish(subject, data, reply, headers)

        bus.client.publish = told
        self.power = FleetPower(bus.settings, 0.05, bus=bus, clock=lambda: self.now)
        self.power.hello_s = 0.05
        self.wires.run(self.power.listen(bus.client))
        gpus = tuple(sorted(self.power.discover()))
        self.dispatcher = Dispatcher(Store.in_memory(), self.power, {"all": gpus}, writes=True, epoch=1)
        assert not self.dispatcher.apply({"all": PoolOrder(300, 8)}, 60.0, NOW).notes

    async def _do(self, work):
        return work()

    def tell(self, *names):
        """These nodes tell their state, where it is news."""
        for name in names or self.ears:
            self.wires.run(self.ears[name].tell(LocalClient(self.wires, name)))


@pytest.fixture
def fleet():
    made = Fleet()
    yield made
    made.wires.loop.close()


def test_limits_of_a_fleet_are_compared_as_nodes_tell_them_and_nobody_is_asked(fleet):
    fleet.tell()
    fleet.hellos.clear()
    assert fleet.dispatcher.verify(NOW) == ()
    fleet.cards["n2"].release({"GPU-n2-1": 400.0})
    fleet.tell()
    (note,) = fleet.dispatcher.verify(NOW)
    assert note.code is Reason.CAP_DRIFT
    assert "GPU-n2-1 is at 400 W" in note.text
    assert fleet.dispatcher._again == {"GPU-n2-1"}
    assert fleet.hellos == []


def test_what_was_told_before_an_order_says_nothing_of_it(fleet):
    fleet.tell()
    assert not fleet.dispatcher.apply({"all": PoolOrder(250, 8)}, 60.0, NOW).notes
    fleet.tell("n1")
    assert fleet.power.enforced(["GPU-n1-0", "GPU-n2-3", "GPU-x"]) == {"GPU-n1-0": 250.0}
    assert fleet.dispatcher.verify(NOW) == ()
    fleet.tell("n2")
    assert fleet.power.enforced(["GPU-n1-0", "GPU-n2-3"]) == {"GPU-n1-0": 250.0, "GPU-n2-3": 250.0}
    fleet.now += 11.0
    with pytest.raises(AdapterError, match="no node tells its limits"):
        fleet.power.enforced(["GPU-n1-0"])


def test_a_successor_reads_everything_once(fleet):
    fleet.dispatcher.watch._lowest.clear()  # as after a restart: no card's range is known
    fleet.hellos.clear()
    fleet.dispatcher.verify(NOW)
    fleet.dispatcher.verify(NOW)
    assert fleet.hellos == [b""]


def test_the_collector_does_not_look_through_what_stays(monkeypatch):
    counts = []
    daemon = SimpleNamespace(member=None, stopping=False)
    daemon.wait = lambda: (counts.append(gc.get_freeze_count()), STOP)[1]
    try:
        Daemon.turn(daemon, SimpleNamespace())
        assert counts[0] > 10_000
        assert daemon.stopping
        daemon.wait = iter([signal.SIGHUP, STOP]).__next__
        seen = []
        daemon.reload = lambda app: seen.append(app) or app
        Daemon.turn(daemon, SimpleNamespace(guard=lambda: None))
        assert len(seen) == 1
    finally:
        gc.unfreeze()
