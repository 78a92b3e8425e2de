"""The messages of DSX Flex 1.7, checked by the rules of its AsyncAPI document.

Source: NVIDIA/dsx-exchange, schemas/asyncapi/dsx-flex/dsx-flex.yaml, version 1.7.0 (Apache-2.0). Fields that the
document does not name are allowed there, and passed over here. `value` may be 0 by the schema's `minimum` although its
text says "> 0"; 0 is taken for what it says.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from adapters.ports import EventRefused

SPEC = "1.0.2"
SET, STATUS, ALERT, ENFORCEMENT = (
    "grid.loadtarget.set.v1",
    "grid.powerstate.status.v1",
    "grid.powerbreach.alert.v1",
    "grid.powerbreach.enforcement.v1",
)
LARGEST = 256 * 1024
JWS = r"^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$"
KW = {"watt": 0.001, "kilowatt": 1.0, "megawatt": 1000.0}

T = TypeVar("T", bound=BaseModel)
Moment = Annotated[AwareDatetime, AfterValidator(lambda moment: moment.astimezone(UTC))]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False, hide_input_in_errors=True)


class Power(_Part):
    """A power with its unit."""

    value: float = Field(ge=0)
    unit: Literal["watt", "kilowatt", "megawatt"]

    @property
    def kw(self) -> float:
        """In kW."""
        return self.value * KW[self.unit]


class Interval(_Part):
    """No start: now. No end: until replaced."""

    start_time: Moment | None = None
    end_time: Moment | None = None

    @model_validator(mode="after")
    def _forward(self) -> Interval:
        if self.start_time and self.end_time and self.end_time <= self.start_time:
            raise ValueError("end_time is not after start_time")
        return self


class Strategy(_Part):
    """How to shed."""

    best_effort: bool = False


class Target(_Part):
    """One load target; `load_constraint` null removes what holds in its interval. The key itself must be there."""

    interval: Interval
    load_constraint: Power | None
    feed_tags: tuple[str, ...] = Field((), strict=False)
    strategy: Strategy = Strategy()


class LoadTargets(_Part):
    """Data of `grid.loadtarget.set.v1`."""

    targets: tuple[Target, ...] = Field(min_length=1, max_length=1000, strict=False)


class Enforcement(_Part):
    """Data of `grid.powerbreach.enforcement.v1`."""

    breach_id: UUID
    feed_tag: str
    action: Literal["applied", "reverted"]
    code: Literal["success", "partial", "error"]
    results: tuple[dict[str, Any], ...] = Field(strict=False)
    timestamp: Moment
    diag_msg: str = ""


class Envelope(_Part):
    """A CloudEvent in structured mode."""

    specversion: Literal["1.0.2"]
    id: UUID
    source: str = Field(pattern=r"^//grid/v1/(isv|dsx-flex-agent|infra)/[^/]+$")
    type: str
    time: Moment
    datacontenttype: Literal["application/json"]
    subject: str
    traceparent: str = Field(pattern=r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")
    tracestate: str | None = None
    correlationid: UUID | None = None
    data: str | dict[str, Any]

    @model_validator(mode="after")
    def _version_4(self) -> Envelope:
        if self.id.version != 4:
            raise ValueError("id: not a UUIDv4")
        return self


def read_envelope(body: bytes, type_: str) -> Envelope:
    """The envelope of a message that should be of that type. Raises EventRefused naming every wrong field."""
    if len(body) > LARGEST:
        raise EventRefused(f"the message is larger than {LARGEST} bytes", 413)
    try:
        envelope = Envelope.model_validate_json(body)
    except ValidationError as error:
        raise EventRefused(said(error), 422) from None
    if envelope.type != type_:
        raise EventRefused(f"type: {envelope.type!r} on the topic of {type_}", 422)
    return envelope


def read_data(model: type[T], data: bytes) -> T:
    """Verified data. Raises EventRefused naming every wrong field."""
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise EventRefused(said(error, "data."), 422) from None


def said(error: ValidationError, prefix: str = "") -> str:
    """All faults in one line, each with its field."""
    faults = error.errors(include_url=False, include_input=False)
    return "; ".join(f"{prefix}{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in faults[:10])


def power(kw: float) -> dict[str, Any]:
    """A power as it is sent."""
    return {"value": round(max(0.0, kw), 3), "unit": "kilowatt"}


def moment(at: datetime) -> str:
    """A time as it is sent."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
