"""Pools of GPUs, and power curves of an operator's own."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any

from pydantic import Field, PlainValidator, TypeAdapter, WithJsonSchema, model_validator

from adapters.fields import Id
from optimizer.domain import Work
from scheduler.config.base import Count, Model, NotNegative, Positive, Share
from scheduler.config.errors import FieldError
from scheduler.config.latency import LatencyConfig
from scheduler.config.parking import ParkingConfig

_ID: TypeAdapter[str] = TypeAdapter(Id)


def _load(value: Any) -> float | str:
    """A share or the id of a signal; a union would answer a wrong value with two half-true errors."""
    if isinstance(value, str):
        return _ID.validate_python(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{value} is neither a share between 0 and 1 nor the id of a signal")
    return float(value)


Load = Annotated[
    float | str,
    PlainValidator(_load),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, {"type": "string"}]}),
]
"""Busy share of a pool: a number, or the id of a signal."""


class CurvePointConfig(Model):
    """One measured point of a busy GPU."""

    cap_w: Positive = Field(description="Power limit set, in W.", examples=[300])
    draw_w: Positive = Field(description="Mean draw at that limit, in W.", examples=[288.9])
    throughput: NotNegative = Field(description="Throughput relative to the highest cap.", examples=[0.93])


class CurveConfig(Model):
    """A curve measured here; the shipped ones need no entry."""

    id: Id = Field(description="Name by which pools refer to it.", examples=["our-llm"])
    idle_w: NotNegative = Field(description="Draw of one GPU with no work, in W.", examples=[55])
    points: tuple[CurvePointConfig, ...] = Field(
        min_length=2,
        description="Measured points, by rising cap.",
        examples=[
            [{"cap_w": 200, "draw_w": 195, "throughput": 0.78}, {"cap_w": 400, "draw_w": 368, "throughput": 1.0}]
        ],
    )
    source: str = Field(default="", description="Who measured it, and how.", examples=["our bench of 2 May, vLLM, 8B"])

    @model_validator(mode="after")
    def _rising(self) -> CurveConfig:
        caps = [point.cap_w for point in self.points]
        if any(low >= high for low, high in pairwise(caps)):
            raise FieldError("points", "their caps must rise from point to point")
        return self


class GpuSelector(Model):
    """Which GPUs of the machine or fleet belong to a pool: exactly one of the three."""

    all: bool = Field(default=False, description="Every GPU.", examples=[True])
    uuids: tuple[str, ...] = Field(
        default=(), description="These GPUs, by the UUID that `nvidia-smi -L` prints.", examples=[["GPU-8f6d0c5e"]]
    )
    model: str | None = Field(
        default=None, description="Every GPU whose model name fits this pattern.", examples=["*A100*"]
    )

    @model_validator(mode="after")
    def _one_way(self) -> GpuSelector:
        if (self.all, bool(self.uuids), self.model is not None).count(True) != 1:
            raise ValueError("needs exactly one of `all: true`, `uuids` and `model`")
        return self


class PoolConfig(Model):
    """GPUs of one model that do one kind of work at one site."""

    id: Id = Field(description="Name of the pool.", examples=["chat"])
    site: Id = Field(description="Site where it stands.", examples=["np15"])
    gpu_model: str = Field(
        min_length=1, description="Model of its GPUs, for people and reports.", examples=["A100-400W"]
    )
    count: Count = Field(description="How many GPUs it has.", examples=[6144])
    work: Work = Field(
        description="interactive (serves users), training (runs without pause) or batch (runs queued jobs).",
        examples=["interactive"],
    )
    curve: str | None = Field(
        default=None,
        min_length=1,
        description="Power curve of its work: a shipped one, named GPU/WORKLOAD, or the id of one under `curves`. "
        "Absent: the nearest shipped one by `gpu_model` and `work`, scaled where the GPU is another; `check` names it.",
        examples=["A100-400W/infer_llama_8b"],
    )
    learn_curves: bool = Field(
        default=True,
        description="Correct the curve by what the meters say of this pool, slowly and visibly.",
        examples=[True],
    )
    value_per_gpu_h: NotNegative = Field(
        default=0.0,
        description="What an hour of one GPU at full throughput is worth. 0 for batch pools: their jobs carry it.",
        examples=[5.0],
    )
    floor: Share = Field(
        default=0.0,
        description="Least share of the load's full throughput that must be served, 0 to 1.",
        examples=[0.9],
    )
    load: Load = Field(
        default=1.0,
        description="Share of the GPUs that is busy, 0 to 1, or the signal that tells it. Batch pools ignore it.",
        examples=["chat_load"],
    )
    gpus: GpuSelector | None = Field(
        default=None,
        description="Which GPUs belong to it. Absent: all, if it is the only pool. A simulated hall makes `count` of "
        "its own.",
        examples=[{"all": True}],
    )
    min_cap_w: Positive | None = Field(
        default=None,
        description="Lowest power limit that may be ordered, in W. Absent: the curve's lowest.",
        examples=[200],
    )
    max_cap_w: Positive | None = Field(
        default=None,
        description="Highest power limit that may be ordered, in W. Absent: the curve's highest.",
        examples=[400],
    )
    lock_clocks: bool = Field(
        default=False,
        description="Move its power by locked SM clocks where its limits don't (work that draws less than any limit). "
        "The clocks are let go free afterwards; a lock that somebody else made can't be seen or given back.",
        examples=[False],
    )
    idle_w: NotNegative | None = Field(
        default=None, description="Draw of one GPU with no work, in W. Absent: the curve's.", examples=[55]
    )
    parking: ParkingConfig | None = Field(
        default=None,
        description="Batch pools: idle GPUs may be put into a deeper sleep when the plan has no work for them.",
        examples=[{"parked_w": 20, "step": 8, "hook": {"type": "simulated"}}],
    )
    one_cap: bool = Field(
        default=True,
        description="Batch pools: hold every job to what its GPUs do under the pool's one cap, and choose how fast the "
        "pool runs by what that costs. Without it a plan may give a job that is short of time more speed than its "
        "cards have; say false only where something else gives single jobs caps of their own. Other pools ignore it.",
        examples=[True],
    )
    latency: LatencyConfig | None = Field(
        default=None,
        description="Interactive pools: how long users may wait, and who tells how long they do.",
        examples=[
            {
                "source": {"type": "vllm", "url": "http://127.0.0.1:8000"},
                "objectives": [{"metric": "ttft", "quantile": 0.95, "threshold": "0.5s"}],
            }
        ],
    )
    tokens_per_gpu_h: NotNegative = Field(
        default=0.0,
        description="Tokens that one GPU makes in an hour at full throughput, for the reports.",
        examples=[1.2e6],
    )

    @model_validator(mode="after")
    def _caps_ordered(self) -> PoolConfig:
        if self.min_cap_w and self.max_cap_w and self.min_cap_w > self.max_cap_w:
            raise FieldError("max_cap_w", f"{self.max_cap_w:g} W is below `min_cap_w` ({self.min_cap_w:g} W)")
        if self.parking is not None and self.work is not Work.BATCH:
            raise FieldError("parking", "is for batch pools; the load of others comes when it wants")
        if self.latency is not None and self.work is not Work.INTERACTIVE:
            raise FieldError("latency", "is for interactive pools; nobody waits for the tokens of others")
        return self
