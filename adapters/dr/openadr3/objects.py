"""The objects of an OpenADR 3 server as far as we read them: 3.1 and 3.0.1, with what servers really send.

Why tolerant: an unknown field, a date without a zone or an unknown unit of one payload must not hide the order beside
it. What an order hangs on (its values and their times) is read strictly, one event at a time; the rest may be anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AliasChoices, AliasGenerator, BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic.alias_generators import to_camel


def camel(name: str) -> str:
    """A field's name as the schema spells it: program_id -> programID."""
    spelt = to_camel(name)
    return spelt[:-2] + "ID" if spelt.endswith("Id") else spelt


class Tolerant(BaseModel):
    """Base: what is not known is passed over; names in camelCase as the schema has them, or in snake_case."""

    model_config = ConfigDict(
        extra="ignore",
        frozen=True,
        alias_generator=AliasGenerator(validation_alias=lambda name: AliasChoices(camel(name), name)),
    )


class ValuesMap(Tolerant):
    """Values of one type."""

    type: str = Field(min_length=1, max_length=128)
    values: list[Any]


class Period(Tolerant):
    """When an interval begins, how long it lasts, by how much its start is drawn at random; texts as they came."""

    start: str | None = None
    duration: str | None = None
    randomize_start: str | None = None


class Interval(Tolerant):
    """One window of an event."""

    id: int = 0
    interval_period: Period | None = None
    payloads: list[ValuesMap] = []

    @field_validator("payloads", mode="before")
    @classmethod
    def _none(cls, value: Any) -> Any:
        return value or []


class Descriptor(Tolerant):
    """What the values of a type mean. Some servers leave `objectType` out."""

    payload_type: str
    units: str | None = None
    currency: str | None = None


class ReportDescriptor(Tolerant):
    """A report that an event asks for; defaults are the schema's."""

    payload_type: str
    reading_type: str | None = None
    units: str | None = None
    aggregate: bool = False
    start_interval: int = -1
    num_intervals: int = -1
    historical: bool = True
    frequency: int = -1
    repeat: int = 1
    report_intervals: str = "INTERVALS"

    @field_validator("*", mode="before")
    @classmethod
    def _default(cls, value: Any, info: Any) -> Any:
        return cls.model_fields[info.field_name].get_default() if value is None else value


class Event(Tolerant):
    """One event as it was read. Descriptors that can't be read are left out."""

    id: str = Field(min_length=1, max_length=128)
    program_id: str = ""
    event_name: str | None = None
    duration: str | None = None
    priority: Annotated[int, Field(ge=0)] | None = None
    targets: list[Any] = []
    report_descriptors: list[ReportDescriptor] = []
    payload_descriptors: list[Descriptor] = []
    interval_period: Period | None = None
    intervals: list[Interval] = []

    @field_validator("targets", "intervals", mode="before")
    @classmethod
    def _none(cls, value: Any) -> Any:
        return value or []

    @field_validator("report_descriptors", "payload_descriptors", mode="before")
    @classmethod
    def _readable(cls, value: Any, info: Any) -> Any:
        model = ReportDescriptor if info.field_name == "report_descriptors" else Descriptor
        return _those_that_fit(model, value)


class Program(Tolerant):
    """A program of the server."""

    id: str = Field(min_length=1)
    program_name: str = ""
    payload_descriptors: list[Descriptor] = []

    @field_validator("payload_descriptors", mode="before")
    @classmethod
    def _readable(cls, value: Any) -> Any:
        return _those_that_fit(Descriptor, value)


class MalformedEvent(ValueError):
    """An event that can't be read; `event_id` is empty where not even that could be."""

    def __init__(self, event_id: str, text: str) -> None:
        super().__init__(text)
        self.event_id = event_id


def read_event(raw: Any) -> Event:
    """One event of a list. Raises MalformedEvent, which names the field."""
    try:
        return Event.model_validate(raw)
    except (ValidationError, RecursionError) as error:
        name = raw.get("id") if isinstance(raw, Mapping) else None
        text = "it is nested too deeply"
        if isinstance(error, ValidationError):
            first = error.errors(include_input=False, include_url=False)[0]
            text = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
        raise MalformedEvent(name if isinstance(name, str) else "", text) from None


def described(payload_type: str, *sources: Sequence[Descriptor]) -> Descriptor:
    """What the first source that speaks of a type says of it; an empty descriptor where none does."""
    every = (descriptor for source in sources for descriptor in source)
    found = next((one for one in every if one.payload_type == payload_type), None)
    return found or Descriptor.model_validate({"payloadType": payload_type})


def target_names(targets: Sequence[Any]) -> frozenset[str]:
    """Targets as names: plain texts in 3.1, maps of type and values in 3.0.1."""
    names: set[str] = set()
    for target in targets:
        if isinstance(target, str):
            names.add(target)
        elif isinstance(target, Mapping) and isinstance(target.get("values"), list):
            names.update(str(value) for value in target["values"])
    return frozenset(names)


def _those_that_fit(model: type[BaseModel], raw: Any) -> list[Any]:
    return [one for one in raw if _fits(model, one)] if isinstance(raw, list) else []


def _fits(model: type[BaseModel], raw: Any) -> bool:
    try:
        model.model_validate(raw)
    except ValidationError:
        return False
    return True
