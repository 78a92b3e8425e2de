"""The billing month's peak so far: the highest interval mean of the measured import, per demand charge.

Why booked by the slow loop: a demand charge counts the mean of a metering interval, and the plan must not shave below
a peak that is already paid for.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from optimizer.domain import DemandCharge
from optimizer.timegrid import TimeGrid, floor_time, uniform_grid
from scheduler.engine import Context, SiteModel

METERING = timedelta(minutes=15)


def book_peaks(ctx: Context, now: datetime) -> None:
    """Raise the peaks by the last complete metering interval."""
    end = floor_time(now, METERING)
    start = end - METERING
    for site in ctx.sites.values():
        mean_kw = ctx.store.mean_import_kw(site.id, start, end) if site.charges else None
        if mean_kw is None or site.charges is None:
            continue
        for charge in site.charges(uniform_grid(start, end, METERING), {}):
            if charge.active[0]:
                name, month = charge.id.rsplit("/", 1)
                ctx.store.raise_peak(name, month, mean_kw)


def charges_now(ctx: Context, site: SiteModel, grid: TimeGrid) -> tuple[DemandCharge, ...]:
    """The site's demand charges on the grid, each with the peak that its billing month has already seen."""
    if site.charges is None:
        return ()
    return tuple(_with_peak(ctx, charge) for charge in site.charges(grid, {}))


def _with_peak(ctx: Context, charge: DemandCharge) -> DemandCharge:
    name, month = charge.id.rsplit("/", 1)
    return replace(charge, peak_so_far_kw=max(charge.peak_so_far_kw, ctx.store.peak_kw(name, month)))
