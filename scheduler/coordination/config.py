"""The coordinator's own file: which daemons it plans for, and what moving work costs."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated

from pydantic import Field, PrivateAttr, ValidationError, model_validator

from adapters.fields import Id
from adapters.secrets import Secret, SecretError
from scheduler.config.base import Model, NotNegative, PositiveDuration
from scheduler.config.document import Document, read_document
from scheduler.config.errors import FieldError
from scheduler.config.runtime import LogFormat, SolverConfig
from scheduler.config.translate import note_errors

ServerUrl = Annotated[str, Field(pattern=r"^https?://[^\s/?#@]+(/[^\s?#]*)?$")]


class MemberConfig(Model):
    """A daemon that runs a site."""

    name: Id = Field(description="Its `coordination.name`.", examples=["texas"])
    url: ServerUrl = Field(description="Address of its API.", examples=["http://texas.example.net:8642"])
    token: Secret = Field(
        description="Where a token of its API with scope write lies.", examples=["credential:texas-token"]
    )


class CoordinatorConfig(Model):
    """One coordinator of several daemons."""

    sites: tuple[MemberConfig, ...] = Field(min_length=1, description="Daemons that it plans for.", examples=[[]])
    interval: PositiveDuration = Field(
        default=timedelta(minutes=1), description="How often it plans for all.", examples=["1m"]
    )
    lease: PositiveDuration = Field(
        default=timedelta(minutes=10),
        description="How long its word holds at a site that hears nothing more; then no job moves any more.",
        examples=["10m"],
    )
    timeout: PositiveDuration = Field(
        default=timedelta(seconds=10), description="How long a daemon's answer may take.", examples=["10s"]
    )
    move_per_gb: NotNegative = Field(
        default=0.0, description="What moving a gigabyte of a job's data to another site costs.", examples=[0.02]
    )
    least_gain_per_gpu_h: NotNegative = Field(
        default=0.005,
        description="Money by which another site must be better for each GPU-hour left, beside the cost of the move; "
        "keeps jobs from going back and forth.",
        examples=[0.005],
    )
    solver: SolverConfig = Field(
        default_factory=SolverConfig, description="Limits of the planner.", examples=[{"time_limit": "10s"}]
    )
    log_format: LogFormat = Field(
        default=LogFormat.AUTO,
        description="auto (console on a terminal, else journal), console or journal (JSON with a priority).",
        examples=["journal"],
    )

    _document: Document = PrivateAttr(default_factory=lambda: Document("(no file)", Path.cwd()))

    @property
    def base_dir(self) -> Path:
        """Folder from which relative paths count."""
        return self._document.base_dir

    @model_validator(mode="after")
    def _fits(self) -> CoordinatorConfig:
        if len({site.name for site in self.sites}) < len(self.sites):
            raise FieldError("sites", "two of them have the same name")
        if self.lease <= self.interval:
            raise FieldError("lease", "must be longer than `interval`")
        if self.solver.planner != "optimum":
            raise FieldError("solver.planner", "a rule of thumb can't weigh sites against each other; write optimum")
        return self


def load_coordinator(path: Path) -> CoordinatorConfig:
    """The coordinator's config in `path`, its secrets readable. Raises ConfigError with every problem, by line."""
    document = read_document(path)
    try:
        config = CoordinatorConfig.model_validate(document.data, context={"base_dir": document.base_dir})
    except ValidationError as error:
        note_errors(document, error, CoordinatorConfig)
        document.raise_if_wrong()
        raise
    config._document = document
    for number, site in enumerate(config.sites):
        try:
            site.token.reveal(document.base_dir)
        except SecretError as error:
            document.report(("sites", number, "token"), str(error))
    document.raise_if_wrong()
    return config
