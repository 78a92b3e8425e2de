"""What planning takes of memory, seen from outside: a fresh process that plans and then tells its high-water mark."""

from __future__ import annotations

from multiprocessing import get_context
from pathlib import Path

from benchmarks.support.plans import whole_plan
from optimizer.domain import Problem

STATUS = Path("/proc/self/status")


def peak_mb(problem: Problem, plans: int = 2) -> float | None:
    """Highest resident MB of a process that makes `plans` plans of a problem; None where the system doesn't tell."""
    if not STATUS.exists():
        return None
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_after, (problem, plans))


def _peak_after(problem: Problem, plans: int) -> float:
    """Plan, then read VmHWM (kB in proc(5))."""
    for _ in range(plans):
        whole_plan(problem)
    line = next(line for line in STATUS.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM:"))
    return float(line.split()[1]) / 1024.0
