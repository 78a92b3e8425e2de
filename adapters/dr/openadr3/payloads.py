"""What the payloads of an OpenADR 3 event ask of the site: each type mapped, or refused aloud.

Why nothing is guessed: a capacity limit in an unknown unit read as kW is a factor of 1000, and a sign read the wrong
way raises the load that should fall. What the texts leave open is asked in the config; what is absent there is
refused, that payload alone, with its name.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from adapters.dr.openadr3.config import OpenAdr3Config, Sense, target_kw
from adapters.dr.openadr3.intervals import Slot, shared
from adapters.dr.openadr3.objects import Descriptor, ValuesMap
from adapters.ports import EventTarget

LIMIT, SUBSCRIPTION, RESERVATION = (
    "IMPORT_CAPACITY_LIMIT",
    "IMPORT_CAPACITY_SUBSCRIPTION",
    "IMPORT_CAPACITY_RESERVATION",
)
CAPACITY = frozenset({LIMIT, SUBSCRIPTION, RESERVATION})
"""Hard caps: never delayed by a random start, kept when what follows can't be read."""
PRICES = frozenset({"PRICE", "EXPORT_PRICE", "PRICE_ALTERNATE", "GHG"})
SPELT = {
    "CAPACITY_LIMIT": LIMIT,
    "CAPACITY_SUBSCRIPTION": SUBSCRIPTION,
    "CAPACITY_RESERVATION": RESERVATION,
    "IMPORT_CAPACITY_AVAILABLE_FEE": "IMPORT_CAPACITY_AVAILABLE_PRICE",
}
"""Spellings of the user guide -> the enumeration's."""
UNUSED = {
    "IMPORT_CAPACITY_RESERVATION_FEE": "the price of a reservation is only shown",
    "IMPORT_CAPACITY_AVAILABLE": "no capacity is reserved by itself",
    "IMPORT_CAPACITY_AVAILABLE_PRICE": "no capacity is reserved by itself",
    "EXPORT_CAPACITY_LIMIT": "the site does not export",
    "EXPORT_CAPACITY_SUBSCRIPTION": "the site does not export",
    "EXPORT_CAPACITY_RESERVATION": "the site does not export",
    "EXPORT_CAPACITY_RESERVATION_FEE": "the site does not export",
    "EXPORT_CAPACITY_AVAILABLE": "the site does not export",
    "EXPORT_CAPACITY_AVAILABLE_PRICE": "the site does not export",
    "OLS": "a load shape is no order",
    "CURVE": "a curve is no order",
    "CHARGE_STATE_SETPOINT": "batteries are planned by their own prices",
}
"""Types that Gridpace knows and does not follow, and why."""
OBEYED = (
    LIMIT, SUBSCRIPTION, RESERVATION, "DISPATCH_SETPOINT", "DISPATCH_SETPOINT_RELATIVE", "DISPATCH_INSTRUCTION",
    "CONTROL_SETPOINT", "CONTROL_LEVEL_OFFSET", "CONTROL_LEVEL_OFFSET_PERCENT", "SIMPLE",
)  # fmt: skip
"""Types that become caps, most binding first; alerts stand behind the capacity types."""
_POWER_KW = {"KW": 1.0, "W": 0.001, "MW": 1000.0, "GW": 1e6}


@dataclass(frozen=True, slots=True)
class Ask:
    """What one payload asks over [start, end). `kind` is its type: asks of different kinds never contradict."""

    kind: str
    target: EventTarget
    emergency: bool = False


class Refused3(ValueError):
    """One payload is not followed; the text says why."""


def kind_of(payload_type: str) -> str:
    """The enumeration's spelling of a type."""
    name = payload_type.strip().upper()
    return SPELT.get(name, name)


def is_order(payload_type: str) -> bool:
    """Whether a type asks something of the site's power."""
    kind = kind_of(payload_type)
    return kind in OBEYED or kind.startswith("ALERT_")


def singly(payload: ValuesMap) -> list[ValuesMap]:
    """A payload whose values are instructions of their own as one for each, so that each is followed or refused by its
    name; any other as it is."""
    if kind_of(payload.type) != "DISPATCH_INSTRUCTION" or len(payload.values) < 2:
        return [payload]
    return [payload.model_copy(update={"values": [value]}) for value in payload.values]


def asks_of(slot: Slot, payload: ValuesMap, descriptor: Descriptor, config: OpenAdr3Config) -> tuple[Ask, ...]:
    """What a payload asks, N values dividing the interval equally; nothing for "normal". Raises Refused3."""
    kind = kind_of(payload.type)
    read = _reader(kind)
    found = []
    for start, end, value in _shares(slot, payload):
        meant = read(value, descriptor, config, kind)
        if meant is not None:
            target = EventTarget(start, end, **meant)
            found.append(Ask(kind, target, kind.startswith("ALERT_")))
    return tuple(found)


def _shares(slot: Slot, payload: ValuesMap) -> list[tuple[datetime, datetime, Any]]:
    if kind_of(payload.type).startswith("ALERT_"):  # its text may be missing
        return [(slot.start, slot.end, payload.values)]
    if not payload.values:
        raise Refused3("it has no values")
    if kind_of(payload.type) == "DISPATCH_INSTRUCTION":
        return [(slot.start, slot.end, payload.values[0])]
    try:
        return list(shared(slot, payload.values))
    except ValueError as error:
        raise Refused3(str(error)) from None


Reader = Callable[[Any, Descriptor, OpenAdr3Config, str], dict[str, float] | None]


def _reader(kind: str) -> Reader:
    if kind in UNUSED:
        raise Refused3(UNUSED[kind])
    reader = _alert if kind.startswith("ALERT_") else _READERS.get(kind)
    if reader is None:
        raise Refused3("this type is not known")
    return reader


def _limit(value: Any, descriptor: Descriptor, config: OpenAdr3Config, _: str) -> dict[str, float]:
    return {"limit_kw": not_negative(power_kw(value, descriptor, config))}


def _relative(value: Any, descriptor: Descriptor, config: OpenAdr3Config, _: str) -> dict[str, float] | None:
    return _change(power_kw(value, descriptor, config), config.relative_sense, "relative_sense", "reduce_kw")


def _offset_share(value: Any, _descriptor: Descriptor, config: OpenAdr3Config, _: str) -> dict[str, float] | None:
    share = number(value)
    if not -1 <= share <= 1:
        raise Refused3(f"{share:g} is not between -1 and 1")
    return _change(100.0 * share, config.offset_sense, "offset_sense", "reduce_percent")


def _setpoint(value: Any, descriptor: Descriptor, config: OpenAdr3Config, _: str) -> dict[str, float] | None:
    if config.setpoint == "absolute":
        return _limit(value, descriptor, config, _)
    sense = Sense(config.setpoint) if config.setpoint else None
    return _change(power_kw(value, descriptor, config), sense, "setpoint", "reduce_kw")


def _change(value: float, sense: Sense | None, key: str, field: str) -> dict[str, float] | None:
    """A change as a reduction; one that allows more load asks nothing."""
    if sense is None:
        raise Refused3(f"the text leaves open which sign means less load; say it with `{key}`")
    less = value if sense is Sense.POSITIVE_REDUCES else -value
    return {field: less} if less > 0 else None


def _simple(value: Any, _descriptor: Descriptor, config: OpenAdr3Config, _: str) -> dict[str, float] | None:
    level = whole(value)
    if not 0 <= level <= 3:
        raise Refused3(f"level {level} is not 0 to 3")
    return _mapped(str(level), dict(config.levels), "levels") if level else None


def _offset(value: Any, _descriptor: Descriptor, config: OpenAdr3Config, _: str) -> dict[str, float] | None:
    offset = whole(value)
    if not -10 <= offset <= 10:
        raise Refused3(f"offset {offset} is not -10 to 10")
    return _mapped(str(offset), config.offsets, "offsets") if offset > 0 else None


def _instruction(value: Any, _descriptor: Descriptor, config: OpenAdr3Config, _: str) -> dict[str, float] | None:
    return _mapped(str(value), config.instructions, "instructions")


def _alert(_value: Any, _descriptor: Descriptor, config: OpenAdr3Config, kind: str) -> dict[str, float] | None:
    return _mapped(kind, config.alerts, "alerts")


def _mapped(name: str, responses: dict[str, str], key: str) -> dict[str, float]:
    if name not in responses:
        raise Refused3(f'the config has no response to "{name[:64]}" in `{key}`')
    return target_kw(responses[name])


def power_kw(value: Any, descriptor: Descriptor, config: OpenAdr3Config) -> float:
    """A power in kW by its declared unit. Raises Refused3."""
    unit = (descriptor.units or config.unit or "").strip().upper()
    if not unit:
        raise Refused3("no unit is declared, and the config has no `unit` for that")
    if unit not in _POWER_KW:
        raise Refused3(f'"{unit[:32]}" is not a unit of power')
    return number(value) * _POWER_KW[unit]


def number(value: Any) -> float:
    """A finite number. Raises Refused3 for text, truth values and the rest."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Refused3(f"{str(value)[:32]!r} is not a number")
    return float(value)


def whole(value: Any) -> int:
    """A whole number. Raises Refused3."""
    found = number(value)
    if found != int(found):
        raise Refused3(f"{found:g} is not a whole number")
    return int(found)


def not_negative(value: float) -> float:
    """A power that can be a cap. Raises Refused3."""
    if value < 0:
        raise Refused3(f"{value:g} kW is below 0")
    return value


_READERS: dict[str, Reader] = {
    LIMIT: _limit,
    SUBSCRIPTION: _limit,
    RESERVATION: _limit,
    "DISPATCH_SETPOINT": _limit,
    "DISPATCH_SETPOINT_RELATIVE": _relative,
    "DISPATCH_INSTRUCTION": _instruction,
    "CONTROL_SETPOINT": _setpoint,
    "CONTROL_LEVEL_OFFSET": _offset,
    "CONTROL_LEVEL_OFFSET_PERCENT": _offset_share,
    "SIMPLE": _simple,
}
