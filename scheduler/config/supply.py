"""Batteries and on-site generation: what stands at a site's meter beside the load."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field, model_validator

from adapters.fields import Id
from scheduler.config.base import Duration, Model, NotNegative, Positive, Share
from scheduler.config.entries import DeviceEntry
from scheduler.config.errors import FieldError


class BatteryConfig(Model):
    """A battery at the site's meter, outside the PUE."""

    id: Id = Field(description="Name of the battery.", examples=["bess"])
    energy_kwh: Positive = Field(description="Energy that it can hold, in kWh.", examples=[2000])
    charge_kw: Positive = Field(description="Most power that it draws, in kW.", examples=[1000])
    discharge_kw: Positive = Field(description="Most power that it gives, in kW.", examples=[1000])
    efficiency: float = Field(
        default=0.86,
        gt=0,
        le=1,
        description="Share of the energy drawn that comes back, there and back; half of the loss is counted each way.",
        examples=[0.86],
    )
    min_soc: Share = Field(default=0.05, description="Share of its energy that always stays in it.", examples=[0.1])
    max_soc: Share = Field(default=0.95, description="Share of its energy up to which it is charged.", examples=[0.9])
    wear_per_kwh: NotNegative = Field(
        default=0.02, description="Money for the wear of each kWh discharged.", examples=[0.03]
    )
    end_value_per_kwh: NotNegative | None = Field(
        default=None,
        description="What a kWh that is left in it at the horizon's end is worth. Absent: the mean price of energy, "
        "less its losses and wear.",
        examples=[0.05],
    )
    may_export: bool = Field(default=False, description="Its power may leave the site.", examples=[False])
    device: DeviceEntry = Field(description="How it is read and set.", examples=[{"type": "simulated"}])

    @model_validator(mode="after")
    def _ordered(self) -> BatteryConfig:
        if self.min_soc >= self.max_soc:
            raise FieldError("max_soc", f"{self.max_soc:g} is not above `min_soc` ({self.min_soc:g})")
        return self


class GeneratorConfig(Model):
    """Generation at the site's meter: must-take (`output`), or an engine that is dispatched (`max_kw`)."""

    id: Id = Field(description="Name of the generator.", examples=["roof"])
    output: Id | None = Field(
        default=None,
        description="Must-take: signal of kind `generation` with its (forecast) output. Give this or `max_kw`.",
        examples=["solar"],
    )
    max_kw: Positive | None = Field(default=None, description="Dispatched: most output, in kW.", examples=[500])
    min_kw: NotNegative = Field(
        default=0.0, description="Dispatched: least output, in kW; above 0 it always runs.", examples=[100]
    )
    cost_per_mwh: NotNegative = Field(
        default=0.0, description="Dispatched: money for each MWh (fuel, wear).", examples=[180]
    )
    start_cost: NotNegative = Field(
        default=0.0,
        description="Dispatched: money for a start to full output (fuel, wear); a plan counts a part of full output "
        "as a part of it.",
        examples=[25],
    )
    may_export: bool = Field(default=False, description="Its power may leave the site.", examples=[False])
    device: DeviceEntry | None = Field(
        default=None, description="Dispatched: how it is read and set.", examples=[{"type": "simulated"}]
    )

    @model_validator(mode="after")
    def _one_kind(self) -> GeneratorConfig:
        if (self.output is None) == (self.max_kw is None):
            raise FieldError("output", "give either `output` (must-take) or `max_kw` (dispatched)")
        if (self.max_kw is None) != (self.device is None):
            raise FieldError("device", "an engine (`max_kw`) needs one, must-take generation has none")
        if self.max_kw is not None and self.min_kw > self.max_kw:
            raise FieldError("min_kw", f"{self.min_kw:g} kW is above `max_kw` ({self.max_kw:g} kW)")
        return self


class ReserveConfig(Model):
    """Reserve that the site offers: power that it would shed when called."""

    id: Id = Field(description="Name of the product.", examples=["spin"])
    price_per_kw_h: NotNegative | None = Field(
        default=None,
        description="Money for each kW held ready for an hour. Give this or `price`.",
        examples=[0.012],
    )
    price: Id | None = Field(
        default=None, description="Signal of kind `price` with it, per MW and hour.", examples=["reserve_price"]
    )
    max_kw: Positive = Field(description="Most that is offered, in kW.", examples=[800])
    notice: Duration = Field(
        default=timedelta(minutes=10), description="Time from a call until all of it is shed.", examples=["10m"]
    )
    sustain: Duration = Field(default=timedelta(minutes=30), description="How long a call may last.", examples=["30m"])

    @model_validator(mode="after")
    def _one_price(self) -> ReserveConfig:
        if (self.price_per_kw_h is None) == (self.price is None):
            raise FieldError("price", "give either `price` or `price_per_kw_h`")
        return self
