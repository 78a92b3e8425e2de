"""A bus that is being closed says so at once, to whoever asks, and leaves nothing behind that never ends."""

import asyncio
import inspect
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import suppress

import pytest
from starlette.testclient import TestClient

from adapters import bus as module
from adapters.bus import Bus
from adapters.bus_settings import BusSettings
from adapters.ports import AdapterError
from scheduler.api.settings import ApiSettings
from scheduler.standby.api import standby_app
from scheduler.standby.proxy import LeadDesk

CLOSED = "this connection is being closed"
LONG_S = 30.0


@pytest.fixture
def bus():
    """One to a server that isn't there."""
    made = Bus(BusSettings(("nats://127.0.0.1:1",), "n1"))
    yield made
    made.close()
    assert made._loop.is_closed()


async def work():
    return 1


def refused(bus):
    """Whether both ways to ask are refused at once, and what was to be done is put away."""
    for ask in (lambda one: bus.call(one, LONG_S), bus.begin):
        one = work()
        with pytest.raises(AdapterError, match=CLOSED):
            ask(one)
        assert inspect.getcoroutinestate(one) == inspect.CORO_CLOSED


def test_who_asks_after_it_was_closed_is_refused(bus):
    assert bus.call(work(), LONG_S) == 1
    bus.close()
    refused(bus)
    bus.close()


@pytest.mark.parametrize("when", ["it hangs up", "its loop ends"])
def test_who_asks_while_it_is_being_closed_is_refused_at_once(bus, monkeypatch, when):
    reached, go_on = threading.Event(), threading.Event()

    async def hold():
        reached.set()
        while not go_on.is_set():
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)

    async def stubborn():
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(LONG_S)
        await hold()

    if when == "it hangs up":
        monkeypatch.setattr(bus, "_hang_up", hold)
    else:
        bus.begin(stubborn())
    closing = threading.Thread(target=bus.close)
    closing.start()
    try:
        assert reached.wait(LONG_S)
        refused(bus)
    finally:
        go_on.set()
        closing.join(LONG_S)


def test_two_who_close_it_at_once_hang_up_once(bus, monkeypatch):
    reached, go_on, hung_up = threading.Event(), threading.Event(), []

    async def hold():
        hung_up.append(1)
        reached.set()
        while not go_on.is_set():
            await asyncio.sleep(0.01)

    monkeypatch.setattr(bus, "_hang_up", hold)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(bus.close)
        assert reached.wait(LONG_S)
        threading.Timer(0.2, go_on.set).start()
        bus.close()
        assert bus._loop.is_closed()
        other.result(LONG_S)
    assert len(hung_up) == 1


@pytest.fixture
def stops(bus, monkeypatch):
    """Set when the bus's loop has been told to stop; `stops.how` is how it does."""
    told, in_the_loop = threading.Event(), bus._loop.call_soon_threadsafe
    told.how = bus._loop.stop

    def spy(do, *rest, **more):
        if do == bus._loop.stop:
            in_the_loop(told.how)
            told.set()
        else:
            in_the_loop(do, *rest, **more)

    monkeypatch.setattr(bus._loop, "call_soon_threadsafe", spy)
    return told


def test_what_was_begun_before_ends_though_it_had_no_turn_yet_or_would_never_end(bus, monkeypatch, stops):
    monkeypatch.setattr(module, "HANG_UP_S", 0.05)
    stalled, go_on = threading.Event(), threading.Event()

    async def busy():
        stalled.set()
        go_on.wait(LONG_S)

    async def deaf():
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(LONG_S)
        await asyncio.sleep(LONG_S)

    with ThreadPoolExecutor(2) as pool:
        asked = pool.submit(bus.call, asyncio.sleep(LONG_S), 2 * LONG_S)
        unheard = bus.begin(deaf())
        bus.begin(busy())
        assert stalled.wait(LONG_S)
        begun = bus.begin(work())  # it would run now, were the loop not busy
        closing = pool.submit(bus.close)
        assert stops.wait(LONG_S)
        go_on.set()
        closing.result(LONG_S)
        with pytest.raises(AdapterError, match=CLOSED):
            asked.result(LONG_S)
        with pytest.raises(CancelledError):
            unheard.result(LONG_S)
        assert begun.result(LONG_S) == 1


def test_what_ends_in_the_loops_last_turn_is_heard_of(bus, stops):
    waits, begins = bus._loop.create_future(), threading.Event()

    async def last():
        begins.set()
        return await waits

    def last_turn():
        waits.set_result(1)
        bus._loop.call_soon(bus._loop.stop)

    stops.how = last_turn
    future = bus.begin(last())
    assert begins.wait(LONG_S)
    bus.close()
    assert future.result(LONG_S) == 1


def test_who_stands_by_says_that_nobody_heard_a_request_and_a_desk_closes_in_peace(bus, monkeypatch):
    monkeypatch.setattr(LeadDesk, "_listen", lambda _: work())
    desk = LeadDesk(bus, None)
    said = {"name": "b", "leader": "", "leader_url": ""}
    app = standby_app(lambda: said, bus, ApiSettings(open_on_loopback=True), bytes)
    bus.close()
    desk.close()
    with TestClient(app, base_url="http://127.0.0.1") as client:
        answer = client.post("/dr/elrp", json={})
    assert answer.status_code == 503
    assert f"nobody heard this (NATS at nats://127.0.0.1:1: {CLOSED})" in answer.json()["error"]
