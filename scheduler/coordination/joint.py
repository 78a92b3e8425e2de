"""From the problems of several daemons to one, and from its plan to the site at which each movable job should run.

All that decides where a job belongs is here: prices and carbon, limits, loads, batteries, generators, reserve, billed
and system peaks, events, deadlines, and what its data costs to move. Nobody obeys what the joint plan says of batteries
and reserve: each site's own plan acts. That one knows its scenarios as well, which are no part of this one, since those
of one site say nothing of another's. Pools of the same name do the same work.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np

from optimizer.domain import BatchJob, GridEvent, Plan, PoolInputs, Prices, Problem, SiteInputs, Work
from optimizer.facts import Floats
from optimizer.timegrid import TimeGrid
from scheduler.coordination.messages import Home, SiteReport

GRAMS_PER_TONNE = 1e6


@dataclass(frozen=True)
class Movable:
    """A job of the joint problem that may move: whose it is, by what name there, and where it is now."""

    owner: str
    job: str
    here: str


@dataclass(frozen=True)
class Terms:
    """What moving costs: money per gigabyte, and the least gain for each GPU-hour that is worth a move."""

    per_gb: float = 0.0
    least_gain: float = 0.0


def joint_problem(reports: Sequence[SiteReport], terms: Terms, now: datetime) -> tuple[Problem, Mapping[str, Movable]]:
    """One problem for all, and its movable jobs by their names in it. Names are SITE/NAME. ValueError where the plans
    have no time or no currency in common."""
    if len({report.currency for report in reports}) != 1:
        raise ValueError("the sites reckon in different currencies")
    grid = _common_grid([report.problem.grid for report in reports], now)
    owned = {report.name: report for report in reports}
    pools = {f"{one.name}/{each.pool.id}": each for one in reports for each in one.problem.pools}
    jobs: list[BatchJob] = []
    movable: dict[str, Movable] = {}
    for report in reports:
        followed = {name for job in report.problem.jobs for name in job.after}
        for job in report.problem.jobs:
            key = f"{report.name}/{job.id}"
            found = None if job.id in followed or job.after or not job.preemptible else _movable(report, job, owned)
            sites = _sites(found, owned) if found is not None else ()
            wanted = (f"{site}/{name}" for site in (report.name, *sites) for name in job.pools)
            places = tuple(name for name in wanted if name in pools and pools[name].pool.work is Work.BATCH)
            jobs.append(_renamed(report, job, key, places, terms))
            if found is not None and len(places) > len(job.pools):
                movable[key] = found
    problem = Problem(
        made_at=now,
        grid=grid,
        sites=tuple(site for report in reports for site in _site_inputs(report, grid)),
        pools=tuple(_pool(report.name, each, report.problem.grid, grid) for report in reports
                    for each in report.problem.pools),
        jobs=tuple(jobs),
        events=tuple(event for report in reports for event in _events(report)),
        prices=_prices(reports),
        currency=reports[0].currency,
    )  # fmt: skip
    return problem, movable


def shares(
    problem: Problem, plan: Plan, movable: Mapping[str, Movable], reports: Iterable[SiteReport]
) -> dict[str, dict[str, Home]]:
    """For each owner, where its movable jobs should run. A job that the plan gives no work stays where it is."""
    found: dict[str, dict[str, Home]] = {report.name: {} for report in reports}
    for key, one in movable.items():
        planned = plan.jobs[key]
        runs = sum(planned.work_gpus) > 1e-9
        site = planned.pool.partition("/")[0] if runs and planned.pool else one.here
        found[one.owner][one.job] = Home(site, _why(problem, plan, key, one, site))
    return found


# ---------------------------------------------------------------- jobs
def _movable(report: SiteReport, job: BatchJob, owned: Mapping[str, SiteReport]) -> Movable | None:
    """Whose job it is, where its owner lets it move and is heard."""
    if job.id in report.guests:
        owner, _, name = report.guests[job.id].partition("/")
        known = owner in owned and owned[owner].away.get(name) == report.name
        return Movable(owner, name, report.name) if known else None
    return Movable(report.name, job.id, report.name) if job.id in report.movable else None


def _sites(one: Movable, owned: Mapping[str, SiteReport]) -> tuple[str, ...]:
    """Where else it may run: residency is its owner's word, and home is always allowed."""
    allowed = (one.owner, *owned[one.owner].movable.get(one.job, ()))
    return tuple(site for site in dict.fromkeys(allowed) if site in owned and site != one.here)


def _renamed(report: SiteReport, job: BatchJob, key: str, places: tuple[str, ...], terms: Terms) -> BatchJob:
    """The job under its name in the joint problem; what moving it costs stands in `data_gb`, at one unit of money."""
    home = next((each.pool.site for each in report.problem.pools if each.pool.id in job.pools), "")
    cost = job.data_gb * terms.per_gb + job.left_gpu_h * terms.least_gain
    after = tuple(f"{report.name}/{name}" for name in job.after)
    return replace(job, id=key, pools=places, after=after, data_gb=cost, data_site=f"{report.name}/{home}")


# ---------------------------------------------------------------- sites and pools
def _site_inputs(report: SiteReport, grid: TimeGrid) -> Iterable[SiteInputs]:
    """Sites with carbon in their price, each at its own daemon's price of it."""
    own = report.problem.grid
    for site in report.problem.sites:
        carbon = np.array(site.carbon_g_per_kwh) * 1000.0 / GRAMS_PER_TONNE * report.problem.prices.carbon_per_tonne
        charges = tuple(
            replace(each, active=tuple(bool(share >= 0.5) for share in _means(np.array(each.active, float), own, grid)))
            for each in site.demand_charges
        )
        yield SiteInputs(
            id=f"{report.name}/{site.id}",
            price_per_mwh=_tuple(_means(np.array(site.price_per_mwh) + carbon, own, grid)),
            limit_kw=_tuple(_least(np.array(site.limit_kw), own, grid)),
            pue=_tuple(_means(np.array(site.pue), own, grid)),
            other_it_kw=_tuple(_means(np.array(site.other_it_kw), own, grid)),
            carbon_g_per_kwh=(0.0,) * len(grid),
            demand_charges=charges,
            ramp_up_kw_per_min=site.ramp_up_kw_per_min,
            ramp_down_kw_per_min=site.ramp_down_kw_per_min,
            import_now_kw=site.import_now_kw,
            **_supply(report.name, site, own, grid),
        )


def _supply(name: str, site: SiteInputs, own: TimeGrid, grid: TimeGrid) -> dict[str, Any]:
    """A site's batteries, generators, offers of reserve and charges on the system's peak. A peak's probability lies in
    its intervals by the hour."""

    def means(values: Sequence[float]) -> tuple[float, ...]:
        return _tuple(_means(np.array(values), own, grid))

    overlap = _overlap_h(own, grid)
    shares = overlap / np.array(own.hours)
    return {
        "batteries": tuple(replace(one, id=f"{name}/{one.id}") for one in site.batteries),
        "generators": tuple(
            replace(one, id=f"{name}/{one.id}", low_kw=means(one.low_kw), high_kw=means(one.high_kw))
            for one in site.generators
        ),
        "reserves": tuple(
            replace(one, id=f"{name}/{one.id}", price_per_kw_h=means(one.price_per_kw_h)) for one in site.reserves
        ),
        "coincident": tuple(
            replace(one, id=f"{name}/{one.id}", probability=_tuple(shares @ np.array(one.probability)))
            for one in site.coincident
        ),
    }


def _pool(name: str, inputs: PoolInputs, own: TimeGrid, grid: TimeGrid) -> PoolInputs:
    pool = replace(inputs.pool, id=f"{name}/{inputs.pool.id}", site=f"{name}/{inputs.pool.site}")
    floors = _tuple(-_least(-np.array(inputs.floors), own, grid)) if inputs.floors else ()
    return replace(inputs, pool=pool, load=_tuple(_means(np.array(inputs.load), own, grid)), floors=floors)


def _events(report: SiteReport) -> Iterable[GridEvent]:
    """Events that hold; what a site has not decided yet, its own plan decides."""
    for event in report.problem.events:
        if not event.undecided:
            yield replace(event, id=f"{report.name}/{event.id}", site=f"{report.name}/{event.site}")


def _prices(reports: Sequence[SiteReport]) -> Prices:
    """What breaking a requirement costs: the highest that any site names."""
    names = ("over_limit_per_kwh", "below_floor_per_gpu_h", "ramp_per_kw", "change_per_kw")
    highest = {name: max(getattr(report.problem.prices, name) for report in reports) for name in names}
    return Prices(**highest, carbon_per_tonne=0.0, move_per_gb=1.0)


# ---------------------------------------------------------------- time
def _common_grid(grids: Sequence[TimeGrid], now: datetime) -> TimeGrid:
    """Where all plans overlap, from the interval that holds now on, on the edges of the finest."""
    start, end = max(grid.start for grid in grids), min(grid.end for grid in grids)
    finest = max(grids, key=lambda grid: sum(start < edge < end for edge in grid.edges))
    start = max((edge for edge in finest.edges if start < edge <= now), default=start)
    if end <= max(start, now):
        raise ValueError("the sites' plans have no time in common")
    return TimeGrid((start, *(edge for edge in finest.edges if start < edge < end), end))


def _overlap_h(own: TimeGrid, grid: TimeGrid) -> Floats:
    """Hours that each interval of `grid` (rows) has in common with each of `own`."""
    zero = grid.start
    left, right = (np.array([(edge - zero).total_seconds() / 3600.0 for edge in one.edges]) for one in (own, grid))
    common = np.minimum(right[1:, None], left[None, 1:]) - np.maximum(right[:-1, None], left[None, :-1])
    found: Floats = np.maximum(common, 0.0)
    return found


def _means(values: Floats, own: TimeGrid, grid: TimeGrid) -> Floats:
    """Time-weighted means on `grid`."""
    hours = _overlap_h(own, grid)
    found: Floats = hours @ values / hours.sum(axis=1)
    return found


def _least(values: Floats, own: TimeGrid, grid: TimeGrid) -> Floats:
    """The least value that any part of each interval has."""
    found: Floats = np.where(_overlap_h(own, grid) > 0.0, values[None, :], np.inf).min(axis=1)
    return found


def _tuple(values: Floats) -> tuple[float, ...]:
    return tuple(values.tolist())


# ---------------------------------------------------------------- why
def _why(problem: Problem, plan: Plan, key: str, one: Movable, site: str) -> str:
    """One sentence: what power costs where the job runs, in its hours, and elsewhere."""
    work = np.array(plan.jobs[key].work_gpus) * np.array(problem.grid.hours)
    if not work.sum() > 1e-9:
        return f"stays at {one.here}: the plan gives it no work yet"
    pools = {each.pool.id: each.pool.site for each in problem.pools}
    prices = {each.id: np.array(each.price_per_mwh) for each in problem.sites}
    job = next(job for job in problem.jobs if job.id == key)
    costs = {place.partition("/")[0]: float(work @ prices[pools[place]] / work.sum()) for place in reversed(job.pools)}
    others = ", ".join(f"{cost:.2f} at {name}" for name, cost in sorted(costs.items()) if name != site)
    moved = "" if site == one.here else f"; moving it from {one.here} counts {job.data_gb:.2f} {problem.currency}"
    return (
        f"power in its hours costs {costs[site]:.2f} {problem.currency}/MWh at {site}, carbon included, {others}{moved}"
    )
