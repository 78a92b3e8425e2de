"""Modbus peers that misbehave on a real connection: each is a lost meter or device, and none of them a lost tick."""

from contextlib import closing
from pathlib import Path
from threading import Event

import pytest

from adapters.context import AdapterContext
from adapters.devices.modbus import ModbusConfig, ModbusDevice
from adapters.meters.modbus import ModbusMeter, ModbusMeterConfig
from adapters.ports import AdapterError, Lease
from scheduler.clock import VirtualClock
from tests.support.modbus_device import answered, reset, rude_peer
from tests.support.problems import START

READ, WRITE = 3, 16


def function(request, code):
    return request[:7] + bytes([code]) + request[8:]


def half(connection, request):
    connection.sendall(answered(request, 3000)[:7])
    connection.close()


RUDE = {
    "reset": reset,
    "half an answer": half,
    "bytes of nothing": lambda connection, _request: connection.sendall(b"\xff" * 200),
    "no answer": lambda _connection, _request: None,
    "an answer about other registers": lambda connection, request: connection.sendall(answered(request, 3000, 3000)),
    "an answer about nothing": lambda connection, request: connection.sendall(answered(request)),
    "fewer bytes than it says": lambda c, request: c.sendall(answered(request, 3000)[:-2]),
    "an odd number of bytes": lambda c, request: c.sendall(
        request[:4] + b"\0\x04" + request[6:8] + b"\x01\x07"),
    "another function": lambda c, request: c.sendall(function(answered(request, 3000), 4)),
    "a function of nobody": lambda c, request: c.sendall(function(answered(request, 3000), 99)),
    "a refusal": lambda c, request: c.sendall(
        request[:4] + b"\0\x03" + request[6:7] + bytes([request[7] | 0x80, 6])),
}  # fmt: skip


def common(port):
    return {"type": "modbus", "host": "127.0.0.1", "port": port, "timeout_s": 0.3}


def meter_of(port, clock):
    config = common(port) | {"site": "north", "power": [{"address": 0, "number": "uint16"}]}
    return closing(ModbusMeter(ModbusMeterConfig.model_validate(config), AdapterContext(clock, Path())))


@pytest.mark.parametrize("how", RUDE)
def test_a_meter_that_misbehaves_is_lost_left_alone_and_read_again(how):
    clock, rude = VirtualClock(START), Event()

    def behave(connection, request):
        RUDE[how](connection, request) if rude.is_set() else connection.sendall(answered(request, 1000))

    with rude_peer(behave) as peer, meter_of(peer.port, clock) as meter:
        assert meter.read().import_kw == {"north": 1000}
        rude.set()
        for _ in range(3):
            with pytest.raises(AdapterError, match=f"modbus 127.0.0.1:{peer.port}: register 0 can't be read"):
                meter.read()
            asked = peer.requests
            with pytest.raises(AdapterError, match="left alone"):
                meter.read()
            assert peer.requests == asked, "it costs no tick a time-out in between"
            clock.sleep(60.0)
        rude.clear()
        assert meter.read().import_kw == {"north": 1000}


@pytest.mark.parametrize("how", ["reset", "half an answer", "no answer", "another function", "a refusal"])
@pytest.mark.parametrize("call", [READ, WRITE])
def test_a_device_that_misbehaves_is_an_error_when_it_is_read_and_when_it_is_set(how, call):
    clock, rude = VirtualClock(START), Event()

    def behave(connection, request):
        if rude.is_set() and request[7] == call:
            RUDE[how](connection, request)
        else:
            connection.sendall(answered(request, 5))

    with rude_peer(behave) as peer:
        places = {"power": {"address": 0}, "setpoint": {"address": 1}, "timeout": {"address": 2}}
        config = ModbusConfig.model_validate(common(peer.port) | places)
        with closing(ModbusDevice(config, AdapterContext(clock, Path()))) as device:
            assert device.apply(5.0, Lease(1, 1, 60.0)).kw == 5
            rude.set()
            for order in (lambda: device.apply(5.0, Lease(1, 2, 60.0)), device.release):
                with pytest.raises(AdapterError, match=r"register \d can't be (read|written)"):
                    order()
                with pytest.raises(AdapterError, match="left alone"):
                    device.read()
                clock.sleep(60.0)
            rude.clear()
            assert device.release().setpoint_kw == 5


def test_a_name_that_is_none_is_no_connection():
    config = common(502) | {"host": "meter..north", "site": "north", "power": [{"address": 0}]}
    meter = ModbusMeter(ModbusMeterConfig.model_validate(config), AdapterContext(VirtualClock(START), Path()))
    with pytest.raises(AdapterError, match=r"modbus meter\.\.north:502: no connection"):
        meter.read()
