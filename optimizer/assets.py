"""What a site has beside GPUs and a plain meter: charges on the grid's own peak, batteries, generators.

Why apart from `domain.py`: a site without them is planned as ever; each type here is absent by default.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CoincidentCharge:
    """Money per kW of the site's import in the interval in which the *grid* peaks (4CP, 12CP, 5CP).

    `probability` has an entry an interval of the plan: how much of a coincident peak is expected in it (the probability
    that the peak's metering interval lies in it; less where it is only a part of one). Its cost is an expected one:
    price_per_kw * sum of probability * mean import in kW.
    """

    id: str
    price_per_kw: float
    probability: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Parking:
    """How idle GPUs of a batch pool are put into a deeper sleep: each of them then draws `parked_w`, and works again
    `wake_s` after it was woken, which costs `wake_cost` money a GPU. They are parked by `step` GPUs at once."""

    parked_w: float
    wake_s: float = 0.0
    wake_cost: float = 0.0
    step: int = 1


@dataclass(frozen=True, slots=True)
class Battery:
    """Storage at a site's meter (not behind its PUE). Powers in kW at the meter, energies in kWh inside.

    1 kWh drawn stores `charge_efficiency` kWh; `discharge_efficiency` kWh arrive of 1 kWh taken out. `wear_per_kwh` is
    money per kWh discharged, `end_value_per_kwh` what a kWh that is left at the horizon's end is worth. `may_export`:
    its discharge may leave the site.
    """

    id: str
    stored_now_kwh: float
    min_kwh: float
    max_kwh: float
    charge_kw: float
    discharge_kw: float
    charge_efficiency: float = 0.95
    discharge_efficiency: float = 0.95
    wear_per_kwh: float = 0.0
    end_value_per_kwh: float = 0.0
    may_export: bool = False


@dataclass(frozen=True, slots=True)
class Generator:
    """Generation at a site's meter; `low_kw` and `high_kw` have an entry an interval.

    `must_take` (solar): all of `high_kw` is taken, as far as the site or the grid can (the rest is spilled). Otherwise
    it is dispatched between `low_kw` and `high_kw` at `cost_per_mwh`; `start_cost` is money for going from nothing to
    `high_kw`, and a part of it for a part of that. `output_now_kw`: what it gives now. `may_export`: its output may
    leave the site.
    """

    id: str
    low_kw: tuple[float, ...]
    high_kw: tuple[float, ...]
    cost_per_mwh: float = 0.0
    must_take: bool = False
    may_export: bool = False
    start_cost: float = 0.0
    output_now_kw: float = 0.0


@dataclass(frozen=True)
class BatteryPlan:
    """Mean charge and discharge in kW (never both in one interval), and what is stored at each interval's end."""

    site: str
    charge_kw: tuple[float, ...]
    discharge_kw: tuple[float, ...]
    stored_kwh: tuple[float, ...]


@dataclass(frozen=True)
class GeneratorPlan:
    """Mean output in kW, and what of must-take generation is spilled."""

    site: str
    output_kw: tuple[float, ...]
    spilled_kw: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ReserveOffer:
    """Power that a site offers to shed when it is called: up to `max_kw`, within `notice_s`, for `sustain_s` seconds.

    `price_per_kw_h` has an entry an interval: money for each kW held ready for an hour.
    """

    id: str
    price_per_kw_h: tuple[float, ...]
    max_kw: float
    notice_s: float
    sustain_s: float


@dataclass(frozen=True)
class ReservePlan:
    """Mean power in kW that is offered in each interval."""

    site: str
    offered_kw: tuple[float, ...]
