"""Power of the node's cards as its agent sees them, summed per pool.

Why through the agent: on a hardened installation it alone may open the devices. Its discovery carries each card's
present draw, so the meter asks for nothing more.
"""

from __future__ import annotations

from collections.abc import Mapping

from adapters.meters.sums import PoolSums
from adapters.ports import Clock, GpuId, PowerActuator, Reading


class AgentMeter:
    """`Meter` over whatever `power` discovers; `pool_of` says which pool each card belongs to."""

    def __init__(self, power: PowerActuator, clock: Clock, pool_of: Mapping[GpuId, str]) -> None:
        self._power, self._clock, self._pool_of = power, clock, dict(pool_of)
        self._sums = PoolSums(self._pool_of)
        self._draws_w: Mapping[GpuId, float] = {}

    def read(self) -> Reading:
        """One reading; cards that don't answer are named in `lost`. AdapterError when the agent can't be reached."""
        self._draws_w = {}
        found = self._power.discover()
        self._draws_w = draws = {gpu: info.draw_w for gpu, info in found.items() if gpu in self._pool_of}
        pool_kw, lost = self._sums.power_kw(draws)
        busy = self._sums.busy_gpus({gpu: found[gpu].utilisation for gpu in draws})
        return Reading(self._clock.now(), pool_kw, {}, {}, lost, busy)

    def cards(self) -> Mapping[GpuId, float]:
        """Draw in W of each card at the last reading."""
        return self._draws_w
