"""What all signal sources share: the config keys around a signal, and units turned into one unit per kind.

Why units here: a price of 30 may be dollars per MWh, cents per kWh or euros, and a factor of 10 or 1000 is the most
expensive typing error there is. A source converts once, on the way in, and refuses a currency that is not the config's.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from enum import StrEnum
from typing import ClassVar

from pydantic import Field

from adapters.fields import AdapterConfig, Duration, Id, parse_time_of_day, parse_zone
from adapters.ports import SourceError
from optimizer.domain import Span
from optimizer.quality import Due, GateRules, Zero

LB_TO_G = 453.59237


class SignalKind(StrEnum):
    """What a signal means; each kind has one unit inside."""

    PRICE = "price"
    CARBON = "carbon"
    WEATHER = "weather"
    LOAD = "load"
    LIMIT = "limit"
    PROBABILITY = "probability"
    SYSTEM_LOAD = "system_load"
    GENERATION = "generation"


class SignalConfig(AdapterConfig):
    """Keys that every signal has, whatever its source."""

    id: Id = Field(description="Name of the signal; sites and pools refer to it.", examples=["caiso_da"])
    kind: SignalKind = Field(
        default=SignalKind.PRICE,
        description="What the values are: price, carbon (intensity), weather (outside temperature), load (busy share "
        "of a pool, 0 to 1), limit (kW), probability (of a coincident peak, 0 to 1), system_load (the grid's load, MW) "
        "or generation (on site, kW).",
        examples=["price"],
    )
    unit: str | None = Field(
        default=None,
        description="Unit of the values: for prices CUR/MWh, CUR/kWh or c/kWh; for carbon g/kWh, kg/MWh or lb/MWh; for "
        "weather degC or degF; for loads and probabilities fraction or percent; for limits and generation kW or MW; "
        "for the system load MW or GW. Default: the config's currency per MWh, g/kWh, degC, fraction, kW, MW.",
        examples=["USD/MWh"],
    )
    max_age: Duration = Field(
        default=timedelta(hours=48),
        description="How old the last good values may become before the signal counts as lost.",
        examples=["48h"],
    )
    cap: float | None = Field(
        default=None,
        description="Values above this, in `unit`, are left out as errors. Give the market's own price cap: rare high "
        "prices are real.",
        examples=[5000],
    )
    floor: float | None = Field(
        default=None,
        description="Values below this, in `unit`, are left out as errors. Negative prices are real.",
        examples=[-1000],
    )

    measured: ClassVar[bool] = False
    """Whether the values are somebody else's, which may come wrong; an operator's own are taken as they are written."""

    def bounds(self) -> tuple[float | None, float | None]:
        """Floor and cap in `unit`: as configured, or what this source can never tell."""
        return self.floor, self.cap

    def day_ahead_due(self) -> tuple[str, str] | None:
        """Zone and local time by which the next day is published; None where there is none."""
        return None


@dataclass(frozen=True, slots=True)
class Unit:
    """Linear way from a declared unit to the one used inside: value * scale + offset, in `canonical`."""

    canonical: str
    scale: float
    offset: float = 0.0

    def convert(self, value: float) -> float:
        """One value in the unit used inside."""
        return value * self.scale + self.offset


_FIXED: dict[SignalKind, tuple[str, dict[str, tuple[float, float]]]] = {
    SignalKind.CARBON: (
        "g/kWh",
        {
            "g/kwh": (1, 0),
            "kg/mwh": (1, 0),
            "kg/kwh": (1000, 0),
            "lb/mwh": (LB_TO_G / 1000, 0),
            "lbs/mwh": (LB_TO_G / 1000, 0),
        },
    ),
    SignalKind.WEATHER: ("degC", {"degc": (1, 0), "degf": (5 / 9, -160 / 9)}),
    SignalKind.LOAD: ("fraction", {"fraction": (1, 0), "percent": (0.01, 0), "%": (0.01, 0)}),
    SignalKind.LIMIT: ("kW", {"kw": (1, 0), "w": (0.001, 0), "mw": (1000, 0)}),
    SignalKind.PROBABILITY: ("fraction", {"fraction": (1, 0), "percent": (0.01, 0), "%": (0.01, 0)}),
    SignalKind.SYSTEM_LOAD: ("MW", {"mw": (1, 0), "gw": (1000, 0), "kw": (0.001, 0)}),
    SignalKind.GENERATION: ("kW", {"kw": (1, 0), "w": (0.001, 0), "mw": (1000, 0)}),
}
_PRICE = re.compile(r"^(?P<money>[A-Za-z]{3}|ct?|p)/(?P<per>[kM]Wh)$")


def unit_of(kind: SignalKind, declared: str | None, currency: str) -> Unit:
    """How to convert `declared` values of `kind`; raises SourceError for an unknown unit or another currency."""
    if kind is SignalKind.PRICE:
        return _price_unit(declared, currency)
    canonical, known = _FIXED[kind]
    pair = known.get((declared or canonical).lower())
    if pair is None:
        raise SourceError(f'unit: "{declared}" is not a unit of {kind}; known: {", ".join(known)}')
    return Unit(canonical, *pair)


def _price_unit(declared: str | None, currency: str) -> Unit:
    canonical = f"{currency}/MWh"
    match = _PRICE.match(declared or canonical)
    if match is None:
        raise SourceError(f'unit: "{declared}" is not a unit of price; write {canonical}, {currency}/kWh or c/kWh')
    money = match["money"]
    hundredth = money in {"c", "ct", "p"}
    named = "GBP" if money == "p" else currency if hundredth else money.upper()
    if named != currency:
        raise SourceError(f'unit: "{declared}" is {named}, but the config is in {currency}; no conversion is made')
    return Unit(canonical, (0.01 if hundredth else 1.0) * (1000.0 if match["per"] == "kWh" else 1.0))


ZERO = {SignalKind.PRICE: Zero.DOUBTED, SignalKind.CARBON: Zero.NEVER, SignalKind.SYSTEM_LOAD: Zero.NEVER}
"""What 0 means where somebody else tells it; anything else may be 0."""
PEAKS_BY_DAY = (SignalKind.PRICE, SignalKind.SYSTEM_LOAD)


def gate_rules(config: SignalConfig, currency: str, zone: tzinfo | None = None) -> GateRules:
    """What the gate asks of this signal: its unit, its bounds and its age limit (`cap` and `floor` are in its unit).

    `zone` is that of the site that uses it.
    """
    unit = unit_of(config.kind, config.unit, currency)
    floor, cap = config.bounds()
    due = config.day_ahead_due()
    return GateRules(
        unit=unit.canonical,
        cap=None if cap is None else unit.convert(cap),
        floor=None if floor is None else unit.convert(floor),
        max_age_s=config.max_age.total_seconds(),
        plausible_p90=1.0 if config.kind is SignalKind.PRICE else None,
        zero=ZERO.get(config.kind, Zero.REAL) if config.measured else Zero.REAL,
        measured=config.measured,
        zone=zone if config.kind in PEAKS_BY_DAY else None,
        due=None if due is None else Due(parse_zone(due[0]), parse_time_of_day(due[1])),
    )


QUARTER = timedelta(minutes=15)


def local_spans(
    start: datetime, end: datetime, zone: tzinfo, value_at: Callable[[datetime], float]
) -> tuple[Span, ...]:
    """[start, end) as UTC spans of the value that `value_at` gives for local time, equal neighbours joined.

    Every zone's offset is a multiple of a quarter-hour, so that stepping by UTC quarter-hours is right on days of 23
    and 25 hours as well. Bounds are widened to whole quarter-hours.
    """
    at = datetime.fromtimestamp(start.timestamp() // 900 * 900, UTC)
    spans: list[Span] = []
    while at < end:
        value = value_at(at.astimezone(zone))
        if spans and spans[-1].value == value:
            spans[-1] = Span(spans[-1].start, at + QUARTER, value)
        else:
            spans.append(Span(at, at + QUARTER, value))
        at += QUARTER
    return tuple(spans)
