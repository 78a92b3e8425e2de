"""Places of the config that an adapter describes: `type` names it, and its own model checks the other keys.

Why not a union of models: the adapters of third parties are known only when a config names them, and an adapter that
nobody names is never imported. The registry finds the model; the JSON schema lists those that ship with Gridpace.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, PlainSerializer, PlainValidator, ValidationError, WithJsonSchema

from adapters import registry
from adapters.fields import did_you_mean
from adapters.ports import AdapterError
from scheduler.config.builtin import BUILTIN

ENTRY_PLACES: dict[tuple[str, ...], str] = {
    ("signals", "*"): "signals",
    ("power",): "power",
    ("meters", "*"): "meters",
    ("jobs", "system"): "jobs",
    ("programs", "*", "channel"): "dr",
    ("sites", "*", "batteries", "*", "device"): "devices",
    ("sites", "*", "generators", "*", "device"): "devices",
    ("pools", "*", "parking", "hook"): "parking",
    ("pools", "*", "latency", "source"): "latency",
}
"""Where entries stand (`*`: every item of a list), and which kind of adapter each is."""


class Broken(BaseModel):
    """Stands in for an entry whose problems are already noted, so that the rest of the config is still checked."""


class EntryError(ValueError):
    """An entry has no usable `type`; `field` is the key that the problem is about (None: the entry as a whole)."""

    def __init__(self, field: str | None, text: str) -> None:
        super().__init__(text)
        self.field = field


def entry_model(kind: str, value: Any) -> type[BaseModel]:
    """The model that checks `value`; EntryError when it names no known type."""
    if not isinstance(value, dict):
        raise EntryError(None, "must hold keys and values, with `type` among them")
    named = value.get("type")
    if not isinstance(named, str):
        raise EntryError(None if named is None else "type", f"needs a `type`: {', '.join(known_types(kind))}")
    known = known_types(kind)
    if named not in known:
        raise EntryError("type", f'"{named}" is not one of {", ".join(known)}.{did_you_mean(named, known)}')
    if named in BUILTIN[kind]:
        return BUILTIN[kind][named]
    try:
        return registry.config_model(kind, named)
    except AdapterError as error:
        raise EntryError("type", str(error)) from None


def known_types(kind: str) -> list[str]:
    """Every type that may be named here: the daemon's own parts, what ships in `adapters`, and installed packages."""
    return sorted({*BUILTIN[kind], *registry.known_types(kind)})


def shipped_models(kind: str) -> dict[str, type[BaseModel]]:
    """Models of the types that ship with Gridpace, by type."""
    return dict(sorted((BUILTIN[kind] | registry.config_models(kind)).items()))


def default_entry(kind: str, type_name: str) -> BaseModel:
    """An entry with nothing but defaults."""
    return entry_model(kind, {"type": type_name}).model_validate({"type": type_name})


def _validator(kind: str) -> PlainValidator:
    def validate(value: Any) -> BaseModel:
        if isinstance(value, BaseModel):
            return value
        try:
            return entry_model(kind, value).model_validate(value)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            raise ValueError(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from None

    return PlainValidator(validate)


def _dump(entry: BaseModel) -> dict[str, Any]:
    return entry.model_dump(mode="json")


SignalEntry = Annotated[BaseModel, _validator("signals"), PlainSerializer(_dump), WithJsonSchema({"$entry": "signals"})]
PowerEntry = Annotated[BaseModel, _validator("power"), PlainSerializer(_dump), WithJsonSchema({"$entry": "power"})]
MeterEntry = Annotated[BaseModel, _validator("meters"), PlainSerializer(_dump), WithJsonSchema({"$entry": "meters"})]
JobSystemEntry = Annotated[BaseModel, _validator("jobs"), PlainSerializer(_dump), WithJsonSchema({"$entry": "jobs"})]
ChannelEntry = Annotated[BaseModel, _validator("dr"), PlainSerializer(_dump), WithJsonSchema({"$entry": "dr"})]
DeviceEntry = Annotated[BaseModel, _validator("devices"), PlainSerializer(_dump), WithJsonSchema({"$entry": "devices"})]
ParkingEntry = Annotated[
    BaseModel, _validator("parking"), PlainSerializer(_dump), WithJsonSchema({"$entry": "parking"})
]
LatencyEntry = Annotated[
    BaseModel, _validator("latency"), PlainSerializer(_dump), WithJsonSchema({"$entry": "latency"})
]
