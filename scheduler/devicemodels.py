"""Batteries, generators and reserve as configured, and what is known of one device."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from adapters.ports import DeviceReading
from optimizer.assets import Battery, Generator, ReserveOffer
from optimizer.timegrid import TimeGrid


@dataclass(frozen=True)
class BatteryModel:
    """A battery as configured; energies in kWh. `end_value_per_kwh` None: from the mean price."""

    id: str
    energy_kwh: float
    min_kwh: float
    max_kwh: float
    charge_kw: float
    discharge_kw: float
    efficiency: float
    wear_per_kwh: float
    end_value_per_kwh: float | None
    may_export: bool

    def on(self, stored_kwh: float, mean_price_per_mwh: float) -> Battery:
        """With what is in it now; the loss is split evenly between the two ways."""
        one_way = sqrt(self.efficiency)
        worth = max(0.0, mean_price_per_mwh / 1000.0 - self.wear_per_kwh) * one_way
        return Battery(
            id=self.id,
            stored_now_kwh=max(0.0, stored_kwh),
            min_kwh=self.min_kwh,
            max_kwh=self.max_kwh,
            charge_kw=self.charge_kw,
            discharge_kw=self.discharge_kw,
            charge_efficiency=one_way,
            discharge_efficiency=one_way,
            wear_per_kwh=self.wear_per_kwh,
            end_value_per_kwh=worth if self.end_value_per_kwh is None else self.end_value_per_kwh,
            may_export=self.may_export,
        )


@dataclass(frozen=True)
class GeneratorModel:
    """A generator as configured: must-take with the signal of its output, or dispatched."""

    id: str
    output: str | None
    min_kw: float
    max_kw: float
    cost_per_mwh: float
    may_export: bool
    start_cost: float = 0.0

    def on(self, grid: TimeGrid, output_kw: tuple[float, ...] | None, now_kw: float = 0.0) -> Generator:
        """On the grid; `output_kw` of must-take generation, `now_kw` what an engine gives now."""
        low = (0.0 if output_kw is not None else self.min_kw,) * len(grid)
        high = output_kw if output_kw is not None else (self.max_kw,) * len(grid)
        must_take, now_kw = output_kw is not None, max(0.0, now_kw)
        return Generator(self.id, low, high, self.cost_per_mwh, must_take, self.may_export, self.start_cost, now_kw)


@dataclass(frozen=True)
class ReserveModel:
    """Reserve as configured; its price is fixed (per kW and hour) or a signal's (per MW and hour)."""

    id: str
    price_per_kw_h: float | None
    price: str | None
    max_kw: float
    notice_s: float
    sustain_s: float

    def on(self, grid: TimeGrid, price_per_mw_h: tuple[float, ...] | None) -> ReserveOffer:
        """On the grid."""
        fixed = (self.price_per_kw_h or 0.0,) * len(grid)
        prices = fixed if price_per_mw_h is None else tuple(max(0.0, price / 1000.0) for price in price_per_mw_h)
        return ReserveOffer(self.id, prices, self.max_kw, self.notice_s, self.sustain_s)


@dataclass
class DeviceState:
    """What is known of one device: its last reading (None: silent), the set-point in force and when it was written."""

    reading: DeviceReading | None = None
    setpoint_kw: float | None = None
    written_at: float = float("-inf")
    sequence: int = 0
