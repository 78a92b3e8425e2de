"""Config values that many adapters share, with the checks that turn a typing error into a clear sentence.

Why here: each adapter carries its own config model, and an operator should write a duration, a time zone or an id the
same way in all of them. The scheduler's config uses these as well.
"""

from __future__ import annotations

import re
from datetime import time, timedelta, timezone, tzinfo
from difflib import get_close_matches
from typing import Annotated, Any
from zoneinfo import ZoneInfo, available_timezones

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, PlainSerializer, WithJsonSchema

_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION = re.compile(r"^(?:\d+(?:\.\d+)?[smhdw])+$")
_OFFSET = re.compile(r"^([+-])(\d{2}):([0-5]\d)$")
_HHMM = re.compile(r"^([01]\d|2[0-4]):([0-5]\d)$")
_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")


class AdapterConfig(BaseModel):
    """Base of every adapter's config: unknown keys are refused, values cannot change after they were checked."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def did_you_mean(word: str, known: list[str]) -> str:
    """` Did you mean "x"?` for the known word that is closest to `word`, or an empty string."""
    lowered = {name.lower(): name for name in known}
    close = get_close_matches(word.lower(), list(lowered), n=1, cutoff=0.6)
    return f' Did you mean "{lowered[close[0]]}"?' if close else ""


def parse_duration(value: object) -> timedelta:
    """`90s`, `5m`, `36h`, `2d`, `1h30m` as a timedelta; ValueError for anything else (a bare number has no unit)."""
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str) or not _DURATION.match(value.replace(" ", "")):
        raise ValueError(f'"{value}" is not a duration; write a number with a unit, such as 90s, 5m, 36h or 2d')
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhdw])", value)
    return timedelta(seconds=sum(float(number) * _UNIT_S[unit] for number, unit in parts))


def format_duration(value: timedelta) -> str:
    """The shortest text that `parse_duration` reads back: 2d, 36h, 5m, 90s."""
    seconds = value.total_seconds()
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds and seconds % length == 0:
            return f"{seconds // length:.0f}{unit}"
    return f"{seconds:g}s"


def parse_zone(name: str) -> tzinfo:
    """Time zone of an IANA name or of a fixed offset such as `+10:00`; ValueError with the closest name otherwise."""
    if match := _OFFSET.match(name):
        sign = -1 if match[1] == "-" else 1
        return timezone(sign * timedelta(hours=int(match[2]), minutes=int(match[3])))
    names = available_timezones()
    if name not in names:
        hint = did_you_mean(name, sorted(names))
        raise ValueError(f'"{name}" is not a time zone; write an IANA name or an offset such as +10:00.{hint}')
    return ZoneInfo(name)


def parse_time_of_day(value: object) -> int:
    """`HH:MM` as minutes after local midnight, `24:00` included; ValueError otherwise."""
    if isinstance(value, time):
        return value.hour * 60 + value.minute
    match = _HHMM.match(value) if isinstance(value, str) else None
    if match is None or (match[1] == "24" and match[2] != "00"):
        raise ValueError(f'"{value}" is not a time of day; write HH:MM between 00:00 and 24:00')
    return int(match[1]) * 60 + int(match[2])


def _checked_zone(name: str) -> str:
    parse_zone(name)
    return name


def _checked_time(value: Any) -> str:
    minutes = parse_time_of_day(value)
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def _checked_id(name: str) -> str:
    if not _ID.match(name):
        raise ValueError(f'"{name}" is not an id; write letters, digits, "_", "-" or ".", at most 64 of them')
    return name


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"^(\d+(\.\d+)?[smhdw])+$"}),
]
"""A length of time with its unit, such as 90s, 5m, 36h, 2d."""

ZoneName = Annotated[str, AfterValidator(_checked_zone)]
"""An IANA time zone name, UTC, or a fixed offset such as +10:00."""

TimeOfDay = Annotated[
    str,
    BeforeValidator(_checked_time),
    WithJsonSchema({"type": "string", "pattern": r"^([01]\d|2[0-4]):[0-5]\d$"}),
]
"""A local time of day, HH:MM, up to 24:00."""

Id = Annotated[str, AfterValidator(_checked_id)]
"""A name that other parts of the config refer to."""
