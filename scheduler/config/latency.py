"""How long users may wait: latency objectives of a pool."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field, model_validator

from scheduler.config.base import Model, PositiveDuration
from scheduler.config.entries import LatencyEntry
from scheduler.config.errors import FieldError


class ObjectiveConfig(Model):
    """One objective."""

    metric: Literal["ttft", "itl"] = Field(
        description="ttft: time to a request's first token; itl: time between its tokens.", examples=["ttft"]
    )
    quantile: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.95, description="Share of the requests (or tokens) that stay within it.", examples=[0.95]
    )
    threshold: PositiveDuration = Field(
        description="Time that they stay within. Histograms are exact at their bounds, and guess between them.",
        examples=["0.5s"],
    )


class LatencyConfig(Model):
    """Throttling of the pool is taken back in the tick that sees one of its objectives slip, and no plan throttles it
    below what its latencies have allowed lately at the same load."""

    source: LatencyEntry = Field(
        description="Who tells the latencies.", examples=[{"type": "vllm", "url": "http://127.0.0.1:8000"}]
    )
    objectives: tuple[ObjectiveConfig, ...] = Field(
        min_length=1,
        description="Objectives, at most one of each metric and quantile.",
        examples=[[{"metric": "ttft", "threshold": "0.5s"}, {"metric": "itl", "threshold": "0.05s"}]],
    )
    hold: PositiveDuration = Field(
        default=timedelta(seconds=60),
        description="Objectives must be kept for so long, by a tenth, before power that was taken back is let go, step "
        "by step.",
        examples=["60s"],
    )
    remember: PositiveDuration = Field(
        default=timedelta(days=1),
        description="What was seen of latencies by load and cap counts for so long; a slip holds up power no longer.",
        examples=["24h"],
    )

    @model_validator(mode="after")
    def _each_once(self) -> LatencyConfig:
        named = [(one.metric, one.quantile) for one in self.objectives]
        if len(set(named)) < len(named):
            raise FieldError("objectives", "two of them have the same metric and quantile")
        return self
