"""The meter of simulated nodes over Modbus TCP, as a site has one: it knows nothing of the bus, and sees the cooling.

Why a thread of its own: a process of thousands of nodes is busy for tenths of a second when all are ordered about, and
a meter answers at once. Several processes of one site are feeders: one of them adds the others' meters to its own, and
has no value while one of those can't be read.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from threading import Event, Thread
from time import monotonic
from types import TracebackType
from typing import Any

from adapters.ports import AdapterError
from adapters.registry import import_extra
from scheduler.fleet.twin_hall import TwinHall

EACH_S = 0.2
"""Time between two looks at another process's meter."""
STALE_S = 3.0
"""What was seen so long ago counts no more."""
START_S = 10.0

REGISTERS = struct.Struct(">fffI")
"""From register 0 on, holding and input alike: import in kW, power of the cards in kW, degrees Celsius outside, and a
count that goes on while the meter lives."""

Part = tuple[float, float, float]
"""When a part of the site was seen, its import and its cards' power in kW."""


class TwinMeter:
    """The meter of a hall's site; `see` is called where the hall lives, all else happens beside it. A context."""

    def __init__(self, hall: TwinHall, place: tuple[str, int], feeders: Sequence[tuple[str, int]] = ()) -> None:
        self._hall, self._place, self._feeders = hall, place, tuple(feeders)
        self._parts: list[Part | None] = [None] * (1 + len(self._feeders))
        self._outside_c, self._count = float("nan"), 0
        self._loop = asyncio.new_event_loop()
        self._stop, self._begun = asyncio.Event(), Event()
        self._failure: Exception | None = None
        self._thread = Thread(target=self._run, name="meter", daemon=True)

    def __enter__(self) -> TwinMeter:
        """Listen. AdapterError when the port is not free."""
        self._thread.start()
        if not self._begun.wait(START_S) or self._failure is not None:
            host, port = self._place
            raise AdapterError(f"the meter can't listen on {host}:{port}: {self._failure or 'it takes too long'}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(START_S)

    def see(self) -> None:
        """Take over what the site draws now."""
        import_kw, cards_kw, self._outside_c = self._hall.metered()
        self._parts[0] = (monotonic(), import_kw, cards_kw)
        self._count += 1

    def words(self) -> list[int]:
        """The registers as they are now; without a value where a part of the site has none."""
        oldest, parts = monotonic() - STALE_S, [part for part in self._parts if part is not None]
        whole = len(parts) == len(self._parts) and all(at > oldest for at, _, _ in parts)
        import_kw = sum(part[1] for part in parts) if whole else float("nan")
        cards_kw = sum(part[2] for part in parts) if whole else float("nan")
        packed = REGISTERS.pack(import_kw, cards_kw, self._outside_c, self._count % 2**32)
        return list(struct.unpack(f">{REGISTERS.size // 2}H", packed))

    # ---------------------------------------------------------------- beside the hall
    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except (OSError, RuntimeError, AdapterError) as error:  # RuntimeError is what pymodbus makes of a port in use
            if self._begun.is_set():
                raise
            self._failure = error
        finally:
            self._begun.set()
            self._loop.close()

    async def _serve(self) -> None:
        simulator = import_extra("pymodbus.simulator")
        empty = simulator.SimData(0, values=0, count=REGISTERS.size // 2, datatype=simulator.DataType.REGISTERS)
        device = simulator.SimDevice(1, simdata=[empty], action=self._asked)
        server = import_extra("pymodbus.server").ModbusTcpServer(device, address=self._place)
        await server.serve_forever(background=True)
        self._begun.set()
        following = [asyncio.create_task(self._follow(at, place)) for at, place in enumerate(self._feeders, 1)]
        await self._stop.wait()
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)
        await server.shutdown()

    async def _asked(
        self, _function: int, _start: int, _address: int, _count: int, registers: list[int], written: list[Any] | None
    ) -> Any:
        """Put in what stands in the registers at this moment; nobody writes to a meter."""
        if written:
            return import_extra("pymodbus.constants").ExcCodes.ILLEGAL_FUNCTION
        registers[:] = self.words()
        return None

    async def _follow(self, at: int, place: tuple[str, int]) -> None:
        """Read the meter of another process, again and again."""
        refused = import_extra("pymodbus.exceptions").ModbusException
        client = import_extra("pymodbus.client").AsyncModbusTcpClient(
            place[0], port=place[1], timeout=1.0, retries=0, reconnect_delay=0
        )
        try:
            while True:
                try:
                    if client.connected or await client.connect():
                        answer = await client.read_input_registers(0, count=4)
                        if not answer.isError():
                            data = struct.pack(">4H", *answer.registers)
                            self._parts[at] = (monotonic(), *struct.unpack(">ff", data))
                except refused:
                    client.close()
                await asyncio.sleep(EACH_S)
        finally:
            client.close()
