"""Demand charges as configured at a site, laid on the plan's grid by billing month.

A charge is money per kW of the highest interval mean of the local calendar month inside a window of the week; each
month that the grid touches is a charge of its own, because a new month starts without a peak.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from optimizer.domain import DemandCharge
from optimizer.timegrid import TimeGrid
from scheduler.config.base import WEEKDAYS
from scheduler.config.site import DemandChargeConfig, SiteConfig

QUARTER = timedelta(minutes=15)


def charge_id(site: str, charge: str, local: datetime) -> str:
    """Key of a charge's billing month in the books."""
    return f"{site}/{charge}/{local:%Y-%m}"


def in_window(charge: DemandChargeConfig, local: datetime) -> bool:
    """True when the charge counts at this local moment."""
    clock = f"{local:%H:%M}"
    return (
        local.month in charge.months and WEEKDAYS[local.weekday()] in charge.days and charge.start <= clock < charge.end
    )


def site_charges(site: SiteConfig, grid: TimeGrid, peaks_kw: Mapping[str, float]) -> tuple[DemandCharge, ...]:
    """One DemandCharge for each charge and month on the grid; `peaks_kw` by `charge_id`, 0 where the month is new.

    The configured `peak_so_far_kw` counts for the month in which the grid begins.
    """
    zone = ZoneInfo(site.timezone)
    first = grid.start.astimezone(zone)
    found: dict[str, list[bool]] = {}
    terms: dict[str, tuple[float, float]] = {}
    for index in range(len(grid)):
        moment = grid.edges[index]
        while moment < grid.edges[index + 1]:
            local = moment.astimezone(zone)
            for charge in site.demand_charges:
                if in_window(charge, local):
                    key = charge_id(site.id, charge.id, local)
                    found.setdefault(key, [False] * len(grid))[index] = True
                    given = charge.peak_so_far_kw if (local.year, local.month) == (first.year, first.month) else 0.0
                    terms[key] = (charge.price_per_kw, max(given, peaks_kw.get(key, 0.0)))
            moment += QUARTER
    return tuple(DemandCharge(key, *terms[key], tuple(active)) for key, active in found.items())
