"""The simulated twin of every signal source: seeded synthetic values, and each fault a real source has, on demand.

Why beside the real ones: tests and demos then meet late, torn, hanging and lying sources through the same port as
production does. A value depends only on the seed and its own interval, so that any window gives the same numbers.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from math import cos, pi
from typing import Literal

from pydantic import Field

from adapters.context import AdapterContext
from adapters.fields import AdapterConfig, Duration, ZoneName, parse_zone
from adapters.ports import SourceError
from adapters.signals.base import SignalConfig, unit_of
from optimizer.domain import Series, Span
from optimizer.timegrid import floor_time


class SignalFaults(AdapterConfig):
    """What is wrong with a simulated source; by default nothing."""

    nan_share: float = Field(default=0.0, ge=0, le=1, description="Share of values that are NaN.", examples=[0.05])
    gap_share: float = Field(default=0.0, ge=0, le=1, description="Share of intervals left out.", examples=[0.05])
    spike_share: float = Field(
        default=0.0, ge=0, le=1, description="Share of values that are a million times too large.", examples=[0.01]
    )
    late: Duration = Field(
        default=timedelta(0),
        description="An interval's value is known only this long after its start; 0: all is known beforehand.",
        examples=["15m"],
    )
    stale: Duration = Field(
        default=timedelta(0), description="The source last heard something new this long ago.", examples=["6h"]
    )
    hang: Duration = Field(
        default=timedelta(0), description="How long a read takes, on the daemon's clock.", examples=["30s"]
    )
    fails: bool = Field(default=False, description="Every read fails.", examples=[True])


class SimulatedConfig(SignalConfig):
    """A synthetic signal: a daily wave with noise."""

    type: Literal["simulated"] = Field(description="Kind of source.", examples=["simulated"])
    timezone: ZoneName = Field(
        default="UTC", description="Time zone in which the wave peaks.", examples=["America/Los_Angeles"]
    )
    seed: int = Field(default=1, description="Seed of the noise; the same seed gives the same values.", examples=[7])
    base: float = Field(default=60.0, description="Mean value, in `unit`.", examples=[60.0])
    swing: float = Field(default=25.0, description="Height of the daily wave, in `unit`.", examples=[25.0])
    noise: float = Field(default=5.0, ge=0, description="Standard deviation of the noise, in `unit`.", examples=[5.0])
    peak_hour: float = Field(default=19.0, ge=0, lt=24, description="Local hour of the peak.", examples=[19.0])
    interval: Duration = Field(default=timedelta(hours=1), description="Length of an interval.", examples=["15m"])
    faults: SignalFaults = Field(
        default_factory=SignalFaults, description="What is wrong with the source.", examples=[{"fails": True}]
    )


class SimulatedSource:
    """Synthetic values with the faults that its config asks for."""

    Config = SimulatedConfig

    def __init__(self, config: SimulatedConfig, context: AdapterContext) -> None:
        self._config, self._clock, self._zone = config, context.clock, parse_zone(config.timezone)
        self._unit = unit_of(config.kind, config.unit, context.currency)

    def read(self, start: datetime, end: datetime, now: datetime) -> Series:
        """Values of the intervals that overlap [start, end), as far as the faults let them be known at `now`."""
        config, faults = self._config, self._config.faults
        if faults.hang:
            self._clock.sleep(faults.hang.total_seconds())
        if faults.fails:
            raise SourceError(f"{config.id}: the simulated source is set to fail")
        heard = now - faults.stale
        known_until = heard - faults.late if faults.late else end
        spans = []
        at = floor_time(start, config.interval)
        while at < end and at <= known_until:
            chance = random.Random(f"{config.seed}/{at.timestamp():.0f}")
            if chance.random() >= faults.gap_share:
                spans.append(Span(at, at + config.interval, self._value(at, chance)))
            at += config.interval
        return Series(config.id, self._unit.canonical, tuple(spans), published_at=heard if faults.stale else None)

    def _value(self, at: datetime, chance: random.Random) -> float:
        config = self._config
        local = at.astimezone(UTC).astimezone(self._zone)
        phase = 2 * pi * (local.hour + local.minute / 60 - config.peak_hour) / 24
        value = config.base + config.swing * cos(phase) + chance.gauss(0.0, config.noise)
        if chance.random() < config.faults.nan_share:
            return float("nan")
        return self._unit.convert(value * 1e6 if chance.random() < config.faults.spike_share else value)
