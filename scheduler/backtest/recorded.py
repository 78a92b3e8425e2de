"""What really happened: every signal of a window in full, and the problem that it poses when all of it is known.

Why beside the loops: Gridpace must see only what was public at each moment, while the simulated hall's physics, the
account and the rival with perfect foresight need the truth. The sources are the same; here they are asked with a clock
that stands after the window, and never by the loops.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from adapters.ports import SignalSource, SourceError
from optimizer.domain import BatchJob, GridEvent, PoolInputs, Prices, Problem, Series, SiteInputs
from optimizer.envelope import event_breakpoints
from optimizer.forecast import on_grid
from optimizer.timegrid import TimeGrid, uniform_grid
from scheduler.coincident import settled
from scheduler.engine import SiteModel
from scheduler.peaks import METERING
from scheduler.pools import PoolModel

AFTERWARDS = timedelta(days=400)
"""The truth is read with a clock this long after the window, when everything has been published."""


class BacktestRefused(ValueError):
    """This backtest can't be run; the text says why."""


class RecordingGap(BacktestRefused):
    """A recording doesn't hold the window: nothing can be settled there, and nothing is made up."""


def recorded(name: str, source: SignalSource, start: datetime, end: datetime) -> Series:
    """All of a signal over [start, end); RecordingGap when a part is missing, SourceError when it can't be read."""
    series = source.read(start, end, end + AFTERWARDS)
    covered = series.until(start)
    if covered < end:
        text = f"signal {name}: nothing is recorded from {covered:%Y-%m-%d %H:%MZ} on"
        raise RecordingGap(f"{text}; the backtest runs to {end:%Y-%m-%d %H:%MZ}")
    return series


def recordings(
    sources: Mapping[str, SignalSource],
    sites: Mapping[str, SiteModel],
    pools: Mapping[str, PoolModel],
    start: datetime,
    end: datetime,
) -> dict[str, Series]:
    """The truth of every signal that money or physics depends on (forecasts are not among them)."""
    wanted = {name for site in sites.values() for name in (site.price, site.carbon, site.weather, site.limit_signal)}
    wanted |= {model.load for model in pools.values() if isinstance(model.load, str)}
    wanted |= {unit.output for site in sites.values() for unit in site.generators}
    wanted |= {offer.price for site in sites.values() for offer in site.reserves}
    wanted |= {peak.probability or peak.system_load for site in sites.values() for peak in site.coincident}
    try:
        return {name: recorded(name, sources[name], start, end) for name in sorted(n for n in wanted if n)}
    except SourceError as error:
        raise RecordingGap(str(error)) from error


def settlement_step(sites: Iterable[SiteModel], truth: Mapping[str, Series]) -> timedelta:
    """Length of a settlement interval: a quarter of an hour, or that of the finest price where it is finer."""
    lengths = [span.end - span.start for site in sites for span in truth[site.price].spans[1:-1]]
    return min([METERING, *lengths])


def settlement_grid(start: datetime, end: datetime, step: timedelta, events: Iterable[GridEvent]) -> TimeGrid:
    """Intervals of `step` on the clock, cut where an event's cap changes its slope, so that none is bound in part."""
    cuts = set(uniform_grid(start, end, step).edges)
    cuts |= {cut for event in events for cut in event_breakpoints(event)}
    return TimeGrid((start, *sorted(cut for cut in cuts if start < cut < end), end))


def true_problem(
    grid: TimeGrid,
    sites: Mapping[str, SiteModel],
    pools: Mapping[str, PoolModel],
    truth: Mapping[str, Series],
    jobs: Iterable[BatchJob],
    events: Iterable[GridEvent],
    prices: Prices,
    currency: str,
) -> Problem:
    """The window as one problem with everything known; the account settles on it."""
    return Problem(
        made_at=grid.start,
        grid=grid,
        sites=tuple(_site(model, grid, truth) for model in sites.values()),
        pools=tuple(PoolInputs(model.pool, _values(model.load, grid, truth)) for model in pools.values()),
        jobs=tuple(jobs),
        events=tuple(events),
        prices=prices,
        currency=currency,
    )


def with_batteries(problem: Problem, sites: Mapping[str, SiteModel], stored_kwh: Mapping[str, float]) -> Problem:
    """The problem with its sites' batteries, as full as they were when the window began. What is left in them at its
    end is worth the window's mean price, where the config says nothing."""
    found = []
    for site in problem.sites:
        mean = sum(site.price_per_mwh) / len(site.price_per_mwh)
        models = [battery for battery in sites[site.id].batteries if battery.id in stored_kwh]
        found.append(replace(site, batteries=tuple(model.on(stored_kwh[model.id], mean) for model in models)))
    return replace(problem, sites=tuple(found))


def _site(model: SiteModel, grid: TimeGrid, truth: Mapping[str, Series]) -> SiteInputs:
    weather = on_grid(truth[model.weather], grid) if model.weather else (None,) * len(grid)
    inputs = SiteInputs(
        id=model.id,
        price_per_mwh=on_grid(truth[model.price], grid),
        limit_kw=(model.limit_kw,) * len(grid),
        pue=tuple(model.pue.at(celsius) for celsius in weather),
        other_it_kw=(model.other_it_kw,) * len(grid),
        carbon_g_per_kwh=_values(model.carbon or 0.0, grid, truth),
        demand_charges=model.charges(grid, {}) if model.charges else (),
        generators=tuple(u.on(grid, on_grid(truth[u.output], grid) if u.output else None) for u in model.generators),
        reserves=tuple(r.on(grid, on_grid(truth[r.price], grid) if r.price else None) for r in model.reserves),
        coincident=tuple(
            settled(peak, truth[str(peak.probability or peak.system_load)], grid) for peak in model.coincident
        ),
    )
    if model.limit_signal is None:
        return inputs
    limits = on_grid(truth[model.limit_signal], grid)
    return replace(inputs, limit_kw=tuple(min(model.limit_kw, limit) for limit in limits))


def _values(value: float | str, grid: TimeGrid, truth: Mapping[str, Series]) -> tuple[float, ...]:
    """A fixed value or a signal on the grid."""
    return on_grid(truth[value], grid) if isinstance(value, str) else (float(value),) * len(grid)
