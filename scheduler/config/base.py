"""What all models of the config share: no unknown keys, nothing changes after the check, and the common kinds of value.

Each key has a description and an example, because the sample config, the JSON schema and the reference page are made
from the models and from nothing else. Defaults stand in the models, and only there.
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationInfo,
    WithJsonSchema,
)

from adapters.fields import Duration, TimeOfDay, did_you_mean, parse_zone

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Model(BaseModel):
    """Base of the config's models. Input is hidden in pydantic's own messages, since it may be a secret."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False)


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError("must be longer than nothing")
    return value


def _currency(value: str) -> str:
    if len(value) != 3 or not value.isascii() or not value.isalpha() or not value.isupper():
        raise ValueError(f'"{value}" is not a currency; write its three letters, such as USD, EUR or AUD')
    return value


def _weekday(value: object) -> object:
    if value not in WEEKDAYS:
        hint = did_you_mean(str(value), list(WEEKDAYS))
        raise ValueError(f'"{value}" is not a day of the week; write {", ".join(WEEKDAYS)}.{hint}')
    return value


def _iana(name: str) -> str:
    if getattr(parse_zone(name), "key", None) is None:
        raise ValueError(
            f'"{name}" is an offset; a site needs a name such as Europe/Berlin, since its clocks may change'
        )
    return name


def _path(value: Any, info: ValidationInfo) -> Path:
    if not isinstance(value, str | Path) or not str(value).strip():
        raise ValueError("must be a path")
    base: Path | None = (info.context or {}).get("base_dir")
    path = Path(value).expanduser()
    return path if base is None else Path(os.path.normpath(base / path))


PositiveDuration = Annotated[Duration, AfterValidator(_positive)]
"""A length of time with its unit, more than nothing."""

Currency = Annotated[str, AfterValidator(_currency)]
"""Three capital letters of ISO 4217."""

Weekday = Annotated[str, BeforeValidator(_weekday), WithJsonSchema({"type": "string", "enum": list(WEEKDAYS)})]
"""mon to sun."""

SiteZone = Annotated[str, AfterValidator(_iana)]
"""An IANA time zone name."""

ConfigPath = Annotated[
    Path, BeforeValidator(_path), PlainSerializer(str, return_type=str), WithJsonSchema({"type": "string"})
]
"""A path; the loader counts relative ones from the folder of the config file, and `~` is the user's home."""

Share = Annotated[float, Field(ge=0, le=1)]
"""0 to 1."""

NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]

__all__ = [
    "LOOPBACK",
    "WEEKDAYS",
    "AwareDatetime",
    "ConfigPath",
    "Count",
    "Currency",
    "Duration",
    "Model",
    "NotNegative",
    "Positive",
    "PositiveDuration",
    "Share",
    "SiteZone",
    "TimeOfDay",
    "Weekday",
]
