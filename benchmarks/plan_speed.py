"""How fast plans are made: against HiGHS alone on the very same arrays, one interval after the other, with many jobs.

Every instance is another day of the reference problem. What is compared is timed in turn on the same instance, in
alternating order, and each ratio is the median over the instances. Times are CPU seconds of one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.support.days import CLOSED_LOOP, WAYS, Days, figures_of
from benchmarks.support.longrun import roll, told
from benchmarks.support.memory import peak_mb
from benchmarks.support.plans import Hasty, Planned, Whole, arrays_of, highs_alone, timed
from benchmarks.support.reference import coarse_grid, fine_grid, reference_problem
from benchmarks.support.report import Figures, run, say, spread
from benchmarks.support.rolling import refreshed, stepped
from optimizer.domain import Plan, Problem, Rung
from optimizer.evaluate import evaluate

CHANGE_PER_KW = 0.002
"""The daemon's own price of moving a kW, for change_cost_ratio."""

DAY_STEPS = 144
"""After so many rolling steps (twelve hours) the next day's jobs come, all at once."""


@dataclass(frozen=True)
class Size:
    """How large and how often: jobs, pools, hours of horizon, instances; then the large case, closed-loop days and
    rolling steps."""

    jobs: int = 1000
    pools: int = 20
    horizon_h: float = 24.0
    instances: int = 7
    many_jobs: int = 5000
    many_instances: int = 3
    most_jobs: int = 50_000
    days: int = 3
    rolling_steps: int = 1000


FULL = Size()
QUICK = Size(jobs=100, pools=6, horizon_h=8.0, instances=3, many_jobs=0, most_jobs=2000, days=1, rolling_steps=20)

Ratios = dict[str, float]


def measure(
    quick: bool, seed: int, parts: Sequence[str] = (), state: Path | None = None, minutes: float = inf
) -> Figures:
    """The figures of these parts (none named: of all), printed on the way. `state`, `minutes`: see `main`."""
    size = QUICK if quick else FULL
    say(f"{size.instances} days of {size.pools} pools and {size.jobs} jobs over {size.horizon_h:g} h")
    say("HiGHS alone = pass the arrays that the plan solved, solve from nothing, read the point")
    Planned().plan(reference_problem(seed, coarse_grid(size.horizon_h), 20, 4))  # a daemon pays its imports once
    figures: dict[str, Any] = {}
    for name, part in PARTS.items():
        if not parts or name in parts:
            figures |= part(size, seed, state, minutes) if name in LONG else part(size, seed)
    return figures


def _peak(size: Size, seed: int) -> Figures:
    """Memory."""
    peak = peak_mb(reference_problem(seed, fine_grid(size.horizon_h), size.jobs, size.pools))
    if peak is None:
        return {}
    say(f"  peak_mb            {peak:.0f} MB resident in a fresh process that plans twice on the 5-minute grid")
    return {"peak_mb": peak}


def _said(name: str, values: list[float], form: str = ".3f") -> float:
    """The median, printed with the range."""
    say(f"  {name:<18} {spread(values, form)}")
    return median(values)


def _every_day(part: Callable[[Size, int, bool], Ratios]) -> Callable[[Size, int], Figures]:
    """The medians of a part's ratios over the days, each second one measured backwards."""

    def measured(size: Size, seed: int) -> Figures:
        found = []
        for number in range(size.instances):
            found.append(part(size, seed + number, number % 2 == 1))
            say(f"  day {seed + number}: " + ", ".join(f"{name} {found[-1][name]:.2f}" for name in sorted(found[-1])))
        return {name: _said(name, [one[name] for one in found]) for name in found[0]}

    return measured


def _grids(size: Size, seed: int, backwards: bool) -> Ratios:
    """A plan from nothing on the uniform grid, the solver alone on both grids, and what the cost of change costs."""
    grids = {"fine": fine_grid(size.horizon_h), "coarse": coarse_grid(size.horizon_h)}
    problems = {name: reference_problem(seed, grid, size.jobs, size.pools) for name, grid in grids.items()}
    problems["moving"] = reference_problem(seed, grids["coarse"], size.jobs, size.pools, CHANGE_PER_KW)
    alone: dict[str, float] = {}

    def solver() -> None:
        alone.update((name, highs_alone(arrays_of(problems[name]))) for name in ("coarse", "moving"))

    def plans() -> None:
        planned = Planned()
        alone["whole"] = planned.timed(problems["fine"]).total_s
        alone["fine"] = highs_alone(planned.arrays)
        planned = Planned()
        planned.plan(problems["coarse"])
        alone["light"] = highs_alone(planned.arrays)

    for part in (solver, plans) if backwards else (plans, solver):
        part()
    return {
        "cold_ratio": alone["whole"] / alone["fine"],
        "multires_ratio": alone["light"] / alone["fine"],
        "change_cost_ratio": alone["moving"] / alone["coarse"],
    }


def _intervals(size: Size, seed: int, backwards: bool) -> Ratios:
    """The next plans of a warm planner: new numbers; then a window that has moved with jobs that came and went."""
    again, then, cold, moved = _next_plans(size, seed, {})
    return {
        "refresh_ratio": again.total_s / cold,
        "overhead_ratio": again.other_s / cold,
        "next_step_ratio": then.total_s / moved,
    }


def _defaults(size: Size, seed: int, backwards: bool) -> Ratios:
    """The same with the daemon's defaults: one cap for each pool, and a price of moving power."""
    again, then, cold, moved = _next_plans(size, seed, {"change_per_kw": CHANGE_PER_KW, "one_cap": True})
    return {
        "defaults_refresh_ratio": again.total_s / cold,
        "defaults_next_step_ratio": then.total_s / moved,
        "defaults_next_step_s": then.total_s,
    }


def _first(size: Size, seed: int, backwards: bool) -> Ratios:
    """The first plan of a daemon's life, with its defaults: CPU seconds, and by how many per cent of the bill for
    energy and its peak the second plan of the very same problem is better."""
    planned = Planned()
    problem = stepped(seed, 0, size.jobs, size.pools, size.horizon_h, CHANGE_PER_KW, one_cap=True)
    plans: list[Plan] = []
    took = timed(lambda: plans.append(planned.plan(problem)))[0]
    plans.append(planned.plan(problem))
    first, second = (evaluate(problem, plan) for plan in plans)
    bill = second.energy + second.demand_charge
    return {"first_plan_s": took, "first_behind_pct": 100.0 * (second.total - first.total) / bill}


def _next_plans(size: Size, seed: int, more: dict[str, Any]) -> tuple[Whole, Whole, float, float]:
    """A refresh and a next step of a warm planner, and the seconds of HiGHS alone on the arrays of each."""
    planned = Planned()
    first = stepped(seed, 0, size.jobs, size.pools, size.horizon_h, **more)
    planned.plan(first)
    planned.plan(refreshed(first, seed + 1))  # the first written plan changes structure where jobs turned out late
    again = planned.timed(refreshed(first, seed + 2))
    cold = highs_alone(planned.arrays)
    planned.plan(first)
    then = planned.timed(stepped(seed, 1, size.jobs, size.pools, size.horizon_h, **more))
    return again, then, cold, highs_alone(planned.arrays)


def _many(size: Size, seed: int) -> Ratios:
    """A warm planner's next step with many jobs and with the usual number, in turn."""
    if not size.many_jobs:
        return {}
    ratios = []
    for number in range(size.many_instances):
        took = {}
        for jobs in (size.many_jobs, size.jobs):
            planned = Planned()
            planned.plan(stepped(seed + number, 0, jobs, size.pools, size.horizon_h))
            steps = (stepped(seed + number, step, jobs, size.pools, size.horizon_h) for step in (1, 2, 3))
            took[jobs] = median(planned.timed(problem).total_s for problem in steps)
        ratios.append(took[size.many_jobs] / took[size.jobs])
        say(f"  {size.many_jobs} jobs {took[size.many_jobs]:.2f} s, {size.jobs} jobs {took[size.jobs]:.2f} s")
    name = f"jobs{size.many_jobs}_ratio"
    return {name: _said(name, ratios)}


def _emergency(size: Size, seed: int) -> Figures:
    """The plan that the emergency planner makes of very many jobs: the solver alone, and all of it."""
    planner, grid = Hasty(Rung.EMERGENCY), coarse_grid(size.horizon_h)
    problems = [reference_problem(seed + number, grid, size.most_jobs, size.pools) for number in range(2)]
    took = [planner.timed(problem) for problem in problems]
    name = f"emergency{size.most_jobs}"
    return {
        f"{name}_solve_s": _said(f"{name}_solve_s", [one.solve_s for one in took]),
        f"{name}_plan_s": _said(f"{name}_plan_s", [one.total_s for one in took]),
    }


def _days(size: Size, seed: int, path: Path | None = None, minutes: float = inf, ways: Sequence[str] = ()) -> Figures:
    """Days in closed loop (`benchmarks/support/days.py`)."""
    seeds = [seed + number for number in range(size.days)]
    file = path.with_name(f"{path.name}.days") if path is not None else None
    days = Days(size.jobs, size.pools, size.horizon_h, file, time.monotonic() + 60.0 * minutes)
    found = figures_of(days.lived(list(ways), seeds), seeds)
    whole = {name: values for name, values in found.items() if len(values) == len(seeds)}
    return {name: _said(name, values, ".4f") for name, values in whole.items()}


def _rolling(size: Size, seed: int, path: Path | None = None, minutes: float = inf) -> Figures:
    """Consecutive steps through the daemon's planner in its child process (`benchmarks/support/longrun.py`): wall
    seconds, and CPU seconds of both, which leave the neighbours of a shared machine out; none of them without a plan,
    how many had no optimum."""
    if not size.rolling_steps:
        return {}

    def step(number: int) -> Problem:
        day, turn = divmod(number, DAY_STEPS)
        return stepped(seed + day, turn, size.jobs, size.pools, size.horizon_h)

    what = {"seed": seed, "jobs": size.jobs, "pools": size.pools, "horizon_h": size.horizon_h}
    record = roll(step, size.rolling_steps, what, path, minutes)
    told(record, size.rolling_steps)
    if len(record.wall_s) < size.rolling_steps:
        say(f"  {size.rolling_steps - len(record.wall_s)} steps are left: the same command goes on with them")
        return {}
    return record.figures()


LONG = ("days", "other_days", "rolling")
"""Parts that can be run in several sittings."""

PARTS: dict[str, Callable[..., Figures]] = {
    "grids": _every_day(_grids),
    "intervals": _every_day(_intervals),
    "defaults": _every_day(_defaults),
    "first": _every_day(_first),
    "many": _many,
    "emergency": _emergency,
    "days": partial(_days, ways=[CLOSED_LOOP]),
    "other_days": partial(_days, ways=list(WAYS)),
    "rolling": _rolling,
    "peak": _peak,
}


def main(argv: list[str] | None = None) -> None:
    """Run from the command line; `--part NAME`, as often as one likes, for a part of it; `--state FILE --minutes M` for
    rolling steps and days in several sittings (days: in a file beside FILE)."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--part", action="append", default=[], choices=list(PARTS))
    options.add_argument("--state", type=Path)
    options.add_argument("--minutes", type=float, default=inf)
    asked, others = options.parse_known_args(argv)
    if asked.minutes < inf and asked.state is None:
        options.error("--minutes needs --state FILE: without it nothing is kept for the next sitting")
    measured = partial(measure, parts=asked.part, state=asked.state, minutes=asked.minutes)
    run("plan_speed", __doc__.splitlines()[0], measured, others)


if __name__ == "__main__":
    main()
