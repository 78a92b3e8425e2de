"""A signal that never changes: a flat tariff, a site without weather data, a pool that is always busy.

Why a source of its own: then a fixed price passes the same gate, shows its age and its unit, and is replaced by a
live source by changing one line of the config.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from adapters.context import AdapterContext
from adapters.signals.base import SignalConfig, unit_of
from optimizer.domain import Series, Span


class ConstantConfig(SignalConfig):
    """One value for ever."""

    type: Literal["constant"] = Field(description="Kind of source.", examples=["constant"])
    value: float = Field(description="The value, in `unit`.", examples=[85.0], allow_inf_nan=False)


class ConstantSource:
    """The same value at every moment."""

    Config = ConstantConfig

    def __init__(self, config: ConstantConfig, context: AdapterContext) -> None:
        unit = unit_of(config.kind, config.unit, context.currency)
        self._name, self._unit, self._value = config.id, unit.canonical, unit.convert(config.value)

    def read(self, start: datetime, end: datetime, now: datetime) -> Series:
        """The value over [start, end)."""
        return Series(self._name, self._unit, (Span(start, end, self._value),))
