"""A quarter less power for three hours on the job mix of the first field trial: what is delivered, and what it costs.

Six jobs on 256 GPUs with the service floors of the published trial (Emerald Conductor, arXiv 2507.00909), each on its
measured power curve; Gridpace's own plan and control loops against simulated cards that are not what the curves say:
every pool draws a few per cent more or less, loads dip, meters are noisy, power lags. Rules stand beside, through the
very same control.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from adapters.ports import EventMessage, EventTarget
from benchmarks.support.mix import Mix, config_text, mix_from, split_data
from benchmarks.support.report import Figures, run, say
from benchmarks.support.turns import turns
from scheduler.clock import VirtualClock
from scheduler.config import load_config
from scheduler.engine import Planner
from scheduler.planner import InlinePlanner
from scheduler.rules import RulePlanner
from scheduler.store.store import Store
from scheduler.wiring import Parts, build

START = datetime(2025, 5, 3, 21, tzinfo=UTC)
RAMP = timedelta(minutes=5)
REDUCE_PERCENT = 25.0
ASIDE = ("uniform_cap", "fair_tiered", "greedy_tiered")


@dataclass(frozen=True)
class Size:
    """Hours at the target, minutes before the event (announced half way), and how many halls (seeds) Gridpace is tried
    on; so many rules are tried on the first."""

    hours: float = 3.0
    before_min: float = 20.0
    halls: int = 3
    rules: int = len(ASIDE)


FULL = Size()
QUICK = Size(hours=0.25, halls=1)


@dataclass(frozen=True)
class Trial:
    """One run: throughput kept (weighted by the floors), points of the baseline delivered too much, and the lowest and
    highest minute against the target in points (negative: below it)."""

    performance: float
    over_points: float
    lowest_point: float
    highest_point: float
    jobs: tuple[float, ...]


@dataclass
class Rows:
    """Totals at every tick: seconds from the event's start, import in kWh, GPU-hours done and asked for by job."""

    seconds: list[float]
    import_kwh: list[float]
    done: list[list[float]]
    asked: list[list[float]]


def measure(quick: bool, seed: int, data: Path | None = None) -> Figures:
    """The figures, printed on the way: medians over the halls, and the worst of each."""
    size, mix = (QUICK if quick else FULL), mix_from(data)
    say(f"{sum(job.gpus for job in mix.jobs)} GPUs, {REDUCE_PERCENT:g} % less for {size.hours:g} h; points are per "
        f"cent of the baseline")  # fmt: skip
    say(f"{'':<16}performance   too much    lowest   highest minute   each job")
    mine = [_told("gridpace", trial("gridpace", mix, seed + hall, size)) for hall in range(size.halls)]
    rules = {name: _told(name, trial(name, mix, seed, size)) for name in ASIDE[: size.rules]}
    return {
        "weighted_performance": median(one.performance for one in mine),
        "over_delivery_points": median(one.over_points for one in mine),
        "lowest_point": min(one.lowest_point for one in mine),
        "highest_point": max(one.highest_point for one in mine),
        "worst_performance": min(one.performance for one in mine),
        "rivals_performance": {name: round(one.performance, 4) for name, one in rules.items()},
    }


def trial(name: str, mix: Mix, seed: int, size: Size) -> Trial:
    """One event through the daemon's loops on a hall of that seed. RuntimeError when the event was not taken as
    asked."""
    clock = VirtualClock(START)
    with TemporaryDirectory(prefix="gridpace-trial-") as folder:
        path = Path(folder) / "gridpace.yaml"
        path.write_text(config_text(mix, seed), encoding="utf-8")
        planner: Planner = InlinePlanner() if name == "gridpace" else RulePlanner(name)
        parts = build(load_config(path), clock, Store.in_memory(), planner, channels={})
        try:
            rows = _drive(parts, clock, mix, size)
            agreed = next(event for event in parts.ctx.ledger.statuses() if event.id == "trial")
        finally:
            parts.close()
    target_kw = agreed.baseline_kw * (1.0 - REDUCE_PERCENT / 100.0)
    if abs(agreed.target_kw - target_kw) > 1e-6 * target_kw:
        raise RuntimeError(f"the event was agreed at {agreed.target_kw:.2f} kW, not at {target_kw:.2f} kW")
    return _judged(rows, mix, agreed.baseline_kw, target_kw, size.hours)


def _drive(parts: Parts, clock: VirtualClock, mix: Mix, size: Size) -> Rows:
    """Both loops from before the event to its end, the fast one every second."""
    before = timedelta(minutes=size.before_min)
    event, end = START + before, START + before + RAMP + timedelta(hours=size.hours)
    rows, hall = Rows([], [], [], []), parts.hardware.hall
    assert hall is not None
    asked = [(event - before / 2, lambda: parts.facade.accept(_message(event, end)))]
    for tick in turns(parts, clock, end, asked):
        seen = hall.counters()
        rows.seconds.append((tick.at - event).total_seconds())
        rows.import_kwh.append(seen.import_kwh["lab"])
        rows.done.append([seen.work_gpu_h[job.id] for job in mix.jobs])
        rows.asked.append([seen.asked_gpu_h[job.id] for job in mix.jobs])
    return rows


def _message(start: datetime, end: datetime) -> EventMessage:
    """The event as a utility would send it; `start` begins the ramp."""
    ramp_s = RAMP.total_seconds()
    targets = (EventTarget(start, end, reduce_percent=REDUCE_PERCENT),)
    return EventMessage("trial", 1, "lab", start, end, targets, ramp_in_s=ramp_s, ramp_out_s=ramp_s)


def _judged(rows: Rows, mix: Mix, baseline_kw: float, target_kw: float, hours: float) -> Trial:
    """What the counters say of the time at the target."""
    begin, stop = RAMP.total_seconds(), RAMP.total_seconds() + 3600.0 * hours
    at, kwh = np.array(rows.seconds), np.array(rows.import_kwh)
    minutes = np.arange(begin, stop + 1.0, 60.0)
    points = (np.diff(np.interp(minutes, at, kwh)) * 60.0 - target_kw) / baseline_kw * 100.0
    done, asked = (_between(at, np.array(totals), begin, stop) for totals in (rows.done, rows.asked))
    kept, weights = done / asked, np.array([job.floor for job in mix.jobs])
    return Trial(
        performance=float(weights @ kept / weights.sum()),
        over_points=float(-points.mean()),
        lowest_point=float(points.min()),
        highest_point=float(points.max()),
        jobs=tuple(kept.tolist()),
    )


def _between(at: Any, totals: Any, begin: float, stop: float) -> Any:
    """Increase of every column of totals between two moments."""
    return np.array([np.interp(stop, at, column) - np.interp(begin, at, column) for column in totals.T])


def _told(name: str, found: Trial) -> Trial:
    """Print a line about a run."""
    jobs = " ".join(f"{kept:.3f}" for kept in found.jobs)
    say(f"{name:<16}{found.performance:>11.4f}{found.over_points:>11.2f}{found.lowest_point:>10.2f}"
        f"{found.highest_point:>10.2f}          {jobs}")  # fmt: skip
    return found


def main(argv: list[str] | None = None) -> None:
    """Run from the command line; `--data DIR` brings other curves and jobs."""
    data, rest = split_data(argv)
    run("field_trial", __doc__.splitlines()[0], lambda quick, seed: measure(quick, seed, data), rest)


if __name__ == "__main__":
    main()
