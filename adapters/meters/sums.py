"""From readings of single GPUs to power and energy of pools, when some of them don't answer.

Power: the missing are counted like the mean of their pool's others, and named; with too few others the pool is named
instead of guessed. Energy: counters restart at zero when a driver reloads and stand still while a card is away, so
increments are added up here, and a pool's counter never steps back.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

from adapters.ports import GpuId

LEAST_SHARE_METERED = 0.8
"""Below this share of answering GPUs a pool's power is not estimated from the others any more, but named as lost."""


class PoolSums:
    """Adds GPUs up to pools; keeps the energy counters of the cards it has seen."""

    def __init__(self, pool_of: Mapping[GpuId, str]) -> None:
        self._pool_of = pool_of
        self._sizes = Counter(pool_of.values())
        self._last_kwh: dict[GpuId, float] = {}
        self._total_kwh: dict[str, float] = {}

    def power_kw(self, draw_w: Mapping[GpuId, float]) -> tuple[dict[str, float], tuple[str, ...]]:
        """Power per pool in kW, and what was lost: GPUs, and pools of which too little is seen."""
        seen: dict[str, list[float]] = defaultdict(list)
        for gpu, watts in draw_w.items():
            seen[self._pool_of[gpu]].append(watts)
        lost = [gpu for gpu in self._pool_of if gpu not in draw_w]
        power: dict[str, float] = {}
        for pool, size in self._sizes.items():
            if len(seen[pool]) >= LEAST_SHARE_METERED * size:
                power[pool] = sum(seen[pool]) / len(seen[pool]) * size / 1000.0
            else:
                lost.append(pool)
        return power, tuple(lost)

    def busy_gpus(self, utilisation: Mapping[GpuId, float | None]) -> dict[str, float]:
        """GPUs of each pool that work, from each card's share of busy time; pools of which too little is seen are left
        out."""
        seen: dict[str, list[float]] = defaultdict(list)
        for gpu, share in utilisation.items():
            if share is not None:
                seen[self._pool_of[gpu]].append(share)
        return {
            pool: sum(seen[pool]) / len(seen[pool]) * size
            for pool, size in self._sizes.items()
            if len(seen[pool]) >= LEAST_SHARE_METERED * size
        }

    def energy_kwh(self, counters_kwh: Mapping[GpuId, float]) -> dict[str, float]:
        """Energy per pool in kWh since the first reading; a card counts from the reading that first sees it."""
        for gpu, kwh in counters_kwh.items():
            last = self._last_kwh.get(gpu, kwh)
            pool = self._pool_of[gpu]
            self._total_kwh[pool] = self._total_kwh.get(pool, 0.0) + (kwh - last if kwh >= last else kwh)
            self._last_kwh[gpu] = kwh
        return dict(self._total_kwh)
