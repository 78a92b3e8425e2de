"""A thousand consecutive steps through the daemon's planner in its child process, in as many sittings as one likes.

Why sittings: a thousand plans take a quarter of an hour or more, and a shared machine has other work. What was timed is
written to a file after every step; the next sitting goes on where the last one ended. A planner can't be written to a
file, so a sitting begins with the step that was planned last, not counted, which makes the new planner as warm as the
old one was.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import active_children
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.support.memory import STATUS
from benchmarks.support.plans import PATIENCE_S
from benchmarks.support.report import Figures, machine, say
from benchmarks.support.twin_fleet import cpu_s
from optimizer.domain import Problem, Rung
from scheduler.planner import ChildPlanner

Step = Callable[[int], Problem]
REST_S = 0.1
"""A child that takes less than a fifth of a core for so long is at rest."""


@dataclass
class Record:
    """What was timed: wall seconds, CPU seconds of daemon and child, and the rung of every step; CPU seconds of what
    the child does between plans; how many sittings it took, and on which machine the last one was."""

    what: dict[str, Any]
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    rungs: list[str] = field(default_factory=list)
    spare_cpu_s: float = 0.0
    sittings: int = 0
    machine: dict[str, Any] = field(default_factory=machine)

    @classmethod
    def read(cls, path: Path | None, what: dict[str, Any]) -> Record:
        """The record in a file, or a new one. ValueError where the file is of other steps: they don't add up."""
        if path is None or not path.exists():
            return cls(what)
        kept = cls(**json.loads(path.read_text(encoding="utf-8")))
        if kept.what != what:
            raise ValueError(f"{path} is of {kept.what}, not of {what}: remove it, or name another file")
        return kept

    def write(self, path: Path | None) -> None:
        """Replace the file at once: a sitting that is killed leaves whole steps."""
        if path is not None:
            fresh = path.with_suffix(".new")
            fresh.write_text(json.dumps(vars(self)), encoding="utf-8")
            fresh.replace(path)

    def figures(self) -> Figures:
        """What a benchmark reports of it."""
        optimal = self.rungs.count(str(Rung.OPTIMUM)) / len(self.rungs)
        share = {f"rolling_{rung}": self.rungs.count(rung) for rung in sorted(set(self.rungs) - {str(Rung.OPTIMUM)})}
        cpu = {
            "rolling_p99_cpu_s": p99(self.cpu_s),
            "rolling_median_cpu_s": median(self.cpu_s),
            "rolling_spare_cpu_s": self.spare_cpu_s / len(self.wall_s),
        }
        return {"rolling_p99_s": p99(self.wall_s), "rolling_median_s": median(self.wall_s),
                "rolling_longest_s": max(self.wall_s), "rolling_steps": len(self.wall_s),
                "rolling_sittings": self.sittings, "rolling_share_optimal": optimal, **share,
                **(cpu if STATUS.exists() else {})}  # fmt: skip


def roll(step: Step, steps: int, what: dict[str, Any], path: Path | None, minutes: float) -> Record:
    """Plan the steps that a record has not, for so many minutes at most; `step` makes the problem of each."""
    record, ends = Record.read(path, what), time.monotonic() + 60.0 * minutes
    if len(record.wall_s) >= steps:
        return record
    record.sittings += 1
    record.machine = machine()
    planner = ChildPlanner(PATIENCE_S, PATIENCE_S)
    try:
        last = planner.plan(step(max(0, len(record.wall_s) - 1)))  # the child pays its imports and its first plan
        first = len(record.wall_s)
        while len(record.wall_s) < steps and (time.monotonic() < ends or len(record.wall_s) == first):
            problem = step(len(record.wall_s))
            started, before = time.perf_counter(), _cpu_of_both_s()
            last = planner.plan(problem, last)
            record.wall_s.append(time.perf_counter() - started)
            record.cpu_s.append(_cpu_of_both_s() - before)
            record.rungs.append(str(last.rung))
            record.spare_cpu_s += _at_rest()
            record.write(path)
    finally:
        planner.close()
    return record


def _at_rest() -> float:
    """Wait until the child has done what it does while nobody asks (in service it has minutes); its CPU seconds."""
    if not STATUS.exists():
        return 0.0
    first = now = _cpu_of_children_s()
    ends = time.monotonic() + PATIENCE_S
    while time.monotonic() < ends:
        time.sleep(REST_S)
        before, now = now, _cpu_of_children_s()
        if now - before < 0.2 * REST_S:
            break
    return now - first


def told(record: Record, steps: int) -> None:
    """What a person reads of it."""
    done, wall, cpu = len(record.wall_s), record.wall_s, record.cpu_s
    without = done - record.rungs.count(str(Rung.OPTIMUM))
    say(f"  rolling_p99_s      {p99(wall):.2f} s of wall over {done} of {steps} steps ({record.sittings} sittings), "
        f"median {median(wall):.2f} s, longest {max(wall):.2f} s; CPU {p99(cpu):.2f} s, median {median(cpu):.2f} s; "
        f"{without} without an optimum")  # fmt: skip


def p99(values: list[float]) -> float:
    """What 99 of 100 stay at or below."""
    return sorted(values)[max(0, -(-99 * len(values) // 100) - 1)]


def _cpu_of_both_s() -> float:
    """CPU seconds so far of this process and of the planner's child, where the system tells them."""
    if not STATUS.exists():
        return 0.0
    return time.process_time() + _cpu_of_children_s()


def _cpu_of_children_s() -> float:
    return sum(cpu_s(child.pid) for child in active_children() if child.pid is not None)
