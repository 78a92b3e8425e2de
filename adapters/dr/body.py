"""The JSON body of an event, read strictly: what a webhook carries and what an operator's hand adds.

Why strict: a misspelt `limit_kW` that is ignored is an event that asks nothing. Unknown fields, text where a number
belongs, NaN, and times without a zone are refused with the name of the field, all faults at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from adapters.ports import EventMessage, EventRefused, EventTarget

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)
_ONE_OF = ("limit_kw", "reduce_kw", "reduce_percent")


class TargetBody(BaseModel):
    """One target: exactly one of an import cap, a reduction in kW, a reduction in percent of the baseline.

    `start` and `end` default to the event's; targets follow each other without gaps.
    """

    model_config = _STRICT

    start: AwareDatetime | None = None
    end: AwareDatetime | None = None
    limit_kw: float | None = Field(None, ge=0)
    reduce_kw: float | None = Field(None, ge=0)
    reduce_percent: float | None = Field(None, ge=0, le=100)

    @model_validator(mode="after")
    def _exactly_one(self) -> TargetBody:
        given = [name for name in _ONE_OF if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(_ONE_OF)}, not {' and '.join(given) or 'none'}")
        return self


class EventBody(BaseModel):
    """An event. `start` is a time with its zone or "now"; `end` or `duration` (ISO 8601, such as PT2H) says how long;
    `targets`, or one of `limit_kw`, `reduce_kw`, `reduce_percent` for the whole event. A cancellation needs id and site
    only (and the version that it withdraws)."""

    model_config = _STRICT

    id: str = Field(min_length=1, max_length=128)
    version: int = Field(0, ge=0, le=2**53)
    site: str = Field(min_length=1, max_length=128)
    start: AwareDatetime | Literal["now"] | None = None
    end: AwareDatetime | None = None
    duration: timedelta | None = Field(None, gt=timedelta(0))
    targets: tuple[TargetBody, ...] = Field((), max_length=1000)
    limit_kw: float | None = Field(None, ge=0)
    reduce_kw: float | None = Field(None, ge=0)
    reduce_percent: float | None = Field(None, ge=0, le=100)
    ramp_in_s: float | None = Field(None, ge=0, le=86_400)
    ramp_out_s: float | None = Field(None, ge=0, le=86_400)
    rebound_s: float | None = Field(None, ge=0, le=86_400)
    cancelled: bool = False
    priority: int | None = Field(None, ge=0, le=1000)
    firm: bool = True
    emergency: bool = False
    name: str = Field("", max_length=128)

    @model_validator(mode="after")
    def _whole(self) -> EventBody:
        if self.cancelled:
            return self
        if self.start is None:
            raise ValueError('start: give a time with its zone, or "now"')
        if (self.end is None) == (self.duration is None):
            raise ValueError("end: give either end or duration")
        given = [name for name in _ONE_OF if getattr(self, name) is not None]
        if len(given) + bool(self.targets) != 1:
            raise ValueError(f"targets: give either targets or exactly one of {', '.join(_ONE_OF)}")
        return self


def parse_event(body: bytes, now: datetime, *, program: str, source: str) -> EventMessage:
    """The message that a body says; a start of "now" means `now`.

    Raises EventRefused: 400 not JSON, 422 a wrong field; the text names all wrong fields.
    """
    try:
        fields = EventBody.model_validate_json(body)
        start = now if fields.start in (None, "now") else fields.start
        assert isinstance(start, datetime)
        start = start.astimezone(UTC)
        end = (fields.end or start + (fields.duration or timedelta(0))).astimezone(UTC)
        targets = _targets(fields, start, end)
    except ValidationError as error:
        raise _refused(error) from None
    except OverflowError:
        raise EventRefused("end: the event does not lie between the years 1 and 9999", 422) from None
    return EventMessage(
        id=fields.id,
        version=fields.version,
        site=fields.site,
        start=start,
        end=end,
        targets=targets,
        cancelled=fields.cancelled,
        ramp_in_s=fields.ramp_in_s,
        ramp_out_s=fields.ramp_out_s,
        rebound_s=fields.rebound_s,
        priority=fields.priority,
        firm=fields.firm,
        emergency=fields.emergency,
        program=program,
        source=source,
        name=fields.name,
        raw=json.loads(body),
    )


def _targets(fields: EventBody, start: datetime, end: datetime) -> tuple[EventTarget, ...]:
    """Targets with their times: a missing start follows the target before, a missing end reaches the next start."""
    if not fields.targets:
        single = {name: getattr(fields, name) for name in _ONE_OF}
        return (EventTarget(start, end, **single),) if any(value is not None for value in single.values()) else ()
    starts: list[datetime] = []
    for index, target in enumerate(fields.targets):
        before = fields.targets[index - 1].end if index else start
        if target.start is None and before is None:
            raise EventRefused(f"targets[{index}].start: give it, or the end of the target before", 422)
        starts.append((target.start or before or start).astimezone(UTC))
    ends = [
        (target.end or following).astimezone(UTC)
        for target, following in zip(fields.targets, [*starts[1:], end], strict=True)
    ]
    return tuple(
        EventTarget(begin, stop, target.limit_kw, target.reduce_kw, target.reduce_percent)
        for begin, stop, target in zip(starts, ends, fields.targets, strict=True)
    )


def _refused(error: ValidationError) -> EventRefused:
    """All faults at once, each with its field; 400 when the body isn't JSON at all."""
    faults = error.errors(include_url=False, include_input=False)
    if any(fault["type"] == "json_invalid" for fault in faults):
        return EventRefused(f"the body is not JSON: {faults[0]['msg']}", 400)
    return EventRefused("; ".join(dict.fromkeys(_said(fault) for fault in faults)), 422)


def _said(fault: Mapping[str, Any]) -> str:
    place = ""
    for part in fault["loc"]:
        if isinstance(part, int):
            place += f"[{part}]"
        elif part in EventBody.model_fields or not place:
            place += f".{part}" if place else part
    text = str(fault["msg"]).removeprefix("Value error, ")
    return f"{place}: {text}" if place else text
