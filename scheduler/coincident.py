"""Coincident-peak charges of a site on the plan's grid: how likely each interval is the grid's own peak.

Why booked: a peak counts against the highest of its whole season, of which the signals keep only the last two weeks.
Each day's highest load goes into the books with the site's own peaks, and stays over restarts.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from optimizer.assets import CoincidentCharge
from optimizer.coincident import day_load, likely_window, probabilities
from optimizer.domain import Series
from optimizer.forecast import Outlook, extend, forecast_on_grid
from optimizer.reasons import Note, Reason, Severity
from optimizer.timegrid import TimeGrid, local_day
from scheduler.collect import Snapshot
from scheduler.engine import Context, SiteModel
from scheduler.sitemodels import CoincidentModel

KNOWN_DAYS = 13
"""How far back a signal is looked through for daily peaks that are not booked yet."""

Charges = tuple[CoincidentCharge, ...]


def coincident_now(
    ctx: Context, seen: Snapshot, site: SiteModel, grid: TimeGrid, now: datetime
) -> tuple[Charges, tuple[Note, ...]]:
    """The site's coincident-peak charges on the grid, and a note for each peak that is likely."""
    charges: list[CoincidentCharge] = []
    notes: list[Note] = []
    for model in site.coincident:
        chances, said = _chances(ctx, seen, site, model, grid, now)
        charges.append(CoincidentCharge(model.id, model.price_per_kw, chances))
        notes.extend(said)
        window = likely_window(grid, chances)
        if window is not None:
            start, end = (moment.astimezone(ZoneInfo(site.timezone)) for moment in window[:2])
            text = f"{model.id} likely {start:%a %H:%M}-{end:%H:%M}, p = {window[2]:.2g}"
            notes.append(Note(Reason.COINCIDENT_PEAK, site.id, text, Severity.INFO, window[0]))
    return tuple(charges), tuple(notes)


def _chances(
    ctx: Context, seen: Snapshot, site: SiteModel, model: CoincidentModel, grid: TimeGrid, now: datetime
) -> tuple[tuple[float, ...], tuple[Note, ...]]:
    """Probability on the grid; where nothing is known of it none is assumed, with an alert."""
    zone = Outlook(zone=ZoneInfo(site.timezone), low=0.0)
    try:
        if model.probability is not None:
            values, notes = forecast_on_grid(seen.series(model.probability), grid, zone)
            return given(grid, values, model.rule.interval), notes
        load = seen.series(str(model.system_load))
        book_system_peaks(ctx, site, model, load, now)
        start, end = whole_days(grid, model)
        known, notes = extend(load, max(start, load.spans[0].start), end, zone) if load.spans else (load, ())
        if not known.spans:
            raise ValueError("nothing is known")
        past = past_peaks(ctx, site, model, grid.start)
        return probabilities(grid, known, model.rule, past), notes
    except ValueError:
        text = f"{model.id}: nothing is known of the grid's peak; none is expected until something is"
        return (0.0,) * len(grid), (Note(Reason.SIGNAL_LOST, site.id, text, Severity.ALERT, now),)


def given(grid: TimeGrid, values: tuple[float, ...], interval: timedelta) -> tuple[float, ...]:
    """Probabilities of metering intervals as expected peaks in the intervals of the plan."""
    hours = interval.total_seconds() / 3600.0
    return tuple(max(0.0, value) * length / hours for value, length in zip(values, grid.hours, strict=True))


def whole_days(grid: TimeGrid, model: CoincidentModel) -> tuple[datetime, datetime]:
    """From the first local midnight before the grid to the first one after it."""
    zone = model.rule.zone
    first, last = grid.start.astimezone(zone).date(), grid.starts[-1].astimezone(zone).date()
    return local_day(first, zone)[0], local_day(last, zone)[1]


def book_key(site: SiteModel, model: CoincidentModel) -> str:
    """Name of the system's daily peaks in the books."""
    return f"{site.id}/{model.id}/system"


def book_system_peaks(ctx: Context, site: SiteModel, model: CoincidentModel, load: Series, now: datetime) -> None:
    """Keep the highest load of each past day and of today so far."""
    today, key = now.astimezone(model.rule.zone).date(), book_key(site, model)
    for back in range(KNOWN_DAYS + 1):
        day = today - timedelta(days=back)
        if back > 1 and ctx.store.peak_kw(key, day.isoformat()) > 0:
            continue
        values = day_load(load, day, model.rule, until=now)
        if values:
            ctx.store.raise_peak(key, day.isoformat(), max(values.values()))


def past_peaks(ctx: Context, site: SiteModel, model: CoincidentModel, start: datetime) -> Mapping[date, float]:
    """Booked peaks of the days of the season before `start`."""
    key, today = book_key(site, model), start.astimezone(model.rule.zone).date()
    days = [day for day in model.rule.season(today) if day < today]
    return {day: peak for day in days if (peak := ctx.store.peak_kw(key, day.isoformat())) > 0}


def settled(model: CoincidentModel, series: Series, grid: TimeGrid) -> CoincidentCharge:
    """The charge as a backtest settles it: the published probabilities, or the rule on the load that really was."""
    if model.probability is not None:
        values = tuple(series.mean(a, b) or 0.0 for a, b in zip(grid.edges[:-1], grid.edges[1:], strict=True))
        return CoincidentCharge(model.id, model.price_per_kw, given(grid, values, model.rule.interval))
    return CoincidentCharge(model.id, model.price_per_kw, probabilities(grid, series, model.rule, {}))
