"""A battery or an engine over Modbus TCP, by registers that the operator takes from its manual.

Why registers in the config: inverters differ in addresses, widths, signs and scales, and in nothing else that matters
here. Why a time-out register: a device whose controller dies must go to 0 by itself; the lease is written with each
set-point, as seconds until it reverts (SunSpec calls it RvrtTms). One lost device costs a tick at most one time-out: it
is then left alone for a while, ever longer.
"""

from __future__ import annotations

import struct
from typing import Any, Literal

from pydantic import Field

from adapters.context import AdapterContext
from adapters.fields import AdapterConfig
from adapters.ports import AdapterError, DeviceReading, Lease
from adapters.registry import import_extra

MOST_PAUSE_S = 30.0
NUMBERS = Literal["int16", "uint16", "int32", "uint32", "float32"]


class Register(AdapterConfig):
    """One value of the device: value in kW, kWh or s = scale * what stands in the holding register."""

    address: int = Field(ge=0, le=65535, description="Address of the (first) holding register.", examples=[40100])
    number: NUMBERS = Field(default="int16", description="How it is stored.", examples=["float32"])
    scale: float = Field(
        default=1.0,
        description="What one count is in kW, kWh or seconds; negative where the device counts discharge as positive.",
        examples=[0.1],
        allow_inf_nan=False,
    )


class ModbusConfig(AdapterConfig):
    """A device over Modbus TCP."""

    type: Literal["modbus"] = Field(description="Modbus TCP.", examples=["modbus"])
    host: str = Field(min_length=1, description="Its address.", examples=["10.0.0.20"])
    port: int = Field(default=502, ge=1, le=65535, description="Its port.", examples=[502])
    device_id: int = Field(default=1, ge=0, le=255, description="Unit on the bus behind that address.", examples=[1])
    word_order: Literal["big", "little"] = Field(
        default="big", description="Which register of a wide number comes first.", examples=["big"]
    )
    timeout_s: float = Field(default=0.3, gt=0, le=5, description="How long one answer may take.", examples=[0.3])
    power: Register = Field(
        description="Power now, in kW, positive while it draws.", examples=[{"address": 40090, "scale": -0.001}]
    )
    setpoint: Register = Field(
        description="Power that is asked of it, in kW, positive to draw.",
        examples=[{"address": 40100, "scale": -0.001}],
    )
    timeout: Register = Field(
        description="Seconds after which it goes to 0 unless the set-point comes again.", examples=[{"address": 40102}]
    )
    stored: Register | None = Field(
        default=None, description="Energy in it, in kWh; absent: an engine.", examples=[{"address": 40110}]
    )


class ModbusDevice:
    """`SetpointDevice` over Modbus TCP. Not for several threads."""

    Config = ModbusConfig

    def __init__(self, config: ModbusConfig, context: AdapterContext) -> None:
        self._config, self._clock = config, context.clock
        client = import_extra("pymodbus.client").ModbusTcpClient
        self._refused: type[Exception] = import_extra("pymodbus.exceptions").ModbusException
        self._client: Any = client(config.host, port=config.port, timeout=config.timeout_s, retries=0)
        self._quiet_until, self._pause_s = float("-inf"), 1.0

    def read(self) -> DeviceReading:
        """Power, energy and set-point now. Raises AdapterError when it does not answer."""
        config = self._config
        self._reached()
        stored = self._get(config.stored) if config.stored is not None else None
        return DeviceReading(self._clock.now(), self._get(config.power), stored, self._get(config.setpoint))

    def apply(self, kw: float, lease: Lease) -> DeviceReading:
        """Write the time-out, then the set-point, and read everything back."""
        self._reached()
        self._put(self._config.timeout, lease.expires_in_s)
        self._put(self._config.setpoint, kw)
        return self.read()

    def release(self) -> DeviceReading:
        """Ask for 0."""
        self._reached()
        self._put(self._config.setpoint, 0.0)
        return self.read()

    def close(self) -> None:
        """End the connection."""
        self._client.close()

    def _reached(self) -> None:
        """Connect where that is needed and not too soon after the last failure."""
        if self._clock.monotonic() < self._quiet_until:
            raise AdapterError(f"{self._place}: still left alone after no answer")
        if not self._client.connected and not self._client.connect():
            raise self._failed("no connection")

    @property
    def _place(self) -> str:
        return f"modbus {self._config.host}:{self._config.port}"

    def _failed(self, text: str) -> AdapterError:
        self._quiet_until = self._clock.monotonic() + self._pause_s
        self._pause_s = min(MOST_PAUSE_S, 2 * self._pause_s)
        self._client.close()
        return AdapterError(f"{self._place}: {text}")

    def _get(self, register: Register) -> float:
        kind = self._client.DATATYPE[register.number.upper()]
        try:
            answer = self._client.read_holding_registers(
                register.address, count=kind.value[1], device_id=self._config.device_id
            )
        except self._refused as error:
            raise self._failed(str(error)) from error
        if answer.isError():
            raise self._failed(f"register {register.address} can't be read: {answer}")
        count = self._client.convert_from_registers(answer.registers, kind, word_order=self._config.word_order)
        self._pause_s = 1.0
        assert isinstance(count, int | float)
        return register.scale * count

    def _put(self, register: Register, value: float) -> None:
        kind = self._client.DATATYPE[register.number.upper()]
        count = value / register.scale
        exact: float | int = count if register.number == "float32" else round(count)
        try:
            words = self._client.convert_to_registers(exact, kind, word_order=self._config.word_order)
            answer = self._client.write_registers(register.address, words, device_id=self._config.device_id)
        except (self._refused, struct.error) as error:
            raise self._failed(f"register {register.address}: {error}") from error
        if answer.isError():
            raise self._failed(f"register {register.address} can't be written: {answer}")
