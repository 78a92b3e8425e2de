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
