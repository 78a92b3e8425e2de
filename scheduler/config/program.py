"""Demand-response programs: who may order a reduction, how it is measured, what it pays."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Annotated

from pydantic import Field, model_validator

from adapters.fields import Duration, Id
from scheduler.config.base import AwareDatetime, Count, Model, NotNegative, Positive, PositiveDuration
from scheduler.config.entries import ChannelEntry
from scheduler.config.errors import FieldError
from scheduler.config.site import RampConfig


class BaselineKind(StrEnum):
    """How the level is found from which a reduction counts."""

    METER_BEFORE = "meter_before"
    DECLARED = "declared"


class BaselineConfig(Model):
    """The level of the site's import from which reductions count."""

    type: BaselineKind = Field(
        default=BaselineKind.METER_BEFORE,
        description="meter_before (mean import before the message that announces it) or declared (a fixed level).",
        examples=["meter_before"],
    )
    minutes: Count = Field(default=60, description="For meter_before: length of the mean, in minutes.", examples=[60])
    kw: Positive | None = Field(default=None, description="For declared: the level, in kW.", examples=[5200])

    @model_validator(mode="after")
    def _complete(self) -> BaselineConfig:
        if self.type is BaselineKind.DECLARED and self.kw is None:
            raise FieldError("kw", "is missing; a declared baseline needs its level")
        return self


class RecordedEventConfig(Model):
    """An event of the past that a backtest, or a run under a simulated clock, receives again."""

    id: Id = Field(description="Name of the event.", examples=["ca22-eea2-0906"])
    start: AwareDatetime = Field(description="When it began.", examples=["2022-09-06T16:00:00-07:00"])
    end: AwareDatetime = Field(description="When it ended.", examples=["2022-09-06T21:00:00-07:00"])
    notice: Duration = Field(
        default=timedelta(hours=1), description="How long before its start it was announced.", examples=["2h"]
    )
    reduce_percent: Positive | None = Field(
        default=None, le=100, description="Reduction, in percent of the baseline.", examples=[25]
    )
    reduce_kw: Positive | None = Field(default=None, description="Reduction from the baseline, in kW.", examples=[1100])
    limit_kw: NotNegative | None = Field(default=None, description="Cap on the import, in kW.", examples=[4000])
    emergency: bool = Field(default=False, description="Was an emergency order.", examples=[False])
    priority: Annotated[int, Field(ge=0)] | None = Field(
        default=None,
        description="0 is the highest, absent the lowest: where events of the program overlap, which of them holds.",
        examples=[0],
    )

    @model_validator(mode="after")
    def _sound(self) -> RecordedEventConfig:
        if self.start >= self.end:
            raise FieldError("end", f"{self.end.isoformat()} is not after the start ({self.start.isoformat()})")
        if [self.reduce_percent, self.reduce_kw, self.limit_kw].count(None) != 2:
            raise ValueError("needs exactly one of `reduce_percent`, `reduce_kw` and `limit_kw`")
        return self


class ShortNotice(StrEnum):
    """What becomes of an event that begins before its notice is over."""

    BEST_EFFORT = "best_effort"
    REFUSE = "refuse"


class Shortfall(StrEnum):
    """What becomes of a firm event that asks for more than the site can shed."""

    BEST_EFFORT = "best_effort"
    REFUSE = "refuse"


class CallsConfig(Model):
    """How often a program may call. Emergencies are exempt; changes of an event that was taken are no new call."""

    per_day: Count | None = Field(default=None, description="Most events that begin on one day.", examples=[1])
    per_season: Count | None = Field(
        default=None,
        description="Most events of one season; of a calendar year where no `months` are named.",
        examples=[10],
    )
    months: tuple[Annotated[int, Field(ge=1, le=12)], ...] = Field(
        default=(),
        description="Months of the season, from its first on; outside them the program can't call. Empty: the year.",
        examples=[[6, 7, 8, 9]],
    )


class ProgramConfig(Model):
    """One program at one site."""

    id: Id = Field(description="Name of the program; messages name it.", examples=["elrp"])
    site: Id = Field(description="Site that takes part.", examples=["np15"])
    channel: ChannelEntry = Field(
        description="How its messages arrive.", examples=[{"type": "webhook", "secret": "env:GRIDPACE_ELRP_SECRET"}]
    )
    baseline: BaselineConfig = Field(
        default_factory=BaselineConfig,
        description="From which level reductions count.",
        examples=[{"type": "meter_before"}],
    )
    rank: Annotated[int, Field(ge=0)] | None = Field(
        default=None,
        description="Which program holds where events of ranked programs overlap: 0 before 1, also where its cap is "
        "the looser one; of the same rank the events' own priorities decide, then the stricter cap. Absent: the "
        "stricter cap holds, whatever the priorities. Hard limits, emergencies and the operator's events yield to "
        "nobody.",
        examples=[1],
    )
    penalty_per_kwh: NotNegative = Field(
        default=5.0, description="Money for each kWh above an event's target.", examples=[5.0]
    )
    credit_per_kwh: NotNegative = Field(
        default=0.0, description="Money for each kWh delivered below the baseline, up to the target.", examples=[2.0]
    )
    ramp_in: Duration = Field(
        default=timedelta(minutes=5),
        description="Time from an event's start to its target, when the message says none.",
        examples=["5m"],
    )
    ramp_out: Duration = Field(
        default=timedelta(minutes=5),
        description="Time from an event's end back to the baseline, when the message says none. The import rises no "
        "faster than that in the first plan that is free of the event either, where what it put off begins.",
        examples=["5m"],
    )
    ramp_kw_per_min: RampConfig = Field(
        default_factory=RampConfig,
        description="How fast the import may change from an event's start to the end of its ramp out, and on the way "
        "down to its first cap before it, where more is drawn. Of it, the "
        "event's own ramps and the site's the slowest holds; a hard limit, an operator's order and another program's "
        "event come first, and that is said.",
        examples=[{"up": 100, "down": 200}],
    )
    rebound: Duration = Field(
        default=timedelta(hours=1),
        description="How long after the ramp out the import stays below the baseline, when the message says none.",
        examples=["60m"],
    )
    notice: Duration = Field(
        default=timedelta(0),
        description="Least notice: an event that begins sooner is best effort only. Emergencies are exempt.",
        examples=["10m"],
    )
    short_notice: ShortNotice = Field(
        default=ShortNotice.BEST_EFFORT,
        description="What becomes of an event with less than `notice`: best_effort or refuse.",
        examples=["best_effort"],
    )
    shortfall: Shortfall = Field(
        default=Shortfall.BEST_EFFORT,
        description="What becomes of a firm event that asks for more than the site can shed: best_effort, or refuse "
        "with what can be had.",
        examples=["best_effort"],
    )
    calls: CallsConfig | None = Field(
        default=None,
        description="How often the program may call. Absent: as often as it likes.",
        examples=[{"per_season": 10, "months": [6, 7, 8, 9]}],
    )
    longest: PositiveDuration = Field(
        default=timedelta(hours=24), description="Longest event that is accepted.", examples=["4h"]
    )
    min_kw: NotNegative = Field(default=0.0, description="Smallest reduction that is accepted, in kW.", examples=[100])
    max_kw: Positive | None = Field(
        default=None,
        description="Largest reduction that is promised, in kW. Absent: what the site can shed.",
        examples=[1500],
    )
    voluntary: bool = Field(
        default=False,
        description="The site may decline. The plan weighs what each event pays against what it costs and answers "
        "`answer_before` its start; before that it is `awaiting`. Emergencies must be obeyed all the same.",
        examples=[True],
    )
    answer_before: Duration = Field(
        default=timedelta(minutes=15),
        description="For voluntary programs: how long before an event's start its answer is due. What is announced "
        "later than that is answered at once; without an answer before it starts the site does not take part.",
        examples=["15m"],
    )
    emergency_below_floor: bool = Field(
        default=False,
        description="Emergency orders of this program may push interactive work below its floor.",
        examples=[False],
    )
    recorded: tuple[RecordedEventConfig, ...] = Field(
        default=(),
        description="Events of the past that a backtest, or a run under a simulated clock, receives again. Never used "
        "under the clock of the machine.",
        examples=[[]],
    )

    @model_validator(mode="after")
    def _ordered(self) -> ProgramConfig:
        if self.max_kw is not None and self.max_kw < self.min_kw:
            raise FieldError("max_kw", f"{self.max_kw:g} kW is below `min_kw` ({self.min_kw:g} kW)")
        return self
