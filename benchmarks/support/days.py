"""Days in closed loop, in as many sittings as one likes: a day of the full size takes longer than a machine is free.

After every plan all that the rest of the day needs is written to a file, the planner with it, so that the next sitting
lives the day as this one would have.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from benchmarks.support.plans import Hasty, Planned
from benchmarks.support.report import say
from benchmarks.support.rolling import Day, Living, closed_loop
from optimizer.domain import Plan, Problem, Rung
from optimizer.facts import Facts
from optimizer.jobfacts import Jobs


class Daily(Protocol):
    """Whoever plans a day."""

    def plan(self, problem: Problem) -> Plan:
        """A plan."""
        ...


@dataclass(frozen=True)
class Way:
    """How a day is planned; `beside`: its optimum is that of the day planned as the product does."""

    planner: Callable[[], Daily]
    one_cap: bool = True
    beside: bool = False


CLOSED_LOOP = "closed_loop"
"""As the product plans by default."""

WAYS = {
    CLOSED_LOOP: Way(Planned),
    "apart": Way(Planned, one_cap=False),
    "classes": Way(lambda: Planned(0), beside=True),
    "coarse": Way(lambda: Hasty(Rung.COARSE), beside=True),
    "tanks": Way(lambda: Hasty(Rung.EMERGENCY), beside=True),
}


class Enough(Exception):
    """The sitting is over."""


@dataclass
class Book:
    """Days that are over, by way and seed, and the one that is being lived with its planner."""

    what: dict[str, Any]
    done: dict[tuple[str, int], Day] = field(default_factory=dict)
    going: tuple[tuple[str, int], Living, Daily] | None = None

    @classmethod
    def read(cls, path: Path | None, what: dict[str, Any]) -> Book:
        """The book in a file of one's own (it is a pickle), or a new one. ValueError where it is of other days."""
        if path is None or not path.exists():
            return cls(what)
        kept = pickle.loads(path.read_bytes())
        if not isinstance(kept, cls) or kept.what != what:
            raise ValueError(f"{path} is not of {what}: remove it, or name another file")
        return kept

    def write(self, path: Path | None) -> None:
        """Replace the file at once: a sitting that is killed leaves whole plans."""
        if path is not None:
            fresh = path.with_suffix(".new")
            with fresh.open("wb") as file:
                _Pickler(file).dump(self)
            fresh.replace(path)


class _Pickler(pickle.Pickler):
    """Leaves out what is reckoned from facts and jobs when it is asked for."""

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, (Facts, Jobs)):
            return NotImplemented
        return _without, (type(value), {name: part for name, part in vars(value).items() if name != "_reckoned"})


def _without(kind: type[Facts | Jobs], parts: dict[str, Any]) -> Facts | Jobs:
    found = object.__new__(kind)
    found.__dict__.update(parts)
    return found


@dataclass(frozen=True)
class Days:
    """Days of one size, lived until a moment of the monotonic clock."""

    jobs: int
    pools: int
    horizon_h: float
    path: Path | None
    ends: float

    def lived(self, ways: list[str], seeds: list[int]) -> dict[tuple[str, int], Day]:
        """The days that are over, one way after the other."""
        book = Book.read(self.path, {"jobs": self.jobs, "pools": self.pools, "horizon_h": self.horizon_h})
        try:
            for name in ways:
                for seed in seeds:
                    if (name, seed) not in book.done:
                        self._live(book, name, seed)
        except Enough:
            say("  the sitting is over: the same command goes on")
        return book.done

    def _live(self, book: Book, name: str, seed: int) -> None:
        way, known = WAYS[name], None
        if way.beside:
            known = book.done[CLOSED_LOOP, seed]
        if book.going is None or book.going[0] != (name, seed):
            book.going = (name, seed), Living(), way.planner()
        _, living, planner = book.going

        def keep() -> None:
            book.write(self.path)
            if time.monotonic() >= self.ends:
                raise Enough

        size = (self.jobs, self.pools, self.horizon_h)
        living.keep = keep
        day = closed_loop(seed, *size, planner.plan, known, one_cap=way.one_cap, living=living)
        book.done[name, seed], book.going = day, None
        book.write(self.path)
        say(f"  day {seed} {name}: loss {day.loss:.4f}, above the bound {day.above_bound:.4f}, short {day.short:.4f}")


def figures_of(done: dict[tuple[str, int], Day], seeds: list[int]) -> dict[str, list[float]]:
    """Figures of days by name, as far as they are over."""
    found: dict[str, list[float]] = {}
    for name, way in WAYS.items():
        for seed in seeds:
            day = done.get((name, seed))
            if day is None:
                continue
            if way.beside:
                found.setdefault(f"{name}_loss", []).append(day.lived / done[CLOSED_LOOP, seed].lived - 1.0)
                continue
            for what, value in (("loss", day.loss), ("above_bound", day.above_bound), ("short", day.short)):
                found.setdefault(f"{name}_{what}", []).append(value)
    return found
