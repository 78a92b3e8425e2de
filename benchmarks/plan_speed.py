"""How much slower a whole plan is than HiGHS alone, and what the multi-resolution grid and five times the jobs do.

Every instance is another day of the reference problem. What is compared is timed in turn on the same instance, in
alternating order, and each ratio is the median over the instances.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from statistics import median

from benchmarks.support.memory import peak_mb
from benchmarks.support.plans import Whole, arrays_of, highs_alone, whole_plan
from benchmarks.support.reference import coarse_grid, fine_grid, reference_problem
from benchmarks.support.report import Figures, run, say, spread
from optimizer.domain import Problem
from optimizer.model.arrays import Arrays
from optimizer.timegrid import TimeGrid

CHANGE_PER_KW = 0.002
"""The daemon's own price of moving a kW, for change_cost_ratio."""

NOT_YET = "refresh_ratio, next_step_ratio and rolling_p99_s (no compiled model is kept between plans), closed_loop_loss"


@dataclass(frozen=True)
class Size:
    """How large and how often: jobs, pools, hours of horizon, instances; then jobs and instances of the large case."""

    jobs: int = 1000
    pools: int = 20
    horizon_h: float = 24.0
    instances: int = 7
    many_jobs: int = 5000
    many_instances: int = 3


FULL = Size()
QUICK = Size(jobs=150, pools=8, horizon_h=12.0, instances=3, many_jobs=0)


@dataclass
class Times:
    """Seconds of one instance by what was timed."""

    whole: dict[str, Whole] = field(default_factory=dict)
    alone: dict[str, float] = field(default_factory=dict)

    def plan(self, name: str, problem: Problem) -> None:
        """Time the whole plan of a problem."""
        self.whole[name] = whole_plan(problem)

    def solve(self, name: str, arrays: Arrays) -> None:
        """Time HiGHS alone on its arrays."""
        self.alone[name] = highs_alone(arrays)


def measure(quick: bool, seed: int) -> Figures:
    """The figures, printed on the way."""
    size = QUICK if quick else FULL
    grids = {"fine": fine_grid(size.horizon_h), "coarse": coarse_grid(size.horizon_h)}
    say(f"{size.instances} days of {size.pools} pools and {size.jobs} jobs; {len(grids['fine'])} intervals of 5 min")
    say(f"or {len(grids['coarse'])} of multi-resolution; HiGHS alone = pass the arrays, solve, read the point")
    whole_plan(reference_problem(seed, grids["coarse"], 20, 4))  # warms up: a daemon pays its imports once
    times = [_instance(size, seed + number, grids, number % 2 == 1) for number in range(size.instances)]
    ratios = _ratios(times)
    for name, values in ratios.items():
        say(f"  {name:<18} {spread(values)}")
    figures = {name: median(values) for name, values in ratios.items()}
    figures |= _many(size, seed, grids["coarse"])
    peak = peak_mb(reference_problem(seed, grids["fine"], size.jobs, size.pools))
    if peak is not None:
        say(f"  peak_mb            {peak:.0f} MB resident in a fresh process that plans twice on the 5-minute grid")
        figures["peak_mb"] = peak
    say(f"not there yet: {NOT_YET}")
    return figures


def _instance(size: Size, seed: int, grids: dict[str, TimeGrid], backwards: bool) -> Times:
    """One day, everything once."""
    times = Times()
    problems = {name: reference_problem(seed, grid, size.jobs, size.pools) for name, grid in grids.items()}
    arrays = {name: arrays_of(problem) for name, problem in problems.items()}
    arrays["moving"] = arrays_of(reference_problem(seed, grids["coarse"], size.jobs, size.pools, CHANGE_PER_KW))
    steps = [partial(times.plan, name, problem) for name, problem in problems.items()]
    steps += [partial(times.solve, name, made) for name, made in arrays.items()]
    for step in reversed(steps) if backwards else steps:
        step()
    whole, alone = times.whole, times.alone
    say(f"  day {seed}: 5 min {whole['fine'].total_s:.2f} s, HiGHS alone {alone['fine']:.2f} s; multi-resolution "
        f"{whole['coarse'].total_s:.2f} s, HiGHS alone {alone['coarse']:.2f} s")  # fmt: skip
    return times


def _ratios(times: list[Times]) -> dict[str, list[float]]:
    """Each ratio, one value an instance."""
    return {
        "cold_ratio": [one.whole["fine"].total_s / one.alone["fine"] for one in times],
        "multires_ratio": [one.alone["coarse"] / one.alone["fine"] for one in times],
        "interval_ratio": [one.whole["coarse"].total_s / one.alone["coarse"] for one in times],
        "overhead_ratio": [one.whole["coarse"].other_s / one.alone["coarse"] for one in times],
        "change_cost_ratio": [one.alone["moving"] / one.alone["coarse"] for one in times],
    }


def _many(size: Size, seed: int, grid: TimeGrid) -> dict[str, float]:
    """Whole plans on the multi-resolution grid with many jobs and with the usual number, in turn."""
    if not size.many_jobs:
        return {}
    ratios = []
    for number in range(size.many_instances):
        many = whole_plan(reference_problem(seed + number, grid, size.many_jobs, size.pools))
        few = whole_plan(reference_problem(seed + number, grid, size.jobs, size.pools))
        ratios.append(many.total_s / few.total_s)
        say(f"  {size.many_jobs} jobs {many.total_s:.2f} s, {size.jobs} jobs {few.total_s:.2f} s")
    name = f"jobs{size.many_jobs}_ratio"
    say(f"  {name:<18} {spread(ratios)}: every job planned singly, the only formulation so far")
    return {name: median(ratios)}


def main(argv: list[str] | None = None) -> None:
    """Run from the command line."""
    run("plan_speed", __doc__.splitlines()[0], measure, argv)


if __name__ == "__main__":
    main()
