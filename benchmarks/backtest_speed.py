"""How many times faster than real time a backtest runs, and how much of that HiGHS itself takes.

The window is an afternoon and evening of California's heat wave of September 2022 on its recorded prices, with its
nested emergencies: the daemon's own loops on 12,288 simulated GPUs, a plan every quarter of an hour and at every event.
Beside it a day of a site whose real-time prices must be forecast and whose peak is billed: what scenarios are for.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import median

from benchmarks.support.charged import charged_seconds
from benchmarks.support.report import Figures, run, say, spread
from optimizer.domain import Plan, Problem
from scheduler.backtest import run_backtest
from scheduler.config import load_config
from scheduler.planner import InlinePlanner
from scheduler.shipped import shipped

START = datetime(2022, 9, 6, 19, tzinfo=UTC)


@dataclass(frozen=True)
class Size:
    """Hours of the window, and how often it is run; hours of the day with a billed peak."""

    hours: float = 12.0
    repeats: int = 3
    charged_hours: float = 24.0


FULL = Size()
QUICK = Size(3.0, 1, 2.0)


class CountingPlanner:
    """The backtest's planner, with the time that plans take, and HiGHS in them, added up."""

    def __init__(self) -> None:
        self._inner = InlinePlanner()
        self.plan_s = self.highs_s = 0.0
        self.plans = 0

    def plan(self, problem: Problem, last_plan: Plan | None = None) -> Plan:
        """See InlinePlanner."""
        started = time.perf_counter()
        made = self._inner.plan(problem, last_plan)
        self.plan_s += time.perf_counter() - started
        self.highs_s += made.solve_s
        self.plans += 1
        return made

    def close(self) -> None:
        """See InlinePlanner."""
        self._inner.close()


@dataclass(frozen=True)
class Pass:
    """One run of the window: times real time, and the shares of its wall time."""

    times_real_time: float
    highs_share: float
    planning_share: float


def measure(quick: bool, seed: int) -> Figures:
    """The figures, printed on the way. A recorded window has nothing random: the seed plays no part."""
    size = QUICK if quick else FULL
    say(f"{size.hours:g} h from {START:%Y-%m-%d %H:%MZ}, {size.repeats} times")
    passes = [_pass(size) for _ in range(size.repeats)]
    figures = {name: [getattr(one, name) for one in passes] for name in vars(passes[0])}
    for name, values in figures.items():
        say(f"  {name:<16} {spread(values, '.3g')}")
    return {name: median(values) for name, values in figures.items()} | _charged(size.charged_hours)


def _charged(hours: float) -> dict[str, float]:
    """How much longer the day with a billed peak takes with scenarios than without."""
    charged_seconds(0.25)  # what is imported on the way is no part of it
    took = charged_seconds(hours)
    ratios = {f"scenarios_{way}_ratio": took[way] / took["none"] for way in ("hourly", "every_plan")}
    say(f"  {hours:g} h with a billed peak: {took['none']:.1f} s without scenarios; " + ", ".join(
        f"{name} {value:.2f}" for name, value in ratios.items()))  # fmt: skip
    return {"charged_times_real_time": hours * 3600.0 / took["hourly"], **ratios}


def _pass(size: Size) -> Pass:
    """Run the window once, without rivals: they are no part of the loops."""
    planner = CountingPlanner()
    config = load_config(shipped("sites/s2-caiso-heat-wave.yaml"))
    end = START + timedelta(hours=size.hours)
    found = run_backtest(config, START, end, rivals=False, planner=planner)
    loops = found.loops
    say(f"  {loops.wall_s:.1f} s: {loops.ticks} control periods, {planner.plans} plans in {planner.plan_s:.1f} s, "
        f"of which HiGHS {planner.highs_s:.2f} s")  # fmt: skip
    return Pass(
        times_real_time=size.hours * 3600.0 / loops.wall_s,
        highs_share=planner.highs_s / loops.wall_s,
        planning_share=planner.plan_s / loops.wall_s,
    )


def main(argv: list[str] | None = None) -> None:
    """Run from the command line."""
    run("backtest_speed", __doc__.splitlines()[0], measure, argv)


if __name__ == "__main__":
    main()
