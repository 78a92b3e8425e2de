"""What one site asks for in one interval, and the least cut that brings it under its caps.

Why one cut for all rules: they differ only in who gives way first. Each says so by a `Scale`, from level 0 (nobody
gives anything) to 1 (every pool at its floor, every job that may wait paused); the level is found by halving.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from optimizer.facts import Facts
from optimizer.poolfacts import PoolFacts
from optimizer.speeds import speed_for

HALVINGS = 40
TOL_KW = 1e-9


@dataclass(frozen=True)
class Given:
    """Draw in kW of each interactive and training pool by its index, and rates in GPU equivalents of jobs that may
    wait by their number."""

    draw_kw: Mapping[int, float]
    rates: Mapping[int, float]


@dataclass(frozen=True)
class Asked:
    """Interval `t` of site `site`: what its pools and jobs want (`wants`), where jobs run (`homes`: job -> pool), what
    each batch pool does that may not be interrupted (`kept`, GPU equivalents), and the IT power in kW that may be
    drawn."""

    facts: Facts
    site: int
    t: int
    wants: Given
    homes: Mapping[int, int]
    kept: Mapping[int, float]
    budget_kw: float

    @property
    def service(self) -> list[PoolFacts]:
        """The site's pools that serve users or train."""
        return [self.facts.pools[g] for g in self.wants.draw_kw]

    def batch_kw(self, rates: Mapping[int, float]) -> dict[int, float]:
        """Draw of every batch pool under these rates."""
        work, speed = dict(self.kept), dict.fromkeys(self.kept, 0.0)
        for number, rate in rates.items():
            g = self.homes[number]
            work[g] += rate
            speed[g] = max(speed[g], rate * self._speeds[number])
        return {g: self.facts.pools[g].draw_for(self.t, done, speed[g]) for g, done in work.items()}

    @cached_property
    def _speeds(self) -> dict[int, float]:
        """Throughput that each job needs of each of its GPUs for a GPU equivalent."""
        return {number: speed_for(self.facts, number, g, self.t) for number, g in self.homes.items()}

    def total_kw(self, given: Given) -> float:
        """IT power of all pools."""
        return sum(given.draw_kw.values()) + sum(self.batch_kw(given.rates).values())


Scale = Callable[[Asked, float], Given]
"""What everybody gets at a level of 0 (all that is wanted) to 1 (floors, and no job that may wait)."""


def least_cut(asked: Asked, scale: Scale) -> Given:
    """The lowest level at which the site is under its budget; the highest where none is enough."""
    if asked.total_kw(asked.wants) <= asked.budget_kw + TOL_KW:
        return asked.wants
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2.0
        if asked.total_kw(scale(asked, middle)) > asked.budget_kw:
            low = middle
        else:
            high = middle
    return scale(asked, high)


def between(pool: PoolFacts, t: int, draw_kw: float, wanted_kw: float) -> float:
    """A draw no higher than what is wanted and no lower than the pool's floor takes."""
    return max(min(draw_kw, wanted_kw), min(float(pool.least_kw[t]), wanted_kw))
