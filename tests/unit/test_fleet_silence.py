"""A node that does not answer holds nobody up twice, and is ordered about again as soon as it speaks."""

import asyncio

import pytest

from adapters.ports import AdapterError, GpuInfo, Lease
from adapters.power import fleet_wire, wire
from adapters.power.fleet import FleetPower
from benchmarks.support.storm_bus import LocalBus, LocalClient, Wires
from optimizer.reasons import Reason

STATUS = {"phase": "free", "epoch": 1, "sequence": 0, "lease_left_s": 9.0, "found_w": {}, "reasserted": 0,
          "yielded_w": {}}  # fmt: skip


def state(node):
    info = GpuInfo(f"GPU-{node}", "H100", 200, 700, 700, 700, 700, 400.0)
    return fleet_wire.state_out(node, {info.id: info}, STATUS, whole=True)


@pytest.fixture
def wires():
    made = Wires(asyncio.new_event_loop())
    yield made
    made.loop.close()


@pytest.mark.timeout(30)
def test_a_mute_node_is_waited_for_once_and_heard_again_when_it_speaks(wires):
    mute = {"n2"}

    def node(name, client):
        async def ask(message):
            caps = wire.decode(message.data)["caps_w"]
            if name not in mute:
                body = {"enforced_w": caps, "failures": {}, "notes": [], "seconds": 0.0}
                await message.respond(wire.encode({"ok": True, "result": body}))

        async def hello(_):
            await client.publish(fleet_wire.state_subject(name), state(name))

        return ask, hello

    for name in ("n1", "n2"):
        client = LocalClient(wires, name)
        ask, hello = node(name, client)
        wires.run(client.subscribe(fleet_wire.ask_subject(name), cb=ask))
        wires.run(client.subscribe(fleet_wire.HELLO, cb=hello))
    bus = LocalBus(wires, "daemon")
    power = FleetPower(bus.settings, 0.05, ("n1", "n2"), bus=bus)
    wires.run(power.listen(bus.client))
    assert set(power.discover()) == {"GPU-n1", "GPU-n2"}

    def order(cap_w):
        receipt = power.apply({"GPU-n1": cap_w, "GPU-n2": cap_w}, Lease(1, cap_w, 30.0))
        return dict(receipt.enforced_w), dict(receipt.failures)

    assert order(500) == ({"GPU-n1": 500}, {"GPU-n2": Reason.NODE_LOST})
    power._deadline_s = 3600.0  # whoever waits for it now waits for an hour
    assert order(400) == ({"GPU-n1": 400}, {"GPU-n2": Reason.NODE_LOST})
    receipt = power.apply({"GPU-n2": 400}, Lease(1, 900, 30.0))
    assert dict(receipt.failures) == {"GPU-n2": Reason.NODE_LOST}
    assert power.heard(("GPU-n1", "GPU-n2")) == set()
    mute.clear()
    wires.run(asyncio.sleep(0.1))  # until the first deadline is over it may be at work, and would get no order
    wires.run(LocalClient(wires, "n2").publish(fleet_wire.state_subject("n2"), state("n2")))
    assert power.heard(("GPU-n1", "GPU-n2")) == {"GPU-n2"}
    assert order(300) == ({"GPU-n1": 300, "GPU-n2": 300}, {})
    assert power.heard(("GPU-n1", "GPU-n2")) == set()


def test_a_node_whose_agent_was_dead_is_heard_of_again_though_the_server_answered_for_it(wires):
    """The server says at once that nobody listens; nobody is waited for, and the return is news all the same."""
    bus = LocalBus(wires, "daemon")
    power = FleetPower(bus.settings, 0.05, ("n1",), bus=bus)
    wires.run(power.listen(bus.client))
    told = LocalClient(wires, "n1")
    wires.run(told.publish(fleet_wire.state_subject("n1"), state("n1")))
    assert dict(power.apply({"GPU-n1": 500}, Lease(1, 1, 30.0)).failures) == {"GPU-n1": Reason.NODE_LOST}
    assert power.heard(("GPU-n1",)) == set()
    wires.run(told.publish(fleet_wire.state_subject("n1"), state("n1")))
    assert power.heard(("GPU-n1",)) == {"GPU-n1"}


def test_a_lease_is_told_to_all_beside_orders_only_where_not_all_are_asked_or_it_is_time(wires):
    """An order renews its node's lease: the same word to everybody would double what a thousand agents have to hear."""
    heard, now = [], [1000.0]

    async def renew(message):
        heard.append(wire.decode(message.data)["lease"]["sequence"])

    async def ask(message):
        body = {"enforced_w": wire.decode(message.data)["caps_w"], "failures": {}, "notes": [], "seconds": 0.0}
        await message.respond(wire.encode({"ok": True, "result": body}))

    for name in ("n1", "n2"):
        wires.run(LocalClient(wires, name).subscribe(fleet_wire.ask_subject(name), cb=ask))
    wires.run(LocalClient(wires, "n3").subscribe(fleet_wire.RENEW, cb=renew))
    bus = LocalBus(wires, "daemon")
    power = FleetPower(bus.settings, 0.05, bus=bus, clock=lambda: now[0])
    power._take(state("n1"), "n1")
    power._take(state("n2"), "n2")
    both = {"GPU-n1": 500, "GPU-n2": 500}
    power.apply(both, Lease(1, 1, 30.0))
    assert heard == [1], "nobody knows who else has a lease of ours"
    now[0] += 9.0
    power.apply(both, Lease(1, 2, 30.0))
    assert heard == [1]
    power.apply({"GPU-n1": 400}, Lease(1, 3, 30.0))
    assert heard == [1, 3], "the other node's lease ends too"
    now[0] += 19.0
    power.apply(both, Lease(1, 4, 30.0))
    assert heard == [1, 3]
    now[0] += 2.0
    power.apply(both, Lease(1, 5, 30.0))
    assert heard == [1, 3, 5]
    power.apply({}, Lease(1, 6, 30.0))
    assert heard == [1, 3, 5, 6], "that is all that it is for"


def test_a_lease_for_all_is_told_behind_orders_for_all_even_where_they_fail(wires):
    """Thousands of nodes that are told to renew while each has an order to obey would do it later; who may no longer
    order when the answers are in keeps them, and renews nothing."""
    said, may = [], [True]

    async def renew(_message):
        said.append("renewed")

    async def ask(message):
        said.append("obeyed")
        if not may[0]:
            power.permit = refuse
        body = {"enforced_w": wire.decode(message.data)["caps_w"], "failures": {}, "notes": [], "seconds": 0.0}
        await message.respond(wire.encode({"ok": True, "result": body}))

    def refuse():
        raise AdapterError("another one leads")

    for name in ("n1", "n2"):
        wires.run(LocalClient(wires, name).subscribe(fleet_wire.ask_subject(name), cb=ask))
    wires.run(LocalClient(wires, "n3").subscribe(fleet_wire.RENEW, cb=renew))
    bus, now = LocalBus(wires, "daemon"), [1000.0]
    power = FleetPower(bus.settings, 0.05, bus=bus, clock=lambda: now[0])
    power._take(state("n1"), "n1")
    power._take(state("n2"), "n2")
    power.apply({"GPU-n1": 500, "GPU-n2": 500}, Lease(1, 1, 30.0))
    assert said == ["obeyed", "obeyed", "renewed"]
    said.clear()
    power.apply({"GPU-n1": 400}, Lease(1, 2, 30.0))
    assert said == ["renewed", "obeyed"], "who is not asked waits for nobody"
    said.clear()
    now[0], may[0] = 1025.0, False
    receipt = power.apply({"GPU-n1": 300, "GPU-n2": 300}, Lease(1, 3, 30.0))
    assert said == ["obeyed", "obeyed"]
    assert receipt.enforced_w == {"GPU-n1": 300, "GPU-n2": 300}


def test_cards_that_a_board_holds_lower_are_told_of(wires):
    bus = LocalBus(wires, "daemon")
    power = FleetPower(bus.settings, 0.05, ("n1",), bus=bus)
    power._take(state("n1"), "n1")
    assert power.contested().lowered == frozenset()
    info = GpuInfo("GPU-n1", "H100", 200, 700, 700, 700, 700, 400.0)
    power._take(fleet_wire.state_out("n1", {info.id: info}, {**STATUS, "lowered": ["GPU-n1"]}, whole=False), "n1")
    assert power.contested().lowered == {"GPU-n1"}


def test_cards_that_ignore_caps_or_keep_one_after_its_release_are_told_of(wires):
    bus = LocalBus(wires, "daemon")
    power = FleetPower(bus.settings, 0.05, ("n1",), bus=bus)
    info = GpuInfo("GPU-n1", "H100", 200, 700, 700, 700, 400, 400.0)
    power._take(state("n2"), "n2")
    odd = {"yielded_w": {"GPU-n1": 400.0, "GPU-n2": 400.0}, "ignoring": ["GPU-n1", "GPU-n2"], "kept_w": {"GPU-n1": 400}}
    power._take(fleet_wire.state_out("n1", {info.id: info}, {**STATUS, **odd}, whole=True), "n1")
    told = power.contested()
    assert told.ignoring == {"GPU-n1"}, "GPU-n2 is not its own"
    assert [(note.code, note.subject) for note in told.notes] == [(Reason.CAP_REFUSED, "GPU-n1")]
    assert "keeps its cap, 400 W, though it accepted the release" in told.notes[0].text
