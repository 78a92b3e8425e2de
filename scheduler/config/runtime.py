"""How the daemon itself runs: clock, economics, solver, API, books."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Literal

from pydantic import Field, field_validator, model_validator

from adapters.fields import Id, did_you_mean
from adapters.secrets import Secret
from scheduler.config.base import AwareDatetime, Duration, Model, NotNegative, Positive, PositiveDuration
from scheduler.config.errors import FieldError


class Mode(StrEnum):
    """What Gridpace may do."""

    OBSERVE = "observe"
    ADVISE = "advise"
    CONTROL = "control"


class NoControl(StrEnum):
    """When jobs run at a site that nobody controls."""

    ASAP = "asap"
    EVEN = "even"


class LogFormat(StrEnum):
    """How log lines are written."""

    AUTO = "auto"
    CONSOLE = "console"
    JOURNAL = "journal"


class Scope(StrEnum):
    """What a token may do."""

    READ = "read"
    WRITE = "write"


class ClockConfig(Model):
    """A simulated clock, for demos. Absent: the clock of the machine."""

    start: AwareDatetime = Field(
        description="What time it is when Gridpace starts.", examples=["2022-09-06T14:00:00-07:00"]
    )
    speed: float = Field(default=1.0, gt=0, le=3600, description="Simulated seconds per second.", examples=[90])
    keep_books: bool = Field(
        default=False,
        description="Go on with the books of the last run; otherwise each start begins with empty ones.",
        examples=[False],
    )


class EconomicsConfig(Model):
    """What it costs to break a soft requirement, and the price of carbon; in the config's currency."""

    over_limit_per_kwh: Positive = Field(
        default=1000.0,
        description="Money for each kWh above a site's limit. Keep it far above everything else.",
        examples=[1000],
    )
    below_floor_per_gpu_h: Positive = Field(
        default=500.0, description="Money for each GPU-hour below a service floor.", examples=[500]
    )
    ramp_per_kw: NotNegative = Field(default=2.0, description="Money for each kW beyond a ramp limit.", examples=[2])
    move_per_gb: NotNegative = Field(
        default=0.0, description="What moving a gigabyte of a job's data to another site costs.", examples=[0.02]
    )
    change_per_kw: NotNegative = Field(
        default=0.002,
        description="Money for each kW by which a plan moves from step to step; keeps caps calm.",
        examples=[0.002],
    )
    carbon_per_tonne: NotNegative = Field(default=0.0, description="Price of a tonne of CO2.", examples=[80])


class SolverConfig(Model):
    """The planner, and the limits of the process that it runs in."""

    planner: str = Field(
        default="optimum",
        description="optimum, or a rule of thumb in its place: do_nothing (full power, jobs at once; limits and firm "
        "events only), price_threshold, cheapest_remaining, uniform_cap, fair_tiered, greedy_tiered or greedy. A rule "
        "needs no process.",
        examples=["optimum"],
    )
    time_limit: PositiveDuration = Field(
        default=timedelta(seconds=10),
        description="After this the solver answers with the best plan so far.",
        examples=["10s"],
    )
    hard_deadline: PositiveDuration = Field(
        default=timedelta(seconds=20),
        description="After this the process is stopped, and the next rung of the ladder answers.",
        examples=["20s"],
    )
    memory_mb: int = Field(default=2048, ge=256, description="Most memory of the process, in MiB.", examples=[2048])

    @field_validator("planner")
    @classmethod
    def _known(cls, name: str) -> str:
        if name != "optimum":
            from optimizer.rivals import RIVALS  # numpy and all: only who names a rule waits for it

            known = ["optimum", *RIVALS]
            if name not in known:
                raise ValueError(f'"{name}" is not one of {", ".join(known)}.{did_you_mean(name, known)}')
        return name

    @model_validator(mode="after")
    def _ordered(self) -> SolverConfig:
        if self.hard_deadline <= self.time_limit:
            raise FieldError("hard_deadline", "must be longer than `time_limit`")
        return self


class UncertaintyConfig(Model):
    """How plans allow for what is not known yet."""

    history: PositiveDuration = Field(
        default=timedelta(days=60),
        ge=timedelta(days=1),
        le=timedelta(days=366),
        description="How much of a signal's past its forecast learns from, where its source still has it. With less "
        "than two weeks the same hours of the last days are taken.",
        examples=["60d"],
    )
    forecaster: Literal["errors", "boosting"] = Field(
        default="errors",
        description="What learns prices, loads, carbon, weather and limits ahead: errors, the built-in model of the "
        "forecast's own errors, or boosting, scikit-learn's gradient-boosted trees over the same knowledge (extra "
        "`forecast`; seconds a day for each signal). docs/benchmarks.md compares their errors.",
        examples=["errors"],
    )
    base_load: float = Field(
        default=0.95,
        ge=0.5,
        lt=1,
        description="Plans stay so far below a limit that what the meter shows above the model fits in with this "
        "probability.",
        examples=[0.95],
    )
    load: float = Field(
        default=0.9,
        ge=0.5,
        lt=1,
        description="The load of a pool that must be forecast is planned at the level that it stays below with this "
        "probability.",
        examples=[0.9],
    )
    scenarios: int = Field(
        default=20,
        ge=0,
        le=100,
        description="How many scenarios of prices, loads, limits and base load size the peaks that are billed, the "
        "reserve that is offered and what voluntary events cost. 0: these go by the forecast alone.",
        examples=[20],
    )
    size_every: Duration = Field(
        default=timedelta(hours=1),
        ge=timedelta(0),
        le=timedelta(days=1),
        description="How often the scenarios size the peaks that are billed, by the clock, and at once when an event "
        "comes or a limit changes by 2 %; 0s: in every plan, which then takes several times as long. Where reserve is "
        "offered, all is sized in every plan.",
        examples=["1h"],
    )
    peak: float = Field(
        default=0.5,
        gt=0,
        lt=1,
        description="A billed peak is aimed at the level that the scenarios stay below with this probability.",
        examples=[0.5],
    )
    reserve: float = Field(
        default=0.95,
        ge=0.5,
        lt=1,
        description="Reserve is offered as far as it can be delivered with this probability.",
        examples=[0.95],
    )
    risk_weight: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Weight of the mean cost in the worst cases (CVaR) beside the mean cost of all: 0 takes what is "
        "expected, 1 minds the worst alone. Costs more in the mean; leave it at 0 where a peak is billed.",
        examples=[0.2],
    )
    risk_tail: float = Field(
        default=0.1,
        gt=0,
        le=1,
        description="Share of the cases, by probability, that count as the worst.",
        examples=[0.1],
    )
    weigh_every: PositiveDuration = Field(
        default=timedelta(hours=1),
        ge=timedelta(minutes=1),
        le=timedelta(days=1),
        description="How often risk is weighed, by the clock, and how long what was decided then is kept to; also "
        "at once when an event comes, or a limit or the price of a reserve changes by 2 %.",
        examples=["1h"],
    )


class DriftConfig(Model):
    """What is done about limits that somebody else raises. Where an agent owns the GPUs, its own options say so."""

    look_every: PositiveDuration = Field(
        default=timedelta(seconds=1),
        description="How often the enforced limits are compared with the orders (one cheap call a card).",
        examples=["1s"],
    )
    reassert: int = Field(
        default=3,
        ge=0,
        le=1000,
        description="How often a limit that came back raised is set again before its GPU is left to the other writer.",
        examples=[3],
    )
    quiet: PositiveDuration = Field(
        default=timedelta(minutes=15),
        description="A GPU left to another writer is taken back when its limit has not changed for so long.",
        examples=["15m"],
    )


class TokenConfig(Model):
    """A bearer token of the API."""

    name: Id = Field(description="Who uses it; the books name it with each change.", examples=["ops"])
    scope: Scope = Field(default=Scope.READ, description="read, or write (which includes read).", examples=["write"])
    secret: Secret = Field(description="Where the token lies.", examples=["env:GRIDPACE_TOKEN_OPS"])


class ApiConfig(Model):
    """The HTTP API and the page."""

    host: str = Field(default="127.0.0.1", min_length=1, description="Address to listen on.", examples=["127.0.0.1"])
    port: int = Field(default=8642, ge=1, le=65535, description="Port to listen on.", examples=[8642])
    tokens: tuple[TokenConfig, ...] = Field(
        default=(),
        description="Who may ask and who may change.",
        examples=[[{"name": "ops", "secret": "env:GRIDPACE_TOKEN_OPS"}]],
    )
    open_on_loopback: bool = Field(
        default=True,
        description="Reading needs no token while `host` is a loopback address. Changes need one always.",
        examples=[True],
    )
    allowed_hosts: tuple[str, ...] = Field(
        default=(),
        description="Names under which browsers may call it, beside localhost and plain addresses; `*` is any.",
        examples=[["gridpace.example.org"]],
    )
    page: bool = Field(default=True, description="Serve the web page at `/` (needs the extra `web`).", examples=[True])


class StoreConfig(Model):
    """The books."""

    path: str = Field(
        default="gridpace.db",
        min_length=1,
        description="SQLite file; a relative path counts from `state_dir`.",
        examples=["gridpace.db"],
    )


class BacktestConfig(Model):
    """What a backtest compares with."""

    no_control: NoControl = Field(
        default=NoControl.ASAP,
        description="When jobs run without control: asap (all at once on release) or even (spread from release to "
        "deadline).",
        examples=["even"],
    )
