"""What every battery and engine must do, whatever stands behind it: the twin, and Modbus TCP against a real server."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from pymodbus.client import ModbusTcpClient

from adapters.context import AdapterContext
from adapters.devices.modbus import ModbusConfig, ModbusDevice
from adapters.devices.simulated import DeviceSpec, SimulatedDevice
from adapters.ports import AdapterError, Lease
from scheduler.clock import VirtualClock
from tests.support.modbus_device import POWER, SETPOINT, STORED, TIMEOUT, modbus_peer
from tests.support.problems import START


@dataclass
class World:
    device: object
    clock: VirtualClock
    lose: object
    peer: object = None


@pytest.fixture(params=["simulated", "modbus"])
def world(request):
    clock = VirtualClock(START)
    if request.param == "simulated":
        device = SimulatedDevice(DeviceSpec("dc", 100.0, 80.0, 0.0, 200.0), clock, 50.0)
        yield World(device, clock, lambda: setattr(device, "lost", True))
        return
    with modbus_peer() as peer:
        config = ModbusConfig.model_validate({
            "type": "modbus", "host": "127.0.0.1", "port": peer.port,
            "power": {"address": POWER, "number": "int32", "scale": -0.001},
            "setpoint": {"address": SETPOINT, "number": "int32", "scale": -0.001},
            "timeout": {"address": TIMEOUT, "number": "uint16"},
            "stored": {"address": STORED, "number": "float32"},
        })  # fmt: skip
        write(peer.port, STORED, ModbusTcpClient.convert_to_registers(50.0, ModbusTcpClient.DATATYPE.FLOAT32))
        device = ModbusDevice(config, AdapterContext(clock, Path()))
        try:
            yield World(device, clock, peer.stop, peer)
        finally:
            device.close()


def write(port, address, words):
    client = ModbusTcpClient("127.0.0.1", port=port)
    assert client.connect()
    assert not client.write_registers(address, words).isError()
    client.close()


def read(port, address, count):
    client = ModbusTcpClient("127.0.0.1", port=port)
    assert client.connect()
    words = client.read_holding_registers(address, count=count).registers
    client.close()
    return words


def lease(seconds=60.0):
    return Lease(1, 1, seconds)


def test_it_tells_its_power_its_energy_and_its_set_point(world):
    reading = world.device.read()
    assert (reading.kw, reading.setpoint_kw) == pytest.approx((0.0, 0.0))
    assert reading.stored_kwh == pytest.approx(50.0)


@pytest.mark.parametrize("kw", [-60.0, 0.0, 99.5])
def test_a_set_point_is_read_back_in_kw_with_its_sign(world, kw):
    assert world.device.apply(kw, lease()).setpoint_kw == pytest.approx(kw, abs=0.001)
    assert world.device.read().setpoint_kw == pytest.approx(kw, abs=0.001)


def test_release_goes_to_zero(world):
    world.device.apply(-60.0, lease())
    assert world.device.release().setpoint_kw == pytest.approx(0.0)


def test_a_silent_device_is_an_error_and_soon_one_that_costs_no_time(world):
    world.device.read()
    world.lose()
    with pytest.raises(AdapterError):
        world.device.read()
    with pytest.raises(AdapterError):
        world.device.apply(10.0, lease())


def test_the_lease_ends_the_set_point_of_the_twin():
    clock = VirtualClock(START)
    device = SimulatedDevice(DeviceSpec("dc", 100.0, 80.0, 0.0, 200.0), clock, 50.0)
    device.apply(-60.0, lease(30.0))
    assert device.run(clock.now(), 60.0, 500.0) == pytest.approx(-30.0)  # half of the minute
    assert device.stored_kwh == pytest.approx(50.0 - 0.5)
    clock.sleep(31.0)
    assert device.read().setpoint_kw == 0.0


def test_modbus_writes_what_the_manual_says():
    """-60 kW, counted in W with discharge positive: 60,000 as a signed 32-bit number, high word first; 45 s to live."""
    with modbus_peer() as peer:
        config = ModbusConfig.model_validate({
            "type": "modbus", "host": "127.0.0.1", "port": peer.port, "power": {"address": POWER},
            "setpoint": {"address": SETPOINT, "number": "int32", "scale": -0.001}, "timeout": {"address": TIMEOUT},
        })  # fmt: skip
        device = ModbusDevice(config, AdapterContext(VirtualClock(START), Path()))
        assert device.apply(-60.0, lease(45.0)).stored_kwh is None
        assert read(peer.port, SETPOINT, 2) == [0, 60000]
        assert read(peer.port, TIMEOUT, 1) == [45]
        small = config.model_copy(update={"setpoint": config.power})
        narrow = ModbusDevice(small, AdapterContext(VirtualClock(START), Path()))
        with pytest.raises(AdapterError, match=f"register {POWER}"):
            narrow.apply(1e6, lease())  # does not fit into 16 bits
        device.close()
        narrow.close()
