"""Modbus TCP by registers that the operator takes from a device's manual; meters, batteries and engines share it.

Why registers in the config: devices differ in addresses, widths, orders, signs and scales, and in nothing else that
matters here. A device that has failed is left alone for a while, ever longer, so that it costs few ticks a time-out.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any, Literal

from pydantic import Field

from adapters.context import AdapterContext
from adapters.fields import AdapterConfig
from adapters.ports import AdapterError
from adapters.registry import import_extra
from adapters.workers import Patience

READ_HOLDING, READ_INPUT, WRITE = 3, 4, 16
"""Function codes of the standard."""

NUMBERS = Literal["int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"]


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


class ModbusServer(AdapterConfig):
    """A device's address, and how it writes numbers."""

    host: str = Field(min_length=1, description="Its address.", examples=["10.0.0.20"])
    port: int = Field(default=502, ge=1, le=65535, description="Its port.", examples=[502])
    device_id: int = Field(default=1, ge=0, le=255, description="Unit on the bus behind that address.", examples=[1])
    word_order: Literal["big", "little"] = Field(
        default="big", description="Which register of a wide number comes first.", examples=["big"]
    )
    byte_order: Literal["big", "little"] = Field(
        default="big", description="Which byte of a register comes first; the standard says big.", examples=["big"]
    )
    timeout_s: float = Field(default=0.3, gt=0, le=5, description="How long one answer may take.", examples=[0.3])


class ModbusLink:
    """A connection that is opened when it is needed. Not for several threads."""

    def __init__(self, config: ModbusServer, context: AdapterContext) -> None:
        self._config = config
        self.place = f"modbus {config.host}:{config.port}"
        client = import_extra("pymodbus.client").ModbusTcpClient
        self._refused: type[Exception] = import_extra("pymodbus.exceptions").ModbusException
        self._client: Any = client(config.host, port=config.port, timeout=config.timeout_s, retries=0)
        self._patience = Patience(context.clock, self.place)

    def reach(self) -> None:
        """Connect where that is needed. Raises AdapterError, also when the last failure is not long ago."""
        self._patience.check()
        try:
            connected = self._client.connected or self._client.connect()
        except (OSError, UnicodeError) as error:  # of a host's name that cannot be one, too
            raise self._failed(f"no connection: {error}") from error
        if not connected:
            raise self._failed("no connection")

    def words(self, address: int, number: str, table: str = "holding") -> list[int]:
        """The registers of one number as they stand there. Raises AdapterError."""
        read = self._client.read_input_registers if table == "input" else self._client.read_holding_registers
        count, function = self._kind(number).value[1], READ_INPUT if table == "input" else READ_HOLDING
        answer = self._answer(function, f"register {address} can't be read", read, address, count=count)
        if len(answer.registers) != count:
            raise self._failed(f"register {address} can't be read: {answer}")
        self._patience.worked()
        return self._swapped(answer.registers)

    def count(self, words: Sequence[int], number: str) -> float:
        """The number in these registers."""
        return float(self._client.convert_from_registers(words, self._kind(number), self._config.word_order))

    def get(self, register: Register) -> float:
        """One value. Raises AdapterError, also when no number stands there."""
        count = self.count(self.words(register.address, register.number), register.number)
        if not isfinite(count):
            raise AdapterError(f"{self.place}: register {register.address} holds no number")
        return register.scale * count

    def put(self, register: Register, value: float) -> None:
        """Write one value. Raises AdapterError."""
        count = value / register.scale
        exact: float | int = count if register.number.startswith("float") else round(count)
        try:
            words = self._client.convert_to_registers(
                exact, self._kind(register.number), word_order=self._config.word_order
            )
        except (self._refused, struct.error, OverflowError) as error:
            raise self._failed(f"register {register.address}: {error}") from error
        what = f"register {register.address} can't be written"
        self._answer(WRITE, what, self._client.write_registers, register.address, self._swapped(words))

    def close(self) -> None:
        """End the connection."""
        self._client.close()

    def _answer(self, function: int, what: str, ask: Callable[..., Any], *told: Any, **more: Any) -> Any:
        """An answer to this very question. A connection that the other side resets is pymodbus' to tell only in parts,
        and another function's answer (a gateway's, to somebody else) it takes for ours."""
        try:
            answer = ask(*told, **more, device_id=self._config.device_id)
        except (self._refused, OSError) as error:
            raise self._failed(f"{what}: {error}") from error
        if answer.isError() or answer.function_code != function:
            raise self._failed(f"{what}: {answer}")
        return answer

    def _kind(self, number: str) -> Any:
        return self._client.DATATYPE[number.upper()]

    def _swapped(self, words: Sequence[int]) -> list[int]:
        if self._config.byte_order == "big":
            return list(words)
        return [(word & 0xFF) << 8 | word >> 8 for word in words]

    def _failed(self, text: str) -> AdapterError:
        self._client.close()
        return self._patience.failed(text)
