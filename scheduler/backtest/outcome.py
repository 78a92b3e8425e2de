"""What a controller did over a window, on the settlement grid: the common currency of Gridpace and its rivals.

Why cumulative: the recorder reads counters at the end of every control period, and the settlement intervals are cut
out of them afterwards (an event's bounds are known only then). Counters are exact, samples of power are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from adapters.devices.simulated import SimulatedDevice
from adapters.hall_state import HallCounters
from optimizer.domain import BatchJob
from optimizer.timegrid import TimeGrid

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Outcome:
    """Means over each interval of `grid`: import in kW per site, work in full-speed GPU equivalents per pool and job.

    A job that is absent did no work.
    """

    grid: TimeGrid
    import_kw: Mapping[str, Floats]
    work_gpus: Mapping[str, Floats]
    job_gpus: Mapping[str, Floats]
    given_kw: Mapping[str, Floats] = field(default_factory=dict)
    """Power that each battery and engine gave."""
    stored_kwh: Mapping[str, float] = field(default_factory=dict)
    """Energy in each battery at the end."""
    offered_kw: Mapping[str, Floats] = field(default_factory=dict)
    """Reserve that was offered, by offer."""
    starts: Mapping[str, int] = field(default_factory=dict)
    """How often each engine was started."""
    pauses: Mapping[str, int] = field(default_factory=dict)
    """How often each job was suspended and started again."""
    woken: Mapping[str, float] = field(default_factory=dict)
    """GPUs of each pool that were woken, and that are still parked at the end."""
    lives: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Seconds from the start at which each job of which anything was done began, and had done all that was done."""
    took_part: frozenset[str] = frozenset()
    """Voluntary events that the site took part in."""


@dataclass
class Recorder:
    """Reads the hall's counters and the jobs' progress at the end of every control period."""

    start: datetime
    seconds: list[float] = field(default_factory=list)
    imports: list[tuple[float, ...]] = field(default_factory=list)
    works: list[tuple[float, ...]] = field(default_factory=list)
    sites: tuple[str, ...] = ()
    pools: tuple[str, ...] = ()
    jobs: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)
    given: list[tuple[float, ...]] = field(default_factory=list)
    devices: Mapping[str, SimulatedDevice] = field(default_factory=dict)
    stored_at_start: dict[str, float] = field(default_factory=dict)
    offered: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)
    pauses: dict[str, int] = field(default_factory=dict)
    _rests: dict[str, bool] = field(default_factory=dict)
    _rates: dict[str, float] = field(default_factory=dict)
    starts: dict[str, int] = field(default_factory=dict)
    _given: dict[str, tuple[float, bool]] = field(default_factory=dict)

    def offer(self, at: datetime, offered_kw: Mapping[str, float]) -> None:
        """Keep what reserve is offered from `at` on, as energy held ready."""
        second = (at - self.start).total_seconds()
        for name, kw in offered_kw.items():
            times, held = self.offered.setdefault(name, ([second], [0.0]))
            rate = self._rates.get(name, 0.0)
            times.append(second)
            held.append(held[-1] + rate * (second - times[-2]) / 3600.0)
            self._rates[name] = kw

    def _count_starts(self) -> None:
        """An engine that gave nothing at the reading before, and has given something since, was started."""
        for name, device in self.devices.items():
            if device.spec.max_kwh <= 0:
                given, ran = self._given.get(name, (0.0, False))
                runs = device.given_kwh > given
                self.starts[name] = self.starts.get(name, 0) + int(runs and not ran)
                self._given[name] = (device.given_kwh, runs)

    def _count_pauses(self, jobs: Mapping[str, BatchJob]) -> None:
        """A job that had GPUs, lost them with work left, and has them again was paused once more."""
        for name, job in jobs.items():
            if job.gpus > 0 and self._rests.get(name):
                self.pauses[name] = self.pauses.get(name, 0) + 1
            if job.gpus > 0 or name in self._rests:
                self._rests[name] = job.gpus == 0

    def read(self, counters: HallCounters, jobs: Mapping[str, BatchJob]) -> None:
        """Keep one reading; jobs only where they moved. A job that is new had done nothing at the reading before."""
        self._count_pauses(jobs)
        self._count_starts()
        if not self.seconds:
            self.sites, self.pools = tuple(counters.import_kwh), tuple(counters.work_gpu_h)
            self.stored_at_start = {name: device.stored_kwh for name, device in self.devices.items()}
        second = (counters.at - self.start).total_seconds()
        last = self.seconds[-1] if self.seconds else second
        self.seconds.append(second)
        self.imports.append(tuple(counters.import_kwh.values()))
        self.works.append(tuple(counters.work_gpu_h.values()))
        self.given.append(tuple(device.given_kwh for device in self.devices.values()))
        for name, job in jobs.items():
            times, done = self.jobs.setdefault(name, ([last], [0.0]))
            if job.done_gpu_h != done[-1]:
                if times[-1] < last:
                    times.append(last)
                    done.append(done[-1])
                times.append(second)
                done.append(job.done_gpu_h)

    def outcome(self, grid: TimeGrid) -> Outcome:
        """The readings cut at the edges of `grid`."""
        at = np.array([(edge - self.start).total_seconds() for edge in grid.edges])
        hours = np.array(grid.hours)

        def means(times: list[float], totals: Floats) -> Floats:
            cut: Floats = np.diff(np.interp(at, times, totals)) / hours
            return cut

        imports, works, given = np.array(self.imports), np.array(self.works), np.array(self.given)
        return Outcome(
            grid=grid,
            import_kw={site: means(self.seconds, imports[:, k]) for k, site in enumerate(self.sites)},
            work_gpus={pool: means(self.seconds, works[:, k]) for k, pool in enumerate(self.pools)},
            job_gpus={name: means(times, np.array(done)) for name, (times, done) in self.jobs.items()},
            given_kw={name: means(self.seconds, given[:, k]) for k, name in enumerate(self.devices)},
            stored_kwh={name: device.stored_kwh for name, device in self.devices.items()},
            offered_kw={name: means(times, np.array(held)) for name, (times, held) in self.offered.items()},
            starts=dict(self.starts),
            pauses=dict(self.pauses),
            lives={name: _life(times, done) for name, (times, done) in self.jobs.items() if done[-1] > done[0]},
        )


def _life(times: list[float], done: list[float]) -> tuple[float, float]:
    """When a job's progress began and ended, to the reading."""
    first = next(k for k, amount in enumerate(done) if amount > done[0])
    last = next(k for k, amount in enumerate(done) if amount >= done[-1])
    return times[first - 1], times[last]
