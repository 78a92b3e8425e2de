"""Refuses a problem that is not a problem: wrong lengths, numbers that are none, pools that do not exist.

Why before the solve: a NaN in one price makes a solver answer anything, or nothing, and the reason is lost. Here it
is a `ProblemError` that names the field and the interval. Infinite limits and ramps are allowed: they mean "none".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from math import inf, isfinite, isnan
from operator import attrgetter

import numpy as np

from optimizer.curves import clipped, hull_from_idle
from optimizer.domain import BatchJob, GpuPool, GridEvent, PoolInputs, Problem, SiteInputs, Work
from optimizer.reasons import Note, Reason, Severity
from optimizer.uncertain import Scenario


class ProblemError(ValueError):
    """The problem can't be planned; `field` is the place, as in `sites[dc1].price_per_mwh[17]`."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(f"{field}: {text}")
        self.field = field


def validate(problem: Problem) -> None:
    """Raise ProblemError for the first field that is missing, out of range or not a finite number."""
    for error in problems_of(problem):
        raise error


SOUND = "_sound"
"""Where a problem that can't change keeps that it was looked over, so that ladder and session don't do it twice."""


def problems_of(problem: Problem) -> Iterator[ProblemError]:
    """Every fault of a problem, in a fixed order."""
    if SOUND in problem.__dict__:
        return
    faults = False
    for error in _faults(problem):
        faults = True
        yield error
    if not faults:
        problem.__dict__[SOUND] = True


def _faults(problem: Problem) -> Iterator[ProblemError]:
    sites = {site.id for site in problem.sites}
    if len(sites) != len(problem.sites):
        yield ProblemError("sites", "two sites have the same id")
    supplies = [battery.id for site in problem.sites for battery in site.batteries]
    supplies += [unit.id for site in problem.sites for unit in site.generators]
    supplies += [offer.id for site in problem.sites for offer in site.reserves]
    if len(set(supplies)) != len(supplies):
        yield ProblemError("sites", "two batteries, generators or reserves have the same id")
    if len({inputs.pool.id for inputs in problem.pools}) != len(problem.pools):
        yield ProblemError("pools", "two pools have the same id")
    if len({job.id for job in problem.jobs}) != len(problem.jobs):
        yield ProblemError("jobs", "two jobs have the same id")
    for site in problem.sites:
        yield from _site(site, len(problem.grid))
    for inputs in problem.pools:
        yield from _pool(inputs, sites, len(problem.grid))
    for job in _doubtful(problem.jobs):
        yield from _job(job)
    yield from _cycles(problem.jobs)
    for event in problem.events:
        yield from _event(event, sites)
    names = (
        "over_limit_per_kwh",
        "below_floor_per_gpu_h",
        "ramp_per_kw",
        "change_per_kw",
        "carbon_per_tonne",
        "move_per_gb",
    )
    yield from _range("prices", problem.prices, names, 0.0)
    yield from _scenarios(problem)


def _scenarios(problem: Problem) -> Iterator[ProblemError]:
    """Faults of what may turn out otherwise, and of how it counts."""
    for number, scenario in enumerate(problem.scenarios):
        yield from _scenario(f"scenarios[{number}]", scenario, problem)
    total = sum(scenario.probability for scenario in problem.scenarios)
    if problem.scenarios and abs(total - 1.0) > 1e-6:
        yield ProblemError("scenarios", f"their probabilities add up to {total:g}")
    yield from _range("weighing", problem.weighing, ("risk_weight", "reserve_share", "peak_share"), 0.0, 1.0)
    yield from _range("weighing", problem.weighing, ("risk_tail",), 1e-6, 1.0)
    yield from _range("weighing", problem.weighing, ("weigh_every_s",), 1.0)


def _series(
    place: str, values: Iterable[float], count: int, low: float = -inf, top: float = 1e12
) -> Iterator[ProblemError]:
    """Faults of one value per interval; `top` inf allows an unlimited value."""
    numbers = tuple(values)
    if len(numbers) != count:
        yield ProblemError(place, f"has {len(numbers)} values for {count} intervals")
    seen = np.array(numbers, dtype=np.float64)
    if ((seen >= low) & (seen <= top) & (seen > -inf)).all():
        return
    for index, number in enumerate(numbers):
        if isnan(number) or not low <= number <= top or number == -inf:
            yield ProblemError(f"{place}[{index}]", f"is {number}")


def _range(place: str, thing: object, names: Iterable[str], low: float, top: float = 1e15) -> Iterator[ProblemError]:
    """Faults of single numbers."""
    for name in names:
        number = getattr(thing, name)
        if isnan(number) or not low <= number <= top:
            yield ProblemError(f"{place}.{name}", f"is {number}")


def _scenario(place: str, scenario: Scenario, problem: Problem) -> Iterator[ProblemError]:
    yield from _range(place, scenario, ("probability",), 0.0, 1.0)
    bounds = {
        "price_per_mwh": (len(problem.sites), -inf, 1e12),
        "limit_kw": (len(problem.sites), 0.0, inf),
        "other_it_kw": (len(problem.sites), 0.0, 1e12),
        "load": (len(problem.pools), 0.0, 1.0),
    }
    for name, (rows, low, top) in bounds.items():
        values = getattr(scenario, name)
        if len(values) != rows:
            yield ProblemError(f"{place}.{name}", f"has {len(values)} rows for {rows}")
        for number, row in enumerate(values):
            yield from _series(f"{place}.{name}[{number}]", row, len(problem.grid), low, top)


def _site(site: SiteInputs, count: int) -> Iterator[ProblemError]:
    place = f"sites[{site.id}]"
    yield from _series(f"{place}.price_per_mwh", site.price_per_mwh, count)
    yield from _series(f"{place}.limit_kw", site.limit_kw, count, 0.0, inf)
    yield from _series(f"{place}.pue", site.pue, count, 1.0, 10.0)
    yield from _series(f"{place}.other_it_kw", site.other_it_kw, count, 0.0)
    yield from _series(f"{place}.carbon_g_per_kwh", site.carbon_g_per_kwh, count, 0.0)
    yield from _range(place, site, ("ramp_up_kw_per_min", "ramp_down_kw_per_min"), 0.0, inf)
    if site.import_now_kw is not None and not isfinite(site.import_now_kw):
        yield ProblemError(f"{place}.import_now_kw", f"is {site.import_now_kw}")
    for charge in site.demand_charges:
        where = f"{place}.demand_charges[{charge.id}]"
        yield from _range(where, charge, ("price_per_kw", "peak_so_far_kw"), 0.0)
        if len(charge.active) != count:
            yield ProblemError(f"{where}.active", f"has {len(charge.active)} values for {count} intervals")
    yield from _supply(place, site, count)
    for offer in site.reserves:
        where = f"{place}.reserves[{offer.id}]"
        yield from _range(where, offer, ("max_kw", "notice_s", "sustain_s"), 0.0)
        yield from _series(f"{where}.price_per_kw_h", offer.price_per_kw_h, count, 0.0)
    for coincident in site.coincident:
        where = f"{place}.coincident[{coincident.id}]"
        yield from _range(where, coincident, ("price_per_kw",), 0.0)
        yield from _series(f"{where}.probability", coincident.probability, count, 0.0)


def _supply(place: str, site: SiteInputs, count: int) -> Iterator[ProblemError]:
    for battery in site.batteries:
        where = f"{place}.batteries[{battery.id}]"
        names = ("stored_now_kwh", "min_kwh", "max_kwh", "charge_kw", "discharge_kw", "wear_per_kwh")
        yield from _range(where, battery, names, 0.0)
        yield from _range(where, battery, ("charge_efficiency", "discharge_efficiency"), 0.01, 1.0)
        yield from _range(where, battery, ("end_value_per_kwh",), -1e15)
        if battery.min_kwh > battery.max_kwh:
            yield ProblemError(f"{where}.min_kwh", f"is {battery.min_kwh}, max_kwh {battery.max_kwh}")
    for unit in site.generators:
        where = f"{place}.generators[{unit.id}]"
        yield from _series(f"{where}.low_kw", unit.low_kw, count, 0.0)
        yield from _series(f"{where}.high_kw", unit.high_kw, count, 0.0)
        yield from _range(where, unit, ("cost_per_mwh", "start_cost", "output_now_kw"), 0.0)
        if any(low > high for low, high in zip(unit.low_kw, unit.high_kw, strict=False)):
            yield ProblemError(f"{where}.low_kw", "is above high_kw")


def _pool(inputs: PoolInputs, sites: set[str], count: int) -> Iterator[ProblemError]:
    pool = inputs.pool
    place = f"pools[{pool.id}]"
    if pool.site not in sites:
        yield ProblemError(f"{place}.site", f"{pool.site!r} is not a site")
    yield from _series(f"{place}.load", inputs.load, count, 0.0, 1.0)
    yield from _range(place, pool, ("count", "value_per_gpu_h", "min_cap_w"), 0.0)
    yield from _range(place, pool, ("floor",), 0.0, 1.0)
    if inputs.floors:
        yield from _series(f"{place}.floors", inputs.floors, count, 0.0, 1.0)
    if not pool.min_cap_w <= pool.max_cap_w < inf:
        yield ProblemError(f"{place}.max_cap_w", f"is {pool.max_cap_w}, min_cap_w {pool.min_cap_w}")
    yield from _parking(place, inputs)
    yield from _curve(place, pool)
    if inputs.draw_now_kw is not None and not isfinite(inputs.draw_now_kw):
        yield ProblemError(f"{place}.draw_now_kw", f"is {inputs.draw_now_kw}")


def _parking(place: str, inputs: PoolInputs) -> Iterator[ProblemError]:
    """Faults of what is said about parked GPUs."""
    pool = inputs.pool
    if pool.parking is not None:
        yield from _range(f"{place}.parking", pool.parking, ("parked_w", "wake_s", "wake_cost"), 0.0)
        yield from _range(f"{place}.parking", pool.parking, ("step",), 1.0)
        if pool.work is not Work.BATCH:
            yield ProblemError(f"{place}.parking", "is for batch pools: others follow a load that is not ours to move")
    yield from _range(place, inputs, ("parked_now", "waking_now", "wake_left_s"), 0.0)
    if inputs.parked_now + inputs.waking_now > (pool.count if pool.parking is not None else 0):
        yield ProblemError(f"{place}.parked_now", f"{inputs.parked_now} parked and {inputs.waking_now} waking GPUs")


def _curve(place: str, pool: GpuPool) -> Iterator[ProblemError]:
    """Faults of a power curve: numbers that are none, or no point that works inside the caps that may be ordered."""
    numbers = [pool.curve.idle_w, *(x for p in pool.curve.points for x in (p.cap_w, p.draw_w, p.throughput))]
    if not all(isfinite(number) and number >= 0 for number in numbers):
        yield ProblemError(f"{place}.curve", "has a number that is negative or none")
        return
    try:
        if not hull_from_idle(clipped(pool.curve, pool.min_cap_w, pool.max_cap_w)).segments:
            yield ProblemError(f"{place}.curve", "does no work under any cap that may be ordered")
    except ValueError as error:
        yield ProblemError(f"{place}.curve", str(error))


JOB_NUMBERS = attrgetter("work_gpu_h", "max_gpus", "late_penalty", "undone_penalty", "done_gpu_h", "value_per_gpu_h")


def _doubtful(jobs: tuple[BatchJob, ...]) -> list[BatchJob]:
    """Jobs that may have a fault: all thousands are looked over at once, and only these one by one."""
    numbers = np.array([JOB_NUMBERS(job) for job in jobs], dtype=np.float64).reshape(len(jobs), 6)
    low = np.array([0.0, 0.0, 0.0, 0.0, 0.0, -1e15])
    good = np.all((numbers >= low) & (numbers <= 1e15), axis=1)
    return [
        job
        for job, fine in zip(jobs, np.atleast_1d(good).tolist(), strict=True)
        if not fine or job.release.tzinfo is None or job.deadline.tzinfo is None
    ]


def _job(job: BatchJob) -> Iterator[ProblemError]:
    names = ("work_gpu_h", "max_gpus", "late_penalty", "undone_penalty", "done_gpu_h", "min_run_h", "pause_cost")
    yield from _range(f"jobs[{job.id}]", job, names, 0.0)
    yield from _range(f"jobs[{job.id}]", job, ("checkpoint_gpu_h", "restart_gpu_h", "data_gb"), 0.0)
    yield from _range(f"jobs[{job.id}]", job, ("min_gpus",), 0.0, float(job.max_gpus))
    yield from _range(f"jobs[{job.id}]", job, ("value_per_gpu_h",), -1e15)
    for name in ("release", "deadline"):
        if getattr(job, name).tzinfo is None:
            yield ProblemError(f"jobs[{job.id}].{name}", "has no time zone")


def _cycles(jobs: tuple[BatchJob, ...]) -> Iterator[ProblemError]:
    """The first circle of jobs that wait for each other."""
    after = {job.id: job.after for job in jobs if job.after}
    try:
        tuple(TopologicalSorter(after).static_order())
    except CycleError as error:
        circle = error.args[1]
        yield ProblemError(f"jobs[{circle[0]}].after", f"is a circle: {' waits for '.join(reversed(circle))}")


def _event(event: GridEvent, sites: set[str]) -> Iterator[ProblemError]:
    place = f"events[{event.id}]"
    if event.site not in sites:
        yield ProblemError(f"{place}.site", f"{event.site!r} is not a site")
    if not event.targets or event.end <= event.start:
        yield ProblemError(f"{place}.targets", "is empty, or the event ends before it starts")
    for index, span in enumerate(event.targets):
        if not isfinite(span.value):
            yield ProblemError(f"{place}.targets[{index}]", f"is {span.value}")
    if event.voluntary and event.emergency:
        yield ProblemError(f"{place}.voluntary", "is true for an emergency; nobody may choose whether to obey it")
    names = ("baseline_kw", "ramp_in_s", "ramp_out_s", "rebound_s", "penalty_per_kwh", "credit_per_kwh")
    yield from _range(place, event, names, 0.0)
    if event.rebound_kw is not None and not isfinite(event.rebound_kw):
        yield ProblemError(f"{place}.rebound_kw", f"is {event.rebound_kw}")


def mended(problem: Problem) -> Problem:
    """The problem with every broken signal value replaced by a cautious one, and a note for each site and pool mended.

    Price and carbon become 0, PUE its highest good value, a limit the lowest good one, a load 1. Broken scenarios are
    left out. What is broken beyond signals stays as it is.
    """
    notes: list[Note] = []
    if any(True for n, it in enumerate(problem.scenarios) for _ in _scenario(f"scenarios[{n}]", it, problem)):
        notes.append(Note(Reason.SIGNAL_NAN, "scenarios", "scenarios with broken numbers are left out", Severity.ALERT))
        problem = replace(problem, scenarios=())
    sites = tuple(_mended_site(site, notes) for site in problem.sites)
    pools = tuple(_mended_pool(inputs, notes) for inputs in problem.pools)
    return replace(problem, sites=sites, pools=pools, notes=(*problem.notes, *notes)) if notes else problem


def _mended_site(site: SiteInputs, notes: list[Note]) -> SiteInputs:
    limits = [limit for limit in site.limit_kw if limit >= 0]
    changed = replace(
        site,
        price_per_mwh=tuple(price if isfinite(price) else 0.0 for price in site.price_per_mwh),
        limit_kw=tuple(limit if limit >= 0 else min(limits, default=inf) for limit in site.limit_kw),
        pue=_or_worst(site.pue, 1.0, 10.0, 1.5),
        other_it_kw=_or_worst(site.other_it_kw, 0.0, 1e12, 0.0),
        carbon_g_per_kwh=tuple(carbon if 0 <= carbon < inf else 0.0 for carbon in site.carbon_g_per_kwh),
        coincident=tuple(
            replace(charge, probability=tuple(p if 0 <= p < inf else 0.0 for p in charge.probability))
            for charge in site.coincident
        ),
        generators=tuple(
            replace(
                unit,
                low_kw=tuple(kw if 0 <= kw < inf else 0.0 for kw in unit.low_kw),
                high_kw=tuple(kw if 0 <= kw < inf else 0.0 for kw in unit.high_kw),
            )
            for unit in site.generators
        ),
        reserves=tuple(
            replace(offer, price_per_kw_h=tuple(p if 0 <= p < inf else 0.0 for p in offer.price_per_kw_h))
            for offer in site.reserves
        ),
        import_now_kw=site.import_now_kw if site.import_now_kw is not None and isfinite(site.import_now_kw) else None,
    )
    if repr(changed) != repr(site):
        text = f"{site.id}: numbers that are none were replaced by cautious ones"
        notes.append(Note(Reason.SIGNAL_NAN, site.id, text, Severity.ALERT))
    return changed


def _mended_pool(inputs: PoolInputs, notes: list[Note]) -> PoolInputs:
    now = inputs.draw_now_kw
    changed = replace(
        inputs,
        load=tuple(load if 0 <= load <= 1 else 1.0 for load in inputs.load),
        floors=tuple(floor if 0 <= floor <= 1 else 1.0 for floor in inputs.floors),
        draw_now_kw=now if now is not None and isfinite(now) else None,
    )
    if repr(changed) != repr(inputs):
        text = f"{inputs.pool.id}: a load, floor or draw that is no number was replaced by a cautious one"
        notes.append(Note(Reason.SIGNAL_NAN, inputs.pool.id, text, Severity.ALERT))
    return changed


def _or_worst(values: tuple[float, ...], low: float, top: float, default: float) -> tuple[float, ...]:
    """The values, those that are none or out of range replaced by the highest good one."""
    good = [value for value in values if low <= value <= top]
    worst = max(good, default=default)
    return tuple(value if low <= value <= top else worst for value in values)
