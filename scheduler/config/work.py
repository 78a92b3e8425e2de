"""Where deferrable work waits, and jobs that the config itself brings: a demo's stream, a nightly job."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import Field, model_validator

from adapters.fields import Id
from scheduler.config.base import (
    AwareDatetime,
    Count,
    Model,
    NotNegative,
    Positive,
    PositiveDuration,
    TimeOfDay,
    Weekday,
)
from scheduler.config.entries import JobSystemEntry, default_entry
from scheduler.config.errors import FieldError


class JobTerms(Model):
    """What every job has, whenever it comes."""

    id: Id = Field(description="Name of the job.", examples=["nightly-embeddings"])
    pool: Id = Field(description="Batch pool that runs it.", examples=["tune"])
    work_gpu_h: Positive = Field(description="Work in GPU-hours at full throughput.", examples=[900])
    max_gpus: Count = Field(description="Most GPUs that it can use at once.", examples=[512])
    preemptible: bool = Field(
        default=True,
        description="May be interrupted. If not, it runs on `max_gpus` GPUs without a break once it has started.",
        examples=[False],
    )
    value_per_gpu_h: NotNegative = Field(default=0.0, description="Money for each GPU-hour done.", examples=[1.2])
    late_penalty: NotNegative = Field(
        default=2.0,
        description="Money for each GPU-hour of work and each hour that it is late. Below what an hour of power costs, "
        "being late may pay.",
        examples=[2.0],
    )
    undone_penalty: NotNegative = Field(
        default=50.0,
        description="Money for each GPU-hour that is never done. Keep it above the lateness that you would accept.",
        examples=[50.0],
    )
    priority: int = Field(
        default=0,
        description="Who goes first where GPUs are short of what is planned, and in a plan without the solver.",
        examples=[1],
    )

    min_gpus: Annotated[int, Field(ge=0)] = Field(
        default=0, description="At least so many GPUs at once, or none. 0: any number.", examples=[64]
    )
    min_run_h: NotNegative = Field(
        default=0.0,
        description="Hours that a run lasts once started, or until its work is done. Limits and firm events go first.",
        examples=[0.5],
    )
    pause_cost: NotNegative = Field(
        default=0.0, description="Money for each suspend and restart; the plan pauses only for more.", examples=[5.0]
    )
    checkpoint_gpu_h: NotNegative = Field(
        default=0.0, description="GPU-hours that a suspend costs, beside `pause_cost`.", examples=[2.0]
    )
    restart_gpu_h: NotNegative = Field(
        default=0.0, description="GPU-hours that a restart costs, beside `pause_cost`.", examples=[8.0]
    )
    data_gb: NotNegative = Field(
        default=0.0,
        description="Gigabytes that must be moved to run it at another site, at `economics.move_per_gb`.",
        examples=[800],
    )
    tier: Annotated[int, Field(ge=0, le=3)] | None = Field(
        default=None,
        description="Flex tier: once begun, at most 0, 10, 25 or 50 % slower than on all its GPUs at full power, "
        "averaged until it is done. Only hard limits and emergencies go first. Absent: its deadline alone counts.",
        examples=[2],
    )


class JobConfig(JobTerms):
    """One job that is put into an empty queue at the first start."""

    release: AwareDatetime | None = Field(
        default=None, description="When it may begin. Absent: at once.", examples=["2022-09-06T15:00:00-07:00"]
    )
    deadline: AwareDatetime = Field(description="When it must be done.", examples=["2022-09-07T06:00:00-07:00"])
    after: tuple[Id, ...] = Field(
        default=(),
        description="Jobs further up in this list that must be done before it begins; a cancelled one counts as done.",
        examples=[["prepare-embeddings"]],
    )

    @model_validator(mode="after")
    def _ordered(self) -> JobConfig:
        if self.release is not None and self.release >= self.deadline:
            raise FieldError(
                "deadline", f"{self.deadline.isoformat()} is not after the release ({self.release.isoformat()})"
            )
        return self


class RecurringJobConfig(JobTerms):
    """A job that comes again on local days of its pool's site; each gets the id `ID-YYYY-MM-DD`."""

    at: TimeOfDay = Field(default="00:00", description="Local time of its release.", examples=["22:00"])
    days: tuple[Weekday, ...] = Field(
        default=("mon", "tue", "wed", "thu", "fri", "sat", "sun"),
        min_length=1,
        description="Days of the week on which it comes.",
        examples=[["mon", "tue", "wed", "thu", "fri"]],
    )
    within: PositiveDuration | None = Field(
        default=None,
        description="Deadline, counted from the release. Absent: the end of the local day.",
        examples=["8h"],
    )

    @model_validator(mode="after")
    def _has_time(self) -> RecurringJobConfig:
        if self.at == "24:00":
            raise FieldError("at", '"24:00" is 00:00 of the next day; write that')
        if self.within is not None and self.within > timedelta(days=31):
            raise FieldError("within", "is more than 31 days")
        return self


class JobsConfig(Model):
    """The job system and the jobs that come from the config."""

    system: JobSystemEntry = Field(
        default_factory=lambda: default_entry("jobs", "queue"),
        description="Where jobs wait and run.",
        examples=[{"type": "queue"}],
    )
    initial: tuple[JobConfig, ...] = Field(
        default=(),
        description="Jobs that are queued at the first start; an id that the books know already is left as it is.",
        examples=[[]],
    )
    recurring: tuple[RecurringJobConfig, ...] = Field(
        default=(), description="Jobs that come again on local days.", examples=[[]]
    )
