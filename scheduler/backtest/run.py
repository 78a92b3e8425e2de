"""A backtest from config to result: build, drive, settle, compare.

Why the check at the end: perfect foresight is a lower bound by construction. A run that beats it has found a mistake,
in the twin, in the loops or in the account, and must not be shown as a success.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from adapters.jobs.queue import JobQueue
from adapters.ports import SignalSource
from optimizer.domain import Problem, Series
from scheduler.backtest.account import settle
from scheduler.backtest.commitments import deliveries
from scheduler.backtest.drive import Driven, Progress, drive
from scheduler.backtest.foresight import perfect_foresight
from scheduler.backtest.no_control import no_control
from scheduler.backtest.outcome import Outcome
from scheduler.backtest.recorded import recordings, settlement_grid, settlement_step, true_problem, with_batteries
from scheduler.backtest.result import BacktestResult, Loops, Run
from scheduler.backtest.world import as_batch_job, build_world, simulated, window_jobs
from scheduler.clock import VirtualClock
from scheduler.config import Config
from scheduler.config.runtime import NoControl
from scheduler.engine import Planner
from scheduler.rules import RulePlanner, inline_planner
from scheduler.service import JobRequest
from scheduler.wiring import Parts

TOLERANCE = 1e-5
"""Share of all money moved by which a run may seem to beat the bound: the solver's own tolerances."""


TIME_LIMIT = timedelta(seconds=30)
"""What one plan may take at least: a busy machine must not change a result."""


class BoundBroken(AssertionError):
    """A run cost less than perfect foresight: a bug in Gridpace, which the text names."""


@dataclass(frozen=True)
class _World:
    """One built world with its window."""

    parts: Parts
    start: datetime
    end: datetime


def run_backtest(
    config: Config,
    start: datetime,
    end: datetime,
    *,
    control_period: timedelta | None = None,
    interval: timedelta | None = None,
    rivals: bool | Sequence[str] = True,
    progress: Progress | None = None,
    planner: Planner | None = None,
) -> BacktestResult:
    """Run Gridpace over [start, end) of recorded prices, and its rivals unless told otherwise.

    `control_period` and `interval` replace the config's; plans are made in this process unless `planner` is given.
    `rivals`: rules (optimizer.rivals) to run beside no control and perfect foresight; True: these two; False: none.
    Raises RecordingGap when the recordings don't hold the window, AdapterError when a part can't be made, BoundBroken
    when a run beats perfect foresight.
    """
    began = time.perf_counter()
    made = simulated(config, control_period, interval)
    requests, left_out = window_jobs(made, start, end)
    world = _World(build_world(made, requests, VirtualClock(start), planner or _planner(config)), start, end)
    rules = rivals if not isinstance(rivals, bool) else ()
    told = _Shares(progress, 1 + len(rules))
    try:
        truth = _truth(world)
        step = settlement_step(world.parts.ctx.sites.values(), truth)
        driven = _driven(world, told)
        problem = _settled_problem(world, truth, step, requests, driven)
        outcomes = _outcomes(problem, driven, config.backtest.no_control if rivals is not False else None)
        outcomes |= {name: _rule_outcome(name, made, requests, problem, told) for name in rules}
    finally:
        world.parts.close()
    result = BacktestResult(
        config=str(config.file),
        start=start,
        end=end,
        currency=config.currency,
        interval_s=made.interval.total_seconds(),
        control_period_s=made.control_period.total_seconds(),
        settlement_s=step.total_seconds(),
        runs={name: Run(settle(problem, done), deliveries(problem, done)) for name, done in outcomes.items()},
        loops=_loops(driven, time.perf_counter() - began),
        jobs_left_out=tuple(left_out),
        no_control=config.backtest.no_control.value,
        truth=problem,
        outcomes=outcomes,
    )
    assert_bound(result)
    return result


def _planner(config: Config) -> Planner:
    """The configured planner in this process."""
    return inline_planner(config.solver.planner, max(TIME_LIMIT, config.solver.time_limit))


def _truth(world: _World) -> dict[str, Series]:
    """Everything that was recorded of the window; a hole in it is found before anything runs."""
    ctx = world.parts.ctx
    readers: dict[str, SignalSource] = {name: source.reader for name, source in ctx.sources.items()}
    return recordings(readers, ctx.sites, ctx.pools, world.start, world.end)


def _settled_problem(
    world: _World, truth: dict[str, Series], step: timedelta, requests: list[JobRequest], driven: Driven
) -> Problem:
    """The window with everything known, on the settlement grid, with the events as they were agreed."""
    ctx = world.parts.ctx
    jobs = [as_batch_job(request, world.start) for request in requests]
    events = [event for event in driven.events.values() if event.start < world.end]
    grid = settlement_grid(world.start, world.end, step, events)
    problem = true_problem(grid, ctx.sites, ctx.pools, truth, jobs, events, ctx.prices, ctx.currency)
    return with_batteries(problem, ctx.sites, driven.recorder.stored_at_start)


def _outcomes(problem: Problem, driven: Driven, rival: NoControl | None) -> dict[str, Outcome]:
    """What Gridpace did, and what its rivals would have done (None: nobody asks)."""
    gridpace = driven.outcome(problem.grid)
    if rival is None:
        return {"gridpace": gridpace}
    return {
        "gridpace": gridpace,
        "no_control": no_control(problem, rival),
        "perfect_foresight": perfect_foresight(problem, gridpace),
    }


def _rule_outcome(name: str, made: Config, requests: list[JobRequest], problem: Problem, told: _Shares) -> Outcome:
    """What the daemon's loops do with a rule in the planner's place, in a world of its own."""
    start, end = problem.grid.start, problem.grid.end
    world = _World(build_world(made, requests, VirtualClock(start), RulePlanner(name)), start, end)
    try:
        return _driven(world, told.next()).outcome(problem.grid)
    finally:
        world.parts.close()


@dataclass
class _Shares:
    """Progress of several windows as that of one."""

    progress: Progress | None
    windows: int
    done: int = 0

    def __call__(self, share: float) -> None:
        if self.progress is not None:
            self.progress((self.done + share) / self.windows)

    def next(self) -> _Shares:
        """The next window begins."""
        self.done += 1
        return self


def _loops(driven: Driven, wall_s: float) -> Loops:
    rungs, alerts = dict(driven.rungs), dict(driven.alerts)
    return Loops(driven.cycles, driven.ticks, rungs, alerts, driven.slowest_cycle_s, wall_s)


def _driven(world: _World, progress: Progress) -> Driven:
    """Turn the loops through the window."""
    hall, queue = world.parts.hardware.hall, world.parts.ctx.jobs
    assert hall is not None
    assert isinstance(queue, JobQueue)
    clock = world.parts.ctx.clock
    assert isinstance(clock, VirtualClock)
    return drive(world.parts, clock, hall, queue, world.end, progress)


def assert_bound(result: BacktestResult) -> None:
    """Raise BoundBroken when Gridpace costs less than perfect foresight."""
    if "perfect_foresight" not in result.runs:
        return
    gridpace, rival = (result.runs[name].account for name in ("gridpace", "perfect_foresight"))
    moved = sum(abs(value) for account in (gridpace, rival) for value in vars(account.costs).values())
    paid, bound = (account.costs.net + account.broken for account in (gridpace, rival))
    if paid < bound - TOLERANCE * moved - 0.01:
        raise BoundBroken(
            f"Gridpace costs {paid:,.2f} {result.currency}, {bound - paid:,.2f} less than perfect foresight "
            f"({bound:,.2f}); that can't be, so energy, work or money is counted wrongly somewhere"
        )
