"""A battery or an engine over Modbus TCP, by registers that the operator takes from its manual.

Why a time-out register: a device whose controller dies must go to 0 by itself; the lease is written with each
set-point, as seconds until it reverts (SunSpec calls it RvrtTms). One lost device costs a tick at most one time-out: it
is then left alone for a while, ever longer.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from adapters.context import AdapterContext
from adapters.modbus import ModbusLink, ModbusServer, Register
from adapters.ports import DeviceReading, Lease


class ModbusConfig(ModbusServer):
    """A device over Modbus TCP."""

    type: Literal["modbus"] = Field(description="Modbus TCP.", examples=["modbus"])
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
        self._link = ModbusLink(config, context)

    def read(self) -> DeviceReading:
        """Power, energy and set-point now. Raises AdapterError when it does not answer."""
        config, link = self._config, self._link
        link.reach()
        stored = link.get(config.stored) if config.stored is not None else None
        return DeviceReading(self._clock.now(), link.get(config.power), stored, link.get(config.setpoint))

    def apply(self, kw: float, lease: Lease) -> DeviceReading:
        """Write the time-out, then the set-point, and read everything back."""
        self._link.reach()
        self._link.put(self._config.timeout, lease.expires_in_s)
        self._link.put(self._config.setpoint, kw)
        return self.read()

    def release(self) -> DeviceReading:
        """Ask for 0."""
        self._link.reach()
        self._link.put(self._config.setpoint, 0.0)
        return self.read()

    def close(self) -> None:
        """End the connection."""
        self._link.close()
