"""A site's meter over Modbus TCP, against pymodbus' own server: orders, signs, and what is not believed."""

import struct
from contextlib import contextmanager
from datetime import UTC, timedelta
from pathlib import Path
from time import perf_counter

import pytest
from pydantic import ValidationError
from pymodbus.client import ModbusTcpClient

from adapters.context import AdapterContext
from adapters.meters.modbus import ModbusMeter, ModbusMeterConfig
from adapters.ports import AdapterError
from scheduler.clock import VirtualClock
from tests.support.modbus_device import modbus_peer
from tests.support.ports import free_port
from tests.support.problems import START

ADDRESS, ALIVE = 52, 80


def config(port, power, **more):
    power = power if isinstance(power, list) else [power]
    base = {"type": "modbus", "site": "north", "host": "127.0.0.1", "port": port, "timeout_s": 2.0, "power": power}
    return ModbusMeterConfig.model_validate(base | more)


@contextmanager
def meter_over(peer, power=None, clock=None, **more):
    power = power or {"address": ADDRESS, "number": "float32"}
    meter = ModbusMeter(config(peer.port, power, **more), AdapterContext(clock or VirtualClock(START), Path()))
    try:
        yield meter
    finally:
        meter.close()


def write(peer, address, data):
    """Bytes as they travel, into the registers from `address` on."""
    words = list(struct.unpack(f">{len(data) // 2}H", data))
    client = ModbusTcpClient("127.0.0.1", port=peer.port)
    assert client.connect()
    assert not client.write_registers(address, words).isError()
    client.close()


@pytest.fixture(scope="module")
def peer():
    with modbus_peer() as made:
        yield made


@pytest.mark.parametrize(("form", "value", "register", "orders"), [
    (">f", 1234.5, {"number": "float32"}, {}),
    ("<f", 1234.5, {"number": "float32"}, {"word_order": "little", "byte_order": "little"}),
    (">i", -2_000_000, {"number": "int32", "scale": -0.001}, {}),
    (">q", 5_000_000, {"number": "int64", "scale": 0.001}, {}),
    (">d", 321.25, {"number": "float64"}, {}),
    ("<h", -300, {"number": "int16"}, {"byte_order": "little"}),
    (">H", 65000, {"number": "uint16", "scale": 0.1}, {}),
])  # fmt: skip
def test_a_number_is_read_in_the_meters_own_order_scale_and_sign(peer, form, value, register, orders):
    write(peer, ADDRESS, struct.pack(form, value))
    with meter_over(peer, {"address": ADDRESS} | register, **orders) as meter:
        reading = meter.read()
    assert reading.import_kw == pytest.approx({"north": value * register.get("scale", 1.0)})
    assert reading.at.tzinfo is UTC
    assert (reading.pool_kw, reading.lost) == ({}, ())


def test_words_may_be_swapped_while_bytes_are_not(peer):
    high, low = struct.unpack(">2H", struct.pack(">f", 1234.5))
    write(peer, ADDRESS, struct.pack(">2H", low, high))
    with meter_over(peer, word_order="little") as meter:
        assert meter.read().import_kw == pytest.approx({"north": 1234.5})


def test_phases_are_added_up_and_input_registers_are_their_own_table():
    with modbus_peer(shared=False) as peer:
        write(peer, 10, struct.pack(">3h", 100, 200, -50))
        phases = [{"address": address} for address in (10, 11, 12)]
        with meter_over(peer, phases) as meter:
            assert meter.read().import_kw == {"north": 250.0}
        with meter_over(peer, [{"address": 10, "table": "input"}, phases[0]]) as meter:
            assert meter.read().import_kw == {"north": 107.0}


@pytest.mark.parametrize(("data", "register", "more", "text"), [
    (struct.pack(">f", float("nan")), {"number": "float32"}, {}, f"register {ADDRESS} holds no number"),
    (struct.pack(">f", float("inf")), {"number": "float32"}, {}, f"register {ADDRESS} holds no number"),
    (struct.pack(">h", -32768), {"not_available": -32768}, {}, f"register {ADDRESS} says that it has no value"),
    (struct.pack(">h", 9000), {}, {"max_kw": 8000}, "9000 kW is outside -inf to 8000 kW"),
    (struct.pack(">h", -1), {}, {"min_kw": 0, "max_kw": 8000}, "-1 kW is outside 0 to 8000 kW"),
])  # fmt: skip
def test_what_is_no_power_is_not_believed_and_the_next_good_one_is(peer, data, register, more, text):
    write(peer, ADDRESS, data)
    with meter_over(peer, {"address": ADDRESS} | register, **more) as meter:
        with pytest.raises(AdapterError, match=text):
            meter.read()
        good = struct.pack(">f", 500.0) if register.get("number") == "float32" else struct.pack(">h", 500)
        write(peer, ADDRESS, good)
        assert meter.read().import_kw == {"north": 500.0}


@pytest.mark.parametrize("alive", [None, {"address": ALIVE, "number": "uint32"}])
def test_a_meter_that_stands_still_is_lost_and_comes_back_when_it_moves(peer, alive):
    clock, moving = VirtualClock(START), ALIVE if alive else ADDRESS
    write(peer, ADDRESS, struct.pack(">f", 800.0))
    with meter_over(peer, clock=clock, stale_after="30s", alive=alive) as meter:
        meter.read()
        clock.sleep(29.0)
        meter.read()
        clock.sleep(2.0)
        with pytest.raises(AdapterError, match="nothing has moved for 31 s"):
            meter.read()
        write(peer, moving, struct.pack(">f", 801.0))
        assert meter.read().import_kw["north"] == (800.0 if alive else 801.0)
        clock.sleep(20.0)
        if alive:
            write(peer, ADDRESS, struct.pack(">f", 900.0))
            clock.sleep(20.0)
            with pytest.raises(AdapterError, match="nothing has moved"):
                meter.read()  # the power moved; the counter that was named did not


def test_a_register_that_is_not_there_and_a_meter_that_is_gone_are_named_and_left_alone(peer):
    clock = VirtualClock(START)
    with meter_over(peer, {"address": 5000}, clock) as meter:
        with pytest.raises(AdapterError, match=rf"modbus 127\.0\.0\.1:{peer.port}: register 5000 can't be read"):
            meter.read()
        with pytest.raises(AdapterError, match="left alone"):
            meter.read()
    port = free_port()
    gone = ModbusMeter(config(port, {"address": 1}), AdapterContext(clock, Path()))
    started = perf_counter()
    with pytest.raises(AdapterError, match=f"127.0.0.1:{port}: no connection"):
        gone.read()
    for _ in range(50):
        with pytest.raises(AdapterError, match="left alone"):
            gone.read()
    assert perf_counter() - started < 10


@pytest.mark.parametrize(("change", "text"), [
    ({"power": []}, "power"), ({"min_kw": 5, "max_kw": 5}, "less than"), ({"stale_after": "0s"}, "longer than nothing"),
    ({"alive": {"address": 1}}, "needs `stale_after`"), ({"site": "no site!"}, "is not an id"),
])  # fmt: skip
def test_a_config_that_cannot_be_is_refused(change, text):
    with pytest.raises(ValidationError, match=text):
        config(502, **({"power": {"address": 1}} | change))


@pytest.mark.parametrize("alive", [None, {"address": ALIVE, "number": "uint32"}])
def test_a_value_that_has_not_moved_is_of_when_it_was_first_read(peer, alive):
    """Gateways have a new value every few seconds; the loop holds it against the orders of its time."""
    clock, moving = VirtualClock(START), ALIVE if alive else ADDRESS
    with meter_over(peer, clock=clock, alive=alive, **({"stale_after": "60s"} if alive else {})) as meter:
        second = timedelta(seconds=1)
        for kw in (700.0, 701.0):
            write(peer, moving, struct.pack(">f", kw))
            assert meter.read().import_taken == {}, "new: of now"
            clock.sleep(0.25)
        clock.sleep(1.0)
        assert meter.read().import_taken == {"north": (START, START + second / 4)}, "it moved between these two"
        clock.sleep(8.0)
        assert meter.read().import_taken == {"north": (START, START + second / 4)}
        clock.sleep(10.75)
        assert meter.read().import_taken == {}, "what stands still for so long is drawn now"
        write(peer, moving, struct.pack(">f", 702.0))
        assert meter.read().import_taken == {}
        clock.sleep(39.0)
        assert len(meter.read().import_taken) == 1, "as long as twice the time that it took the last time"
        clock.sleep(1.5)
        assert meter.read().import_taken == {}
