"""A backtest from config to result: build, drive, settle, compare.

Why the check at the end: perfect foresight is a lower bound by construction. A run that beats it has found a mistake,
in the twin, in the loops or in the account, and must not be shown as a success.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timedelta

from adapters.jobs.queue import JobQueue
from adapters.ports import SignalSource
from optimizer.domain import Problem
from optimizer.timegrid import floor_time
from scheduler.backtest.account import settle
from scheduler.backtest.commitments import deliveries
from scheduler.backtest.drive import Driven, Progress, drive
from scheduler.backtest.foresight import perfect_foresight
from scheduler.backtest.no_control import no_control
from scheduler.backtest.outcome import Outcome
from scheduler.backtest.recorded import recordings, settlement_grid, settlement_step, true_problem
from scheduler.backtest.result import BacktestResult, Loops, Run
from scheduler.backtest.world import as_batch_job, build_world, simulated, window_jobs
from scheduler.clock import VirtualClock
from scheduler.config import Config
from scheduler.config.runtime import NoControl
from scheduler.engine import Planner
from scheduler.wiring import Parts

TOLERANCE = 1e-5
"""Share of all money moved by which a run may seem to beat the bound: the solver's own tolerances."""


class BoundBroken(AssertionError):
    """A run cost less than perfect foresight: a bug in Gridpace, which the text names."""


@dataclass(frozen=True)
class _World:
    """One built world with its window."""

    parts: Parts
    clock: VirtualClock
    start: datetime
    end: datetime


def run_backtest(
    config: Config,
    start: datetime,
    end: datetime,
    *,
    control_period: timedelta | None = None,
    interval: timedelta | None = None,
    rivals: bool = True,
    progress: Progress | None = None,
    planner: Planner | None = None,
) -> BacktestResult:
    """Run Gridpace over [start, end) of recorded prices, and its rivals unless told otherwise.

    `control_period` and `interval` replace the config's. Raises RecordingGap when the recordings don't hold the window,
    AdapterError when a part can't be made, BoundBroken when a run beats perfect foresight.
    """
    began = time.perf_counter()
    made = simulated(config, control_period, interval)
    requests, left_out = window_jobs(made, start, end)
    clock = VirtualClock(start)
    parts = build_world(made, requests, clock, planner)
    try:
        readers: dict[str, SignalSource] = {name: source.reader for name, source in parts.ctx.sources.items()}
        truth = recordings(readers, parts.ctx.sites, parts.ctx.pools, start, end)
        step = settlement_step(parts.ctx.sites.values(), truth)
        driven = _driven(_World(parts, clock, start, end), progress)
        grid = settlement_grid(floor_time(start, step), end, step, driven.events.values())
        jobs = [as_batch_job(request, start) for request in requests]
        problem = true_problem(
            grid,
            parts.ctx.sites,
            parts.ctx.pools,
            truth,
            jobs,
            driven.events.values(),
            parts.ctx.prices,
            config.currency,
        )
        how = config.backtest.no_control
        outcomes = {"gridpace": driven.recorder.outcome(grid)} | (_rivals(problem, how) if rivals else {})
        runs = {name: Run(settle(problem, outcome), deliveries(problem, outcome)) for name, outcome in outcomes.items()}
        loops = Loops(
            driven.cycles,
            driven.ticks,
            dict(driven.rungs),
            dict(driven.alerts),
            driven.slowest_cycle_s,
            time.perf_counter() - began,
        )
    finally:
        parts.close()
    result = BacktestResult(
        config=str(config.file),
        start=start,
        end=end,
        currency=config.currency,
        interval_s=made.interval.total_seconds(),
        control_period_s=made.control_period.total_seconds(),
        settlement_s=step.total_seconds(),
        runs=runs,
        loops=loops,
        jobs_left_out=tuple(left_out),
        no_control=how.value,
    )
    assert_bound(result)
    return result


def _driven(world: _World, progress: Progress | None) -> Driven:
    """Turn the loops through the window."""
    hall, queue = world.parts.hardware.hall, world.parts.ctx.jobs
    assert hall is not None
    assert isinstance(queue, JobQueue)
    return drive(world.parts, world.clock, hall, queue, world.end, progress or (lambda _share: None))


def _rivals(problem: Problem, how: NoControl) -> dict[str, Outcome]:
    return {"no_control": no_control(problem, how), "perfect_foresight": perfect_foresight(problem)}


def assert_bound(result: BacktestResult) -> None:
    """Raise BoundBroken when a run costs less than perfect foresight."""
    if "perfect_foresight" not in result.runs:
        return
    costs = {name: run.account.costs for name, run in result.runs.items()}
    bound = costs["perfect_foresight"].net
    moved = sum(abs(value) for value in vars(costs["no_control"]).values())
    for name, cost in costs.items():
        if cost.net < bound - TOLERANCE * moved - 0.01:
            raise BoundBroken(
                f"{name} costs {cost.net:,.2f} {result.currency}, {bound - cost.net:,.2f} less than perfect foresight "
                f"({bound:,.2f}); that can't be, so energy, work or money is counted wrongly somewhere"
            )
