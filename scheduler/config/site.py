"""Sites: where power is bought, what it costs there, and what the connection allows."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from pydantic import Field, model_validator

from adapters.fields import Id
from scheduler.config.base import (
    Count,
    Model,
    NotNegative,
    Positive,
    PositiveDuration,
    Share,
    SiteZone,
    TimeOfDay,
    Weekday,
)
from scheduler.config.errors import FieldError
from scheduler.config.supply import BatteryConfig, GeneratorConfig, ReserveConfig


class PueConfig(Model):
    """Import per IT power as a line over the outside temperature: base + per_degree * (T - reference_c), clamped."""

    base: float = Field(
        default=1.2, ge=1, le=3, description="PUE at and below the reference temperature.", examples=[1.18]
    )
    per_degree: float = Field(
        default=0.0,
        ge=0,
        le=0.1,
        description="Rise of the PUE for each degree Celsius above the reference; needs the site's `weather`.",
        examples=[0.006],
    )
    reference_c: float = Field(
        default=18.0, description="Outside temperature, in degrees Celsius, from which the PUE rises.", examples=[18]
    )
    maximum: float = Field(
        default=2.0,
        ge=1,
        le=5,
        description="The PUE never exceeds this; it also counts when the weather is unknown.",
        examples=[1.6],
    )

    @model_validator(mode="after")
    def _ordered(self) -> PueConfig:
        if self.maximum < self.base:
            raise FieldError("maximum", f"{self.maximum:g} is below `base` ({self.base:g})")
        return self


class RampConfig(Model):
    """How fast the import of a site may change; absent: as fast as it can."""

    up: Positive | None = Field(
        default=None, description="Fastest rise of the import, in kW per minute.", examples=[300]
    )
    down: Positive | None = Field(
        default=None, description="Fastest fall of the import, in kW per minute.", examples=[1500]
    )


class RatchetConfig(Model):
    """A peak that is billed for months: each month pays at least a share of the highest one before it."""

    share: Share = Field(description="Share of the earlier peak that is billed at least.", examples=[0.8])
    months: int = Field(
        default=11, ge=1, le=24, description="How many months before the present one count.", examples=[11]
    )


class DemandChargeConfig(Model):
    """Money for the billing month's highest mean over one interval, counted in a window of the week."""

    id: Id = Field(description="Name of the charge.", examples=["peak"])
    price_per_kw: NotNegative = Field(
        description="Money for each kW of the month's highest interval inside the window.", examples=[18.5]
    )
    peak_so_far_kw: NotNegative = Field(
        default=0.0,
        description="Highest interval of this month before Gridpace kept the books, which count when higher.",
        examples=[4100],
    )
    days: tuple[Weekday, ...] = Field(
        default=("mon", "tue", "wed", "thu", "fri", "sat", "sun"),
        min_length=1,
        description="Days of the week on which it counts.",
        examples=[["mon", "tue", "wed", "thu", "fri"]],
    )
    start: TimeOfDay = Field(default="00:00", description="Local time from which it counts.", examples=["16:00"])
    end: TimeOfDay = Field(default="24:00", description="Local time until which it counts.", examples=["21:00"])
    months: tuple[int, ...] = Field(
        default=(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12),
        min_length=1,
        description="Months, 1 to 12, in which it counts.",
        examples=[[6, 7, 8, 9]],
    )
    ratchet: RatchetConfig | None = Field(
        default=None,
        description="At least a share of the highest peak of the months before is billed. Absent: each month anew.",
        examples=[{"share": 0.8, "months": 11}],
    )

    @model_validator(mode="after")
    def _ordered(self) -> DemandChargeConfig:
        if self.start >= self.end:
            raise FieldError("end", f'"{self.end}" is not after `start` ("{self.start}"); split a window at midnight')
        for month in self.months:
            if not 1 <= month <= 12:
                raise FieldError("months", f"{month} is not a month; write 1 to 12")
        return self


class CoincidentPeakConfig(Model):
    """Money for the import in the hours in which the *grid* peaks (4CP, 12CP, 5CP): counted at its expected value."""

    id: Id = Field(description="Name of the charge.", examples=["ercot_4cp"])
    price_per_kw: NotNegative = Field(
        description="Money for each kW of the import in one coincident peak; a price for a year is divided by its "
        "number of peaks.",
        examples=[16.5],
    )
    probability: Id | None = Field(
        default=None,
        description="Signal of kind `probability`: how likely each interval is the peak. Give this or `system_load`.",
        examples=["cp_alert"],
    )
    system_load: Id | None = Field(
        default=None,
        description="Signal of kind `system_load`, from whose forecast and peaks so far the probability is estimated.",
        examples=["ercot_load"],
    )
    interval: PositiveDuration = Field(
        default=timedelta(hours=1),
        description="Length of the metering interval of the peak, and of the intervals to which probabilities belong.",
        examples=["15m"],
    )
    months: tuple[int, ...] = Field(
        default=(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12),
        min_length=1,
        description="Months, 1 to 12, in which the grid's peak counts.",
        examples=[[6, 7, 8, 9]],
    )
    season: Literal["month", "year"] = Field(
        default="month",
        description="month: each of the months has peaks of its own (4CP, 12CP); year: all of them together (5CP).",
        examples=["month"],
    )
    peaks: Count = Field(
        default=1, description="How many peaks count in a season, each on another day (5CP: 5).", examples=[1]
    )
    load_error: float = Field(
        default=0.01,
        gt=0,
        le=0.5,
        description="Relative error of the forecast of the system's load within a day.",
        examples=[0.01],
    )

    @model_validator(mode="after")
    def _one_source(self) -> CoincidentPeakConfig:
        if (self.probability is None) == (self.system_load is None):
            raise FieldError("probability", "give either `probability` or `system_load`")
        if self.interval > timedelta(days=1):
            raise FieldError("interval", "must not be longer than a day")
        for month in self.months:
            if not 1 <= month <= 12:
                raise FieldError("months", f"{month} is not a month; write 1 to 12")
        return self


class SiteConfig(Model):
    """One connection to the grid, with a meter of its own."""

    id: Id = Field(description="Name of the site.", examples=["np15"])
    timezone: SiteZone = Field(
        description="Time zone of the site: its days, tariffs and charges.", examples=["America/Los_Angeles"]
    )
    price: Id = Field(description="Signal with the price of energy here.", examples=["energy"])
    price_forecast: Id | None = Field(
        default=None, description="Signal used for the hours that `price` doesn't know yet.", examples=["day_ahead"]
    )
    carbon: Id | None = Field(
        default=None,
        description="Signal with the carbon intensity here; counted when carbon has a price.",
        examples=["grid_carbon"],
    )
    weather: Id | None = Field(
        default=None, description="Signal with the outside temperature; moves the PUE.", examples=["outside"]
    )
    limit_kw: Positive | None = Field(
        default=None,
        description="Hard limit of the import, in kW. Absent: no limit. Where it binds, agents keep it for a day "
        "without the daemon.",
        examples=[6000],
    )
    limit_signal: Id | None = Field(
        default=None,
        description="Signal of kind `limit` for limits that change with time; the stricter of it and `limit_kw` holds.",
        examples=["connection"],
    )
    other_it_kw: NotNegative = Field(
        default=0.0, description="IT power that is not GPUs of a pool (storage, network, CPUs), in kW.", examples=[250]
    )
    pue: PueConfig = Field(default_factory=PueConfig, description="Import per IT power.", examples=[{"base": 1.18}])
    ramp_kw_per_min: RampConfig = Field(
        default_factory=RampConfig,
        description=(
            "How fast the import may change. Ceilings come first: an announced event, or a limit that will fall, is "
            "approached in time; what comes too late for the ramp down is met at once, and said (`ramp_broken`)."
        ),
        examples=[{"up": 300, "down": 1500}],
    )
    demand_charges: tuple[DemandChargeConfig, ...] = Field(
        default=(),
        description="Charges on the month's peak, beside those that a tariff signal brings.",
        examples=[[{"id": "peak", "price_per_kw": 18.5}]],
    )
    coincident_peaks: tuple[CoincidentPeakConfig, ...] = Field(
        default=(),
        description="Charges on the import while the grid itself peaks.",
        examples=[[{"id": "ercot_4cp", "price_per_kw": 16.5, "system_load": "ercot_load", "months": [6, 7, 8, 9]}]],
    )
    batteries: tuple[BatteryConfig, ...] = Field(
        default=(),
        description="Batteries at the meter.",
        examples=[
            [
                {
                    "id": "bess",
                    "energy_kwh": 2000,
                    "charge_kw": 1000,
                    "discharge_kw": 1000,
                    "device": {"type": "simulated"},
                }
            ]
        ],
    )
    generators: tuple[GeneratorConfig, ...] = Field(
        default=(),
        description="Generation at the meter, whose power the import lacks already.",
        examples=[[{"id": "roof", "output": "solar"}]],
    )
    reserves: tuple[ReserveConfig, ...] = Field(
        default=(),
        description="Reserve that is offered where power above the floors, or a battery, can back it.",
        examples=[[{"id": "spin", "price_per_kw_h": 0.012, "max_kw": 800}]],
    )
