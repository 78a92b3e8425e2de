"""The world of a backtest: the daemon's own parts under a virtual clock, on a simulated hall, with books in memory.

Why built by the wiring: a backtest must test what runs in production. The config is changed only where the world is:
hardware is simulated, nobody signs messages, and the jobs are those whose deadlines lie inside the window.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from adapters import registry
from adapters.jobs.queue import JobQueue
from adapters.ports import AdapterError
from optimizer.domain import BatchJob
from optimizer.reasons import Note
from scheduler.backtest.recorded import BacktestRefused
from scheduler.building import due_jobs
from scheduler.clock import VirtualClock
from scheduler.config import Config, Mode
from scheduler.config.builtin import SimulatedPowerConfig
from scheduler.config.entries import default_entry
from scheduler.engine import Planner
from scheduler.service import JobRequest
from scheduler.store.store import Store
from scheduler.wiring import Parts, build

KNOWN_AHEAD = timedelta(days=1)
"""How long before its release a recurring job is known: as in the daemon, which queues them a day ahead."""

VERIFY = timedelta(days=1)
"""Simulated limits don't drift; reading twelve thousand of them back every minute would only take time."""


def simulated(config: Config, control_period: timedelta | None, interval: timedelta | None) -> Config:
    """The config as a backtest runs it. Raises BacktestRefused for lengths that don't fit each other."""
    step, period = interval or config.interval, control_period or config.control_period
    if not timedelta(0) < period <= step <= config.horizon or timedelta(days=1) % step:
        text = "the control period must not be longer than the interval, and whole intervals must make a day"
        raise BacktestRefused(f"interval {step}, control period {period}: {text}")
    changes: dict[str, Any] = {
        "mode": Mode.CONTROL,
        "clock": None,
        "power": config.power
        if isinstance(config.power, SimulatedPowerConfig)
        else default_entry("power", "simulated"),
        "meters": (default_entry("meters", "simulated"),),
        "jobs": config.jobs.model_copy(update={"system": default_entry("jobs", "queue")}),
        "interval": step,
        "control_period": period,
        "verify_every": VERIFY,
        "drift": config.drift.model_copy(update={"look_every": VERIFY}),
    }
    return config.model_copy(update=changes)


def window_jobs(config: Config, start: datetime, end: datetime) -> tuple[list[JobRequest], list[str]]:
    """Jobs whose release and deadline lie inside the window, and the ids of those that were left out.

    A job of the config without a release, or released before the window, is released when the window begins.
    """
    inside, outside = [], []
    for request in due_jobs(config, start, end, first=True):
        release = max(request.release or start, start)
        if release < request.deadline <= end:
            inside.append(replace(request, release=release))
        else:
            outside.append(str(request.id))
    return inside, outside


def as_batch_job(request: JobRequest, start: datetime) -> BatchJob:
    """A request as the planner and the account know it."""
    return BatchJob(
        id=str(request.id),
        pools=(str(request.pool),),
        release=request.release or start,
        deadline=request.deadline,
        work_gpu_h=request.work_gpu_h,
        max_gpus=request.max_gpus,
        preemptible=request.preemptible,
        value_per_gpu_h=request.value_per_gpu_h,
        late_penalty=request.late_penalty,
        undone_penalty=request.undone_penalty,
        priority=request.priority,
        min_gpus=request.min_gpus,
        min_run_h=request.min_run_h,
        pause_cost=request.pause_cost,
        checkpoint_gpu_h=request.checkpoint_gpu_h,
        restart_gpu_h=request.restart_gpu_h,
        after=request.after,
        data_gb=request.data_gb,
        tier=request.tier,
    )


@dataclass
class WindowJobs:
    """Puts the window's jobs into the queue, each a day before its release."""

    waiting: list[JobRequest]
    queue: JobQueue

    def bring(self, now: datetime) -> tuple[Note, ...]:
        """Queue what becomes known at `now`; the window holds only jobs that the queue takes."""
        known = [request for request in self.waiting if (request.release or now) - now <= KNOWN_AHEAD]
        for request in known:
            self.queue.submit(request, now)
            self.waiting.remove(request)
        return ()


def build_world(config: Config, requests: list[JobRequest], clock: VirtualClock, planner: Planner) -> Parts:
    """The daemon's parts on a simulated hall. Raises what the wiring raises, and BacktestRefused for live signals."""
    refuse_live(config)
    parts = build(config, clock, Store.in_memory(), planner, channels={})
    if not isinstance(parts.ctx.jobs, JobQueue) or parts.hardware.hall is None:
        raise AdapterError("a backtest runs on the simulated hall and the embedded queue")
    parts.ctx = replace(parts.ctx, bring_jobs=WindowJobs(list(requests), parts.ctx.jobs).bring, read_deadline_s=None)
    parts.facade.ctx = parts.utility.ctx = parts.ctx
    return parts


def refuse_live(config: Config) -> None:
    """BacktestRefused for a signal that is asked over a network: it tells what is known today, not what was then."""
    for index, entry in enumerate(config.signals):
        kind = str(getattr(entry, "type", ""))
        if getattr(registry.adapter_class("signals", kind), "live", False):
            text = f"type {kind} is asked over the network; a backtest needs recorded values (type csv)"
            raise BacktestRefused(f"{config.place('signals', index)}: signals[{index}]: {text}")
