"""In the moment of a change two daemons believe that they lead: what is passed on is done once and answered once."""

import signal
import threading
import time
from contextlib import ExitStack

import pytest

from adapters.bus import Bus
from adapters.power.fleet_wire import LEAD
from scheduler.standby.proxy import LEAVE_S, LeadDesk, decode, encode, passed_on
from tests.support.nats import nats_servers
from tests.support.power_worlds import wait_until

REQUESTS = 40
"""So many that of two desks each has some, but for once in 10^12 runs."""


def application(name, done):
    """A daemon's API that keeps what it did."""

    async def app(scope, receive, send):
        body = (await receive())["body"]
        done.append((name, body))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": name.encode()})

    return app


def request(number):
    return {"method": "POST", "path": "/api/v1/events", "query": "", "headers": [], "body": str(number).encode()}


async def answers_to_all(bus):
    """Send the requests at once, and gather every answer that comes: a client's own request takes only the first."""
    inbox, heard = bus.client.new_inbox(), []

    async def hear(message):
        heard.append(decode(message.data))

    await bus.client.subscribe(f"{inbox}.*", cb=hear)
    for number in range(REQUESTS):
        await bus.client.publish(LEAD, encode(request(number)), reply=f"{inbox}.{number}")
    await bus.client.flush()
    return heard


@pytest.fixture
def world(tmp_path):
    """A server; three buses to it; the desks of the first two, and what was done at them."""
    done = []
    with ExitStack() as stack:
        server = stack.enter_context(nats_servers(tmp_path, "n1"))
        buses = [Bus(server.settings("daemon")) for _ in range(3)]
        for bus in buses:
            stack.callback(bus.close)
            bus.wait_connected(20.0)
        desks = [LeadDesk(bus, application(name, done)) for name, bus in zip("ab", buses, strict=False)]
        for bus in buses[:2]:
            bus.call(bus.client.flush(), 5.0)  # the server knows of both
        yield server, buses, desks, done


def test_two_daemons_that_lead_at_once_do_a_request_once_and_answer_it_once(world):
    _, buses, (first, second), done = world
    heard = buses[2].call(answers_to_all(buses[2]), 10.0)
    wait_until(lambda: len(heard) >= REQUESTS)
    time.sleep(0.5)  # a second answer would be here by now
    assert sorted(int(body) for _, body in done) == list(range(REQUESTS)), "each is done, and once"
    assert len(heard) == REQUESTS, "each is answered once"
    assert {name for name, _ in done} == {"a", "b"} == {answer["body"].decode() for answer in heard}, "both hear"

    first.close()
    done.clear()
    for number in range(5):
        answer = buses[2].call(passed_on(buses[2], request(number)), 10.0)
        assert (answer["status"], answer["body"]) == (200, b"b")
    assert len(done) == 5, "who leads alone has them all"
    second.close()
    assert buses[2].call(passed_on(buses[2], request(9)), 10.0) is None, "nobody leads"


def test_a_request_that_was_on_its_way_to_a_desk_that_closes_is_answered(world):
    _, buses, desks, done = world

    async def busy():
        time.sleep(0.3)  # the first daemon is slow: what the server sends it meanwhile is not read yet

    stalled = buses[0].begin(busy())
    heard = buses[2].call(answers_to_all(buses[2]), 10.0)
    desks[0].close()
    stalled.result(5.0)
    wait_until(lambda: len(heard) >= REQUESTS)
    assert {name for name, _ in done} == {"a", "b"}, "the one that closed had some"
    assert sorted(int(body) for _, body in done) == list(range(REQUESTS))


def test_a_desk_that_closes_while_its_server_is_mute_closes_and_hears_no_more_when_it_is_back(world):
    server, buses, desks, done = world
    (process,) = server.processes.values()
    process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    desks[0].close()
    assert time.monotonic() - began < 2.0 * LEAVE_S + 1.0
    server.stop()
    wait_until(lambda: not any(bus.connected for bus in buses), 30.0)
    server.start()
    wait_until(lambda: all(bus.connected for bus in buses), 30.0)
    for bus in buses[:2]:
        bus.call(bus.client.flush(), 5.0)
    for number in range(20):
        assert buses[2].call(passed_on(buses[2], request(number)), 10.0)["body"] == b"b"
    assert len(done) == 20


@pytest.mark.parametrize("mute_s", [0.3, 1.5])
def test_a_bus_whose_desk_closed_while_its_server_was_mute_goes_on(world, mute_s):
    """The lease is kept over the same bus: it must hear the server as soon as that speaks again."""
    server, buses, desks, _ = world
    (process,) = server.processes.values()
    process.send_signal(signal.SIGSTOP)
    closing = threading.Thread(target=desks[0].close)
    closing.start()
    time.sleep(mute_s)
    process.send_signal(signal.SIGCONT)
    closing.join(5.0)
    assert buses[0].call(passed_on(buses[0], request(1)), 5.0)["body"] == b"b"
    assert buses[0].call(passed_on(buses[0], request(2)), 2.0)["body"] == b"b"


def test_a_desk_that_closes_while_its_bus_is_busy_hears_no_more_after_it(world):
    _, buses, desks, done = world

    async def busy():
        time.sleep(2.0 * LEAVE_S + 0.6)

    stalled = buses[0].begin(busy())
    desks[0].close()
    stalled.result(5.0)
    buses[0].call(buses[0].client.flush(), 5.0)
    for number in range(20):
        assert buses[2].call(passed_on(buses[2], request(number)), 10.0)["body"] == b"b"
    assert len(done) == 20
