"""What a client may send, checked before the daemon sees it: aware times, finite numbers, no unknown fields.

Why strict: a misspelt field that is dropped in silence becomes a job that misses its deadline.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from scheduler.coordination.messages import Home, Share
from scheduler.sales import Sold
from scheduler.service import JobRequest, OperatorOrder, Place

EARLIEST, LATEST = datetime(1990, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)


def _text_only(value: Any) -> Any:
    """A number as a time is ambiguous (seconds, milliseconds?); and in a query string "+" arrives as a space."""
    if not isinstance(value, str | datetime):
        raise ValueError('a time is written like "2022-09-06T21:00:00Z"')  # noqa: TRY004 - pydantic's way to refuse
    return value.replace(" ", "+") if isinstance(value, str) and "T" in value else value


def _sane(moment: datetime) -> datetime:
    try:
        inside = EARLIEST <= moment <= LATEST
    except OverflowError:
        inside = False
    if not inside:
        raise ValueError(f"lies outside {EARLIEST.year} to {LATEST.year}")
    return moment.astimezone(UTC)


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("holds a control character")
    return text


Moment = Annotated[AwareDatetime, BeforeValidator(_text_only), AfterValidator(_sane)]
Name = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_printable)]
Amount = Annotated[float, Field(ge=0, le=1e12)]


class Body(BaseModel):
    """What all bodies share."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class JobBody(Body):
    """A job to run when it is best for the site, before its deadline."""

    id: Name | None = Field(None, description="Yours to choose; a second submission of the same id changes nothing")
    pool: Name | None = Field(None, description="Pool that may run it; none: any batch pool")
    work_gpu_h: Annotated[float, Field(gt=0, le=1e9)] = Field(description="GPU-hours at full throughput", examples=[64])
    max_gpus: Annotated[int, Field(ge=1, le=10_000_000)] = Field(description="GPUs it can use at once", examples=[16])
    deadline: Moment = Field(description="Aware time by which it should be done", examples=["2022-09-07T14:00:00Z"])
    release: Moment | None = Field(None, description="Not to start before; none: at once")
    preemptible: bool = Field(True, description="May be suspended and resumed without loss")
    value_per_gpu_h: Amount = Field(0.0, description="Money per GPU-hour done")
    late_penalty: Amount = Field(2.0, description="Money per GPU-hour and hour late")
    undone_penalty: Amount = Field(50.0, description="Money per GPU-hour never done")
    priority: Annotated[int, Field(ge=-1000, le=1000)] = 0
    min_gpus: Annotated[int, Field(ge=0, le=10_000_000)] = Field(
        0, description="At least so many GPUs at once, or none"
    )
    min_run_h: Annotated[float, Field(ge=0, le=1e4)] = Field(0.0, description="Hours that a run lasts once started")
    pause_cost: Amount = Field(0.0, description="Money for each suspend and restart")
    checkpoint_gpu_h: Annotated[float, Field(ge=0, le=1e9)] = Field(0.0, description="GPU-hours that a suspend costs")
    restart_gpu_h: Annotated[float, Field(ge=0, le=1e9)] = Field(0.0, description="GPU-hours that a restart costs")
    after: Annotated[tuple[Name, ...], Field(max_length=100)] = Field(
        (), description="Jobs that must be done before it begins", examples=[["prepare-7"]]
    )
    data_gb: Annotated[float, Field(ge=0, le=1e9)] = Field(0.0, description="Gigabytes that go with it to another site")
    sites: Annotated[tuple[Name, ...], Field(max_length=100)] = Field(
        (), description="Other daemons' sites that may run it; its worker hands it over", examples=[["california"]]
    )
    tier: Annotated[int, Field(ge=0, le=3)] | None = Field(
        None, description="Flex tier: 0, 10, 25 or 50 % slower at most, averaged from its start to its end"
    )
    metadata: Annotated[dict[Name, Annotated[str, Field(max_length=1000)]], Field(max_length=50)] | None = None

    @model_validator(mode="after")
    def _in_order(self) -> JobBody:
        if self.release is not None and self.release >= self.deadline:
            raise ValueError("release is not before deadline")
        return self

    def request(self) -> JobRequest:
        """As the service takes it."""
        return JobRequest(**dict(self))


class SoldBody(Body):
    """What a worker sold of a job so far."""

    tokens: Annotated[int, Field(ge=0, le=10**15)] = Field(description="Tokens delivered, in and out")
    paid: Amount = Field(description="Money for them")
    tenant: Annotated[str, Field(max_length=128), AfterValidator(_printable)] = ""
    model: Annotated[str, Field(max_length=256), AfterValidator(_printable)] = ""

    def told(self) -> Sold:
        """As the service takes it."""
        return Sold(**dict(self))


class ProgressBody(Body):
    """A worker's report."""

    done_gpu_h: Annotated[float, Field(ge=0, le=1e9)] = Field(description="GPU-hours at full throughput done so far")
    finished: bool = False
    site: Name | None = Field(None, description="Other site that works on it; none: this one")
    sites: Annotated[tuple[Name, ...], Field(max_length=100)] | None = Field(
        None, description="Of its `sites`, those that still may run it: others did not; none: as before"
    )
    sold: SoldBody | None = Field(None, description="What was sold of it so far")

    def place(self) -> Place:
        """As the service takes it."""
        return Place(self.site or "", self.sites)


class HomeBody(Body):
    """Where a job should run."""

    site: Name
    why: Annotated[str, Field(max_length=1000), AfterValidator(_printable)] = ""


class ShareBody(Body):
    """A coordinator's word to one daemon."""

    made_at: Moment = Field(description="When it was planned; an older one is refused")
    lease_s: Annotated[float, Field(gt=0, le=86_400)] = Field(description="How long it holds from its arrival")
    homes: Annotated[dict[Name, HomeBody], Field(max_length=200_000)] = Field(description="Movable jobs by id")

    def told(self) -> Share:
        """As the service takes it."""
        return Share(self.made_at, self.lease_s, {job: Home(one.site, one.why) for job, one in self.homes.items()})


class OperatorBody(Body):
    """An operator's order; it stands above plan and market, and over restarts."""

    action: Literal["pause", "resume", "release", "limit", "mode"]
    site: Name | None = None
    limit_kw: Annotated[float, Field(ge=0, le=1e9)] | None = Field(None, description="Import cap in kW, for `limit`")
    until: Moment | None = Field(None, description="End of the limit; none: until further notice")
    mode: Literal["observe", "advise", "control"] | None = None

    @model_validator(mode="after")
    def _complete(self) -> OperatorBody:
        if self.action == "limit" and self.site is None:
            raise ValueError("limit needs site")
        if self.action != "limit" and (self.limit_kw is not None or self.until is not None):
            raise ValueError("limit_kw and until belong to the action limit")
        if (self.action == "mode") != (self.mode is not None):
            raise ValueError("mode is named with the action mode, and only there")
        return self

    def order(self, by: str) -> OperatorOrder:
        """As the service takes it."""
        return OperatorOrder(**dict(self), by=by)
