"""The billing month's peak so far: the highest interval mean of the measured import, per demand charge.

Why booked by the slow loop: a demand charge counts the mean of a metering interval, and the plan must not shave below
a peak that is already paid for.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from math import ceil

from optimizer.domain import DemandCharge
from optimizer.timegrid import TimeGrid, floor_time, uniform_grid
from scheduler.engine import Context, SiteModel

METERING = timedelta(minutes=15)


def book_peaks(ctx: Context, now: datetime) -> None:
    """Raise the peaks by every metering interval that ended since the last turn."""
    end = floor_time(now, METERING)
    for back in range(ceil(ctx.timing.interval / METERING)):
        _book(ctx, end - (back + 1) * METERING)


def _book(ctx: Context, start: datetime) -> None:
    """Raise the peaks by the metering interval that begins at `start`."""
    end = start + METERING
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
    return tuple(_with_peak(ctx, site, charge) for charge in site.charges(grid, {}))


def _with_peak(ctx: Context, site: SiteModel, charge: DemandCharge) -> DemandCharge:
    """With what is billed already: the month's own peak, or by a ratchet a share of the highest of months before."""
    name, month = charge.id.rsplit("/", 1)
    billed = max(charge.peak_so_far_kw, ctx.store.peak_kw(name, month))
    if name in site.ratchets:
        share, months = site.ratchets[name]
        billed = max(billed, *(share * ctx.store.peak_kw(name, before) for before in months_before(month, months)))
    return replace(charge, peak_so_far_kw=billed)


def months_before(month: str, count: int) -> list[str]:
    """The `count` months before `month` (YYYY-MM), latest first."""
    number = int(month[:4]) * 12 + int(month[5:]) - 1
    return [f"{(number - back) // 12:04d}-{(number - back) % 12 + 1:02d}" for back in range(1, count + 1)]
