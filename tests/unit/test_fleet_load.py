"""What a large fleet must not cost: messages that name every card in every step, orders that wait for trajectories."""

import asyncio
import threading
import time
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from adapters.ports import AdapterError, Lease, Receipt
from adapters.power import fleet_wire, wire
from adapters.power.fleet import FleetPower
from adapters.power.fleet_post import PART, TrajectoryPost
from benchmarks.support.storm_bus import LocalBus, LocalClient, Wires
from scheduler.agent.bus import Ear
from scheduler.agent.core import AgentCore, AgentSettings
from scheduler.agent.process import answer
from scheduler.config.load import shipped_curves
from scheduler.dispatch import Dispatcher
from scheduler.fleet.twin import CURVE, TwinFiles
from scheduler.fleet.twin_hall import TwinHall, TwinModel
from scheduler.orders import PoolOrder
from scheduler.running import App
from scheduler.store.store import Store

NOW = datetime(2022, 9, 6, 21, tzinfo=UTC)
GPUS = [f"GPU-12345678-1234-1234-1234-12345678901{number}" for number in range(8)]
LEASE = Lease(1, 5, 60.0)


def test_a_trajectory_names_its_cards_once_and_says_the_same():
    uneven = {gpu: 300 + number for number, gpu in enumerate(GPUS)}
    steps = ((0.0, dict.fromkeys(GPUS, 250)), *((float(at), {**uneven, GPUS[0]: 200 + at}) for at in range(2, 42, 2)))
    plain = fleet_wire.trajectory_out(steps, 900.0, LEASE, 1000.0)
    packed = fleet_wire.trajectory_out(steps, 900.0, LEASE, 1000.0, packed=True)
    assert len(packed) < 0.25 * len(plain)
    for now in (1000.0, 1011.0):
        assert fleet_wire.trajectory_in(packed, now) == fleet_wire.trajectory_in(plain, now)
    odd = ((0.0, {GPUS[0]: 250}), (2.0, {GPUS[0]: 300, GPUS[1]: 300}))
    assert fleet_wire.trajectory_in(fleet_wire.trajectory_out(odd, 9.0, LEASE, 0.0, packed=True), 0.0).steps == odd


@pytest.mark.parametrize("packed", [[[0.0, [1]]], [[0.0]], [[0.0, -1]], [[0.0, "much"]], 7, [[0.0, True]]])
def test_a_packed_trajectory_that_is_wrong_is_refused(packed):
    lease = {"epoch": 1, "sequence": 1, "expires_in_s": 5.0}
    message = {"gpus": GPUS, "packed": packed, "until_s": 9.0, "lease": lease, "issued_at": 0.0}
    with pytest.raises(wire.BadRequest):
        fleet_wire.trajectory_in(wire.encode(message), 0.0)


def test_only_nodes_that_say_so_are_told_packed_trajectories():
    wires, told = Wires(asyncio.new_event_loop()), {}
    cores = {}

    async def do(work):
        return work()

    for name in ("new", "old"):
        cores[name] = AgentCore(
            TwinHall([name], 2, TwinModel(shipped_curves()[CURVE])).cards[0], TwinFiles(), AgentSettings()
        )
        wires.run(Ear(cores[name], name, answer, 1.0, do).listen(LocalClient(wires, name)))
    bus = LocalBus(wires, "daemon")
    power = FleetPower(bus.settings, 0.05, bus=bus)
    wires.run(power.listen(bus.client))
    power.hello_s = 0.05
    gpus = tuple(power.discover())
    state = power.states()["old"]
    assert state.unpacks
    infos = cores["old"].discover()
    hello = wire.decode(fleet_wire.state_out("old", infos, cores["old"].status(), whole=True))
    power._take(wire.encode({name: value for name, value in hello.items() if name not in {"unpacks", "v"}}), "old")
    power.bus.call = lambda work, _s: work.close()
    power._post.hand_over = told_to(told)
    power.hold([(0.0, dict.fromkeys(gpus, 250)), (2.0, dict.fromkeys(gpus, 300))], 60.0, LEASE)
    assert "packed" in wire.decode(told["new"])
    assert "steps" in wire.decode(told["old"])
    wires.loop.close()


def told_to(told):
    async def nothing():
        return None

    def take(_bus, nodes, one, _most_s):
        told.update({node: one(node) for node in nodes})
        return nothing()

    return take


class SlowHolder:
    """An actuator whose trajectories take until they are let through."""

    def __init__(self):
        self.holding, self.go, self.done = threading.Event(), threading.Event(), []

    def discover(self):
        return {}

    def apply(self, caps_w, lease):
        self.done += ["apply"] * bool(caps_w)  # a word to all is none
        return Receipt({gpu: float(cap) for gpu, cap in caps_w.items()})

    def release(self, limits_w):
        self.done.append("release")
        return Receipt(dict(limits_w))

    def hold(self, steps, until_s, lease):
        self.holding.set()
        assert self.go.wait(20.0)
        self.done.append("hold")


def test_an_order_does_not_wait_for_a_trajectory_on_its_way_and_a_release_does():
    slow, store = SlowHolder(), Store.in_memory()
    dispatcher = Dispatcher(store, slow, {"all": ("g",)}, writes=True, epoch=1, lease_s=60.0)
    store.remember_first_limits({"g": (400.0, "card")}, NOW)
    dispatcher.adopt()
    handing = threading.Thread(target=dispatcher.hold, args=([(0.0, {"all": PoolOrder(300, 1)})], 60.0, NOW))
    handing.start()
    assert slow.holding.wait(20.0)
    started = time.monotonic()
    assert dispatcher.apply({"all": PoolOrder(250, 1)}, 60.0, NOW).pools == ("all",)
    assert time.monotonic() - started < 5.0
    releasing = threading.Thread(target=dispatcher.release, args=(NOW,))
    releasing.start()
    time.sleep(0.2)
    assert slow.done == ["apply"], "a trajectory that comes after its release would bring the caps back"
    slow.go.set()
    handing.join(20.0)
    releasing.join(20.0)
    assert slow.done == ["apply", "hold", "release"]


def test_nodes_that_the_config_names_are_waited_for(monkeypatch):
    """Thousands of nodes on few cores answer in bursts, and the first of them is not the last."""
    wires = Wires(asyncio.new_event_loop())
    bus = LocalBus(wires, "daemon")
    waited = []

    async def nobody(_waiting, seconds):
        _waiting.close()
        waited.append(seconds)
        if len(waited) == 1:
            return "n1", {}
        raise TimeoutError

    monkeypatch.setattr("adapters.power.fleet.asyncio.wait_for", nobody)
    for nodes, last_s in ((("n1", "n2"), 7.0), ((), 1.0)):
        waited.clear()
        with pytest.raises(AdapterError):
            FleetPower(bus.settings, 7.0, nodes, bus=bus).discover()
        assert waited == [7.0, pytest.approx(last_s + 0.001)]
    wires.loop.close()


def test_every_card_goes_to_its_own_node_however_cards_are_mixed():
    wires = Wires(asyncio.new_event_loop())
    bus = LocalBus(wires, "daemon")
    power = FleetPower(bus.settings, 1.0, bus=bus)
    told = {"phase": "free", "epoch": 0, "sequence": -1, "lease_left_s": 0.0, "capped": 0}
    for node in ("a", "b"):
        power._take(wire.encode({"node": node, "draw_w": {f"{node}{k}": 9.0 for k in range(3)}, **told}), node)
    mixed = {"x": 0, "a0": 1, "b1": 2, "b0": 3, "y": 4, "a2": 5, "a1": 6, "z": 7, "a3": 8, "b2": 9}
    assert power._by_node(mixed) == (
        {"a": {"a0": 1, "a2": 5, "a1": 6}, "b": {"b1": 2, "b0": 3, "b2": 9}},
        ["x", "y", "z", "a3"],
    )
    assert power._by_node({}) == ({}, [])
    wires.loop.close()


class Counted:
    """A bus that keeps everything, and counts what it is told."""

    def __init__(self):
        self.client = self
        self.told = []

    async def publish(self, subject, _data):
        self.told.append(subject)


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("patient", [True, False])
def test_an_order_that_comes_while_trajectories_go_out_is_let_through_first_but_not_for_ever(
    monkeypatch, patient, told
):
    """Whether it is on its way already, or only told of."""
    monkeypatch.setattr("adapters.power.fleet_post.WAY_S", 30.0)

    async def rehearse():
        bus, kept = Counted(), []

        async def exchange(messages, _share):
            kept.append(len(messages))
            if len(kept) == 1:
                post.orders = 0 if told else 1  # an event has come
                if told:
                    post.make_way()
            return [SimpleNamespace(data=b"{}")] * len(messages)

        post = TrajectoryPost(1, exchange, lambda: None)
        post._bucket, nodes = object(), [f"n{number}" for number in range(2 * PART + 1)]
        on_its_way = asyncio.create_task(post.hand_over(bus, nodes, lambda _node: b"{}", 30.0 if patient else 0.2))
        await asyncio.sleep(0.1)
        assert (kept, bus.told) == ([PART], []), "nothing more beside the order"
        if patient:
            post.orders, post._coming_until = 0, 0.0
        await asyncio.wait_for(on_its_way, 20.0)
        assert kept == [PART, PART, 1]
        assert len(bus.told) == len(nodes)

    asyncio.run(rehearse())


def test_whoever_hurries_the_fast_loop_makes_trajectories_wait():
    wires, hurried = Wires(asyncio.new_event_loop()), []
    power = FleetPower(LocalBus(wires, "daemon").settings, 0.05, bus=LocalBus(wires, "daemon"))
    timer = SimpleNamespace(hurry=lambda: hurried.append(power._post._coming_until))
    App.hurry(SimpleNamespace(parts=SimpleNamespace(hardware=SimpleNamespace(power=power)), timer=timer))
    assert hurried[0] > time.monotonic()
    wires.loop.close()
