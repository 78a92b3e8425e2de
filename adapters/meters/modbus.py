"""A site's import from its meter over Modbus TCP.

Why this much doubt: the fast loop trims the whole site by this number. A meter that is silent, says "not available",
shows no number or one that cannot be, or has stood still for too long behind a gateway that repeats old answers, is
lost, and import is then derived from the cards' own power through PUE.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from math import isfinite
from typing import Literal, Self

from pydantic import Field, model_validator

from adapters.context import AdapterContext
from adapters.fields import Duration, Id
from adapters.modbus import ModbusLink, ModbusServer, Register
from adapters.ports import AdapterError, Reading

STILL, MOST_STILL = timedelta(seconds=10), timedelta(seconds=90)
"""A value that stands still for longer is no old one; the latter where it has moved as seldom before."""


class MeterRegister(Register):
    """One value of a meter: scale * what stands in its register."""

    scale: float = Field(
        default=1.0,
        description="What one count is in kW; negative where the meter counts export as positive.",
        examples=[0.001],
        allow_inf_nan=False,
    )
    table: Literal["holding", "input"] = Field(
        default="holding",
        description="Which registers: holding (function 3) or input (function 4).",
        examples=["input"],
    )
    not_available: int | None = Field(
        default=None,
        description="The count by which the meter says that it has no value, where the manual names one.",
        examples=[-32768],
    )


class ModbusMeterConfig(ModbusServer):
    """A site's meter over Modbus TCP."""

    type: Literal["modbus"] = Field(description="A meter over Modbus TCP.", examples=["modbus"])
    site: Id = Field(description="The site whose import it measures.", examples=["north"])
    power: tuple[MeterRegister, ...] = Field(
        min_length=1,
        description="Import now, in kW, positive from the grid; several registers (phases, feeders) are added up.",
        examples=[[{"address": 52, "number": "float32", "table": "input", "scale": 0.001}]],
    )
    min_kw: float | None = Field(
        default=None,
        description="Least that can be, in kW; a reading below is none. Negative for a site that exports.",
        examples=[0],
        allow_inf_nan=False,
    )
    max_kw: float | None = Field(
        default=None,
        description="Most that can be, in kW (the rating of the meter's transformers); a reading above is none.",
        examples=[8000],
        allow_inf_nan=False,
    )
    stale_after: Duration | None = Field(
        default=None,
        description="A meter whose registers have not changed for so long is lost. Absent: standing still is allowed.",
        examples=["30s"],
    )
    alive: MeterRegister | None = Field(
        default=None,
        description="A counter or clock of the meter that must move within `stale_after` in place of the power itself.",
        examples=[{"address": 4, "number": "uint32"}],
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.min_kw is not None and self.max_kw is not None and self.min_kw >= self.max_kw:
            raise ValueError("`min_kw` must be less than `max_kw`")
        if self.alive is not None and self.stale_after is None:
            raise ValueError("`alive` needs `stale_after`: within what time it must move")
        if self.stale_after is not None and self.stale_after <= timedelta(0):
            raise ValueError("`stale_after` must be longer than nothing")
        return self


class ModbusMeter:
    """`Meter` of one site over Modbus TCP. Not for several threads."""

    Config = ModbusMeterConfig

    def __init__(self, config: ModbusMeterConfig, context: AdapterContext) -> None:
        self._config, self._clock = config, context.clock
        self._link = ModbusLink(config, context)
        self._last: list[list[int]] = []
        self._moved_at = float("-inf")
        self._moved = False
        self._read_at: datetime | None = None
        self._span: tuple[datetime, datetime] | None = None
        self._still = STILL

    def read(self) -> Reading:
        """Import now. Raises AdapterError when the meter doesn't answer, or nothing that can be believed."""
        config = self._config
        self._link.reach()
        found = [self._link.words(register.address, register.number, register.table) for register in config.power]
        sign_of_life = config.alive and self._link.words(config.alive.address, config.alive.number, config.alive.table)
        self._check_alive([sign_of_life] if sign_of_life else found)
        kw = sum(self._kw(register, words) for register, words in zip(config.power, found, strict=True))
        low = config.min_kw if config.min_kw is not None else float("-inf")
        high = config.max_kw if config.max_kw is not None else float("inf")
        if not low <= kw <= high:
            raise AdapterError(f"{self._link.place}: {kw:g} kW is outside {low:g} to {high:g} kW; not believed")
        now = self._clock.now()
        return Reading(now, {}, {config.site: kw}, import_taken=self._taken(now))

    def close(self) -> None:
        """End the connection."""
        self._link.close()

    def _taken(self, now: datetime) -> dict[str, tuple[datetime, datetime]]:
        """Many meters have a new value every few seconds only: one that has not moved is of the time before it was
        first read, since the read before that. One that stands still for much longer than it did before is what
        is drawn."""
        before, self._read_at = self._read_at, now
        if self._moved:
            if self._span is not None:
                self._still = min(MOST_STILL, max(STILL, 2 * (now - self._span[1])))
            self._span = (before, now) if before is not None else None
            return {}
        return {self._config.site: self._span} if self._span is not None and now - self._span[1] <= self._still else {}

    def _kw(self, register: MeterRegister, words: list[int]) -> float:
        count = self._link.count(words, register.number)
        if count == register.not_available:
            raise AdapterError(f"{self._link.place}: register {register.address} says that it has no value")
        if not isfinite(count):
            raise AdapterError(f"{self._link.place}: register {register.address} holds no number")
        return register.scale * count

    def _check_alive(self, words: list[list[int]]) -> None:
        """Raise AdapterError when nothing has moved for too long."""
        now, patience = self._clock.monotonic(), self._config.stale_after
        self._moved = words != self._last
        if self._moved:
            self._last, self._moved_at = words, now
        elif patience is not None and now - self._moved_at > patience.total_seconds():
            raise AdapterError(
                f"{self._link.place}: nothing has moved for {now - self._moved_at:.0f} s; it stands still"
            )
