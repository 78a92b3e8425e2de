"""Jobs on the simulated GPUs: who occupies how many, how fast they run, when the first of them ends.

Why apart from the physics: grants come from whatever job system is wired (the embedded queue, an in-memory list), and
progress goes back to it, so this file knows only two callables. Progress is gathered and handed over seldom, because a
durable queue pays a disk sync for each report; what is not yet handed over still counts when a job's end is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

Grant = tuple[str, int] | tuple[str, int, float]
Grants = Callable[[], Mapping[str, Grant]]
"""Job -> (pool, GPUs) or (pool, GPUs, GPU-hours left); with the work left the job ends to the microsecond."""

Progress = Callable[[str, float], None]
"""Told (job, GPU-hours at full throughput newly done)."""

_DONE_GPU_H = 1e-9


@dataclass
class _Run:
    """One granted job: its pool, its GPUs, the work left (inf: unknown), its rate in full-speed GPU equivalents."""

    pool: str
    gpus: int
    left_gpu_h: float
    rate_gpus: float = 0.0


def _no_grants() -> Mapping[str, Grant]:
    return {}


def _no_progress(_job: str, _gpu_h: float) -> None:
    return None


class HallWork:
    """The jobs that run now. `refresh` reads the grants, `plan` sets the rates, `run` does the work, `settle` ends what
    is finished, `flush` reports."""

    def __init__(self, grants: Grants = _no_grants, progress: Progress = _no_progress, report_s: float = 0.0) -> None:
        self._grants, self._progress, self._report_s = grants, progress, report_s
        self._runs: dict[str, _Run] = {}
        self._unreported: dict[str, float] = {}
        self._reported_at: datetime | None = None

    def refresh(self) -> None:
        """Read who has been granted what."""
        self._runs = {}
        for job, (pool, gpus, *left) in self._grants().items():
            left_gpu_h = (float(left[0]) if left else float("inf")) - self._unreported.get(job, 0.0)
            if gpus > 0 and left_gpu_h > _DONE_GPU_H:
                self._runs[job] = _Run(pool, int(gpus), left_gpu_h)

    def granted(self, pool: str) -> int:
        """GPUs of `pool` that its unfinished jobs hold."""
        return sum(run.gpus for run in self._runs.values() if run.pool == pool)

    def plan(self, speeds: Mapping[str, float], capacity: Mapping[str, int]) -> float:
        """Set every job's rate from its pool's mean speed (and its share of the GPUs that are there); returns the
        seconds until the first job ends (inf: none that is known to)."""
        held = {pool: self.granted(pool) for pool in {run.pool for run in self._runs.values()}}
        first_h = float("inf")
        for run in self._runs.values():
            share = min(1.0, capacity.get(run.pool, 0) / held[run.pool])
            run.rate_gpus = run.gpus * share * speeds.get(run.pool, 0.0)
            if run.rate_gpus > 0:
                first_h = min(first_h, run.left_gpu_h / run.rate_gpus)
        return first_h * 3600.0

    def run(self, hours: float) -> None:
        """Do the work of one segment."""
        for job, run in self._runs.items():
            done = min(run.left_gpu_h, run.rate_gpus * hours)
            run.left_gpu_h -= done
            if done > 0:
                self._unreported[job] = self._unreported.get(job, 0.0) + done

    def settle(self, moment: datetime) -> None:
        """Report the jobs that have ended at `moment`, free their GPUs, and let the job system start others."""
        ended = [job for job, run in self._runs.items() if run.left_gpu_h <= _DONE_GPU_H]
        if ended:
            self._report(moment)
            self.refresh()

    def flush(self, moment: datetime) -> None:
        """Report what has been done, unless the last report is younger than `report_s`."""
        last = self._reported_at
        if last is None or (moment - last).total_seconds() >= self._report_s:
            self._report(moment)

    def _report(self, moment: datetime) -> None:
        unreported, self._unreported, self._reported_at = self._unreported, {}, moment
        for job, gpu_h in unreported.items():
            self._progress(job, gpu_h)
