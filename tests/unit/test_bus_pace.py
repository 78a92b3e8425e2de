"""News gather for a moment where nobody waits; whoever does is served at once."""

import selectors
import socket
import threading
from time import monotonic

import pytest

import adapters.power.fleet
from adapters.bus import Bus
from adapters.bus_pace import Pace
from adapters.ports import GpuInfo
from adapters.power import fleet_wire
from adapters.power.fleet import FleetPower
from tests.support.nats import nats_servers
from tests.support.power_worlds import wait_until

LONG_S = 60.0
STATUS = {"phase": "free", "epoch": 1, "sequence": 0, "lease_left_s": 9.0, "found_w": {}, "reasserted": 0,
          "yielded_w": {}}  # fmt: skip


@pytest.fixture
def ends():
    pair = socket.socketpair()
    yield pair
    for end in pair:
        end.close()


def ready(gather_s, ends, *, steady=True):
    made = Pace(gather_s)
    made.steady = steady
    made.register(ends[0], selectors.EVENT_READ)
    ends[1].send(b"news")
    return made


def test_what_comes_within_the_time_is_read_in_one_go(ends):
    pace = ready(0.3, ends)
    threading.Timer(0.05, ends[1].send, (b" and more",)).start()
    started = monotonic()
    assert len(pace.select(None)) == 1
    assert monotonic() - started >= 0.29
    assert ends[0].recv(100) == b"news and more"
    pace.close()


@pytest.mark.parametrize("why", ["no gathering", "not connected", "the loop has work", "somebody waits"])
def test_nothing_waits_where(why, ends):
    pace = ready(0.0 if why == "no gathering" else LONG_S, ends, steady=why != "not connected")
    if why == "somebody waits":
        pace.hurry()
    started = monotonic()
    assert len(pace.select(0 if why == "the loop has work" else 5.0)) == 1
    assert monotonic() - started < LONG_S / 4
    pace.close()


def test_who_begins_to_wait_ends_the_gathering_and_the_last_one_who_waits_begins_it_again(ends):
    pace = ready(LONG_S, ends)
    threading.Timer(0.1, pace.hurry).start()
    started = monotonic()
    assert len(pace.select(None)) == 1
    pace.hurry()
    pace.rest()
    assert len(pace.select(None)) == 1
    assert monotonic() - started < LONG_S / 4
    pace.rest()
    pace._gather_s, started = 0.3, monotonic()
    assert len(pace.select(None)) == 1
    assert monotonic() - started >= 0.29
    pace.close()


def test_an_order_does_not_wait_for_news_of_nodes_that_gather(tmp_path, monkeypatch):
    monkeypatch.setattr(adapters.power.fleet, "GATHER_S", LONG_S)
    with nats_servers(tmp_path, "n1") as servers:
        fleet, node = FleetPower(servers.settings("daemon"), 2.0), Bus(servers.settings("n1"))
        try:
            for bus in (node, fleet.bus):
                bus.wait_connected(20.0)
            started, info = monotonic(), GpuInfo("GPU-1", "H100", 200, 700, 700, 700, 700, 400.0)
            said = fleet_wire.state_out("n1", {info.id: info}, STATUS, whole=False)
            for _ in range(3):
                node.call(node.client.publish(fleet_wire.state_subject("n1"), said), 5.0)
                node.call(node.client.flush(5), 6.0)
                fleet.bus.call(fleet.bus.client.flush(5), 6.0)
            wait_until(lambda: "n1" in fleet.states())
            assert monotonic() - started < LONG_S / 2
        finally:
            fleet.close()
            node.close()
