"""The twin of a serving process: users of a simulated hall, who wait longer the busier its GPUs are and the slower.

The formulas are those of a queue with one server (M/M/1: Kleinrock, Queueing Systems I, 1975, section 3.2): with a
share `load` of full speed asked for and a `speed` that the caps leave, a request is done after a time that is
exponential with the mean `ttft / speed / (1 - load / speed)`. Tokens come every `itl / speed`, longer by the load's
share (batches are larger), give or take a fifth. Assumed, not measured.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from math import exp, inf
from typing import Literal

from pydantic import Field

from adapters.context import AdapterContext
from adapters.fields import AdapterConfig, Duration
from adapters.hall import SimulatedHall
from adapters.latency.window import Histogram, LatencyReading

HALL, POOL = "hall", "pool"
"""Keys of the context's extras: the simulated hall, and the pool's id."""

TTFT_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
          inf)  # fmt: skip
ITL_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, inf)
"""Bounds as vLLM's histograms have them."""

FULL, REQUESTS = 0.98, 100.0
"""Highest utilisation that the queue's formula is asked about, and requests that a busy GPU takes in a window."""


class SimulatedLatencyConfig(AdapterConfig):
    """Users of a simulated hall."""

    type: Literal["simulated"] = Field(description="Users of a simulated hall.", examples=["simulated"])
    ttft: Duration = Field(
        default=timedelta(milliseconds=100),
        description="Mean time to the first token at full speed and no load.",
        examples=["0.1s"],
    )
    itl: Duration = Field(
        default=timedelta(milliseconds=20),
        description="Time between tokens at full speed and no load.",
        examples=["0.02s"],
    )


class SimulatedLatency:
    """`LatencySource` of one pool of a hall."""

    Config = SimulatedLatencyConfig

    def __init__(self, config: SimulatedLatencyConfig, context: AdapterContext) -> None:
        self._hall: SimulatedHall = context.extras[HALL]
        self._pool: str = context.extras[POOL]
        self._ttft_s, self._itl_s = config.ttft.total_seconds(), config.itl.total_seconds()

    def read(self) -> LatencyReading:
        """What users see at the hall's present load and speed."""
        gpus, load, speed = self._hall.serving(self._pool)
        number = REQUESTS * gpus * load
        if speed <= 0:
            return LatencyReading({}, number, 1.0)
        used = min(FULL, load / speed)
        ttft_s = self._ttft_s / speed / (1.0 - used)
        itl_s = self._itl_s / speed * (1.0 + load)
        histograms = {
            "ttft": Histogram(TTFT_S, tuple(number * (1.0 - exp(-bound / ttft_s)) for bound in TTFT_S)),
            "itl": Histogram(ITL_S, tuple(number * _up_to(bound, 0.8 * itl_s, 1.2 * itl_s) for bound in ITL_S)),
        }
        return LatencyReading(histograms, gpus * used**2 / (1.0 - used) if load < speed else number, 1.0)

    def listen(self, heard: Callable[[LatencyReading], None]) -> None:
        """It is computed when it is asked for: there is nothing to tell in between."""

    def close(self) -> None:
        """Nothing is open."""


def _up_to(bound: float, low: float, high: float) -> float:
    """Share of what is spread evenly over [low, high] that lies below `bound`."""
    return min(1.0, max(0.0, (bound - low) / (high - low)))
