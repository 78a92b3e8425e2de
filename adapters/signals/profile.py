"""A daily profile by local hour, the same every day or different at weekends: chiefly the load of an interactive pool.

Why: before a site has telemetry of its own load, the shape of a day is what its operator knows best, and a plan made
for a shape is far better than one made for a flat line.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from adapters.context import AdapterContext
from adapters.fields import ZoneName, parse_zone
from adapters.signals.base import SignalConfig, local_spans, unit_of
from optimizer.domain import Series

FiniteFloat = Annotated[float, Field(allow_inf_nan=False)]
_DAY = [0.45, 0.4, 0.38, 0.37, 0.4, 0.48, 0.58, 0.68, 0.78, 0.86, 0.9, 0.92,
        0.93, 0.94, 0.94, 0.93, 0.92, 0.9, 0.88, 0.86, 0.8, 0.7, 0.6, 0.5]  # fmt: skip


class ProfileConfig(SignalConfig):
    """24 values by local hour."""

    type: Literal["profile"] = Field(description="Kind of source.", examples=["profile"])
    timezone: ZoneName = Field(
        default="UTC",
        description="Time zone of the hours: an IANA name or an offset.",
        examples=["America/Los_Angeles"],
    )
    hours: list[FiniteFloat] = Field(
        min_length=24, max_length=24, description="Value of each local hour, from 00:00 on, in `unit`.", examples=[_DAY]
    )
    weekend_hours: list[FiniteFloat] | None = Field(
        default=None,
        min_length=24,
        max_length=24,
        description="Value of each local hour on Saturdays and Sundays; absent: as on other days.",
        examples=[[round(value * 0.8, 3) for value in _DAY]],
    )


class ProfileSource:
    """The profile laid over the calendar; an hour that clocks repeat or leave out is repeated or left out here too."""

    Config = ProfileConfig

    def __init__(self, config: ProfileConfig, context: AdapterContext) -> None:
        unit = unit_of(config.kind, config.unit, context.currency)
        self._name, self._unit, self._zone = config.id, unit.canonical, parse_zone(config.timezone)
        self._weekday = tuple(unit.convert(value) for value in config.hours)
        self._weekend = tuple(unit.convert(value) for value in config.weekend_hours or config.hours)

    def read(self, start: datetime, end: datetime, now: datetime) -> Series:
        """The profile over [start, end), widened to quarter-hours."""
        return Series(self._name, self._unit, local_spans(start, end, self._zone, self._value))

    def _value(self, local: datetime) -> float:
        return (self._weekend if local.weekday() >= 5 else self._weekday)[local.hour]
