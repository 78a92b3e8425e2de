"""A load that is never quite still: what makes a simulated hall as restless as a real one.

Why from the moment and a seed alone: the hall may be asked for a moment twice, and the same seed must give the same
hall. Each pool has its own noise, smooth over a few seconds, as the phases of training and the bursts of users are.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from zlib import crc32

import numpy as np

from adapters.hall_state import Signal

PERIOD_S = 5.0

BURST_S, RISE_S = 20.0, 5.0
"""Mean length of a burst, and how long a load takes from one level to the next while batches fill or drain."""


@lru_cache(maxsize=4096)
def _knot(seed: int, key: int, number: int) -> float:
    """A standard normal value that belongs to one moment of one pool."""
    return float(np.random.default_rng((seed, key, number)).normal())


@dataclass(frozen=True)
class Flicker:
    """`load` with dips by the absolute value of a normal deviation of `noise`, which come and go in seconds."""

    load: Signal
    noise: float
    seed: int
    name: str

    def __call__(self, moment: datetime) -> float:
        """Load at a moment."""
        at = moment.timestamp() / PERIOD_S
        number, key = int(at), crc32(self.name.encode())
        share = at - number
        value = (1.0 - share) * _knot(self.seed, key, number) + share * _knot(self.seed, key, number + 1)
        return max(0.0, self.load(moment) * (1.0 - self.noise * abs(value)))


@dataclass(frozen=True)
class Bursts:
    """`load` that jumps between levels, each anywhere from 1 - `depth` to all of it: users come in bursts."""

    load: Signal
    depth: float
    seed: int
    name: str

    def __call__(self, moment: datetime) -> float:
        """Load at a moment."""
        at = moment.timestamp() / BURST_S
        number, key = int(at), crc32(self.name.encode())
        begun = (at - number) * BURST_S - _level(self.seed, key + 1, number) * (BURST_S - RISE_S)
        share = min(1.0, max(0.0, begun / RISE_S))
        level = (1.0 - share) * _level(self.seed, key, number) + share * _level(self.seed, key, number + 1)
        return self.load(moment) * (1.0 - self.depth * level)


@lru_cache(maxsize=4096)
def _level(seed: int, key: int, number: int) -> float:
    """A value from 0 to 1 that belongs to one burst of one pool."""
    return float(np.random.default_rng((seed, key, number)).random())
