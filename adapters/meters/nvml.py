"""Power and energy of this machine's cards, summed per pool.

A card that doesn't answer is named in `lost` and counted like the mean of its pool's others, never as zero; with fewer
than four fifths of a pool's cards answering the pool is named instead. Energy comes from the cards' own counters, which
miss nothing between two readings; power is NVML's short average and good for control, not for settlement. How busy a
card is comes from its utilisation (the share of time in which a kernel ran), where it tells one.
"""

from __future__ import annotations

from collections.abc import Mapping

import pynvml

from adapters.meters.sums import PoolSums
from adapters.nvml_session import MW, Handle, NvmlSession, optional, utilisation
from adapters.ports import AdapterError, Clock, GpuId, Reading
from adapters.workers import Turn

_J_PER_KWH = 3.6e6


class NvmlMeter:
    """`Meter` over NVML. `pool_of` says which pool each card belongs to; other cards are not read."""

    def __init__(
        self, clock: Clock, pool_of: Mapping[GpuId, str], deadline_s: float = 3.0, session: NvmlSession | None = None
    ) -> None:
        self._clock = clock
        self._pool_of = dict(pool_of)
        self.session = session or NvmlSession(deadline_s)
        self._sums = PoolSums(self._pool_of)
        self._draws_w: Mapping[GpuId, float] = {}

    def read(self) -> Reading:
        """One reading of all cards at once. AdapterError when none of them answers."""
        self._draws_w = {}
        seen, failures = self.session.look(self._pool_of, _card)
        if self._pool_of and not seen:
            named = ", ".join(f"{gpu}: {reason}" for gpu, reason in list(failures.items())[:3])
            raise AdapterError(f"NVML: no GPU could be read ({named})")
        self._draws_w = {gpu: draw_w for gpu, (draw_w, _, _) in seen.items()}
        pool_kw, lost = self._sums.power_kw(self._draws_w)
        joules = {gpu: energy_j for gpu, (_, energy_j, _) in seen.items() if energy_j >= 0}
        energy = self._sums.energy_kwh({gpu: energy_j / _J_PER_KWH for gpu, energy_j in joules.items()})
        busy = self._sums.busy_gpus({gpu: share for gpu, (_, _, share) in seen.items()})
        return Reading(self._clock.now(), pool_kw, {}, energy, lost, busy)

    def cards(self) -> Mapping[GpuId, float]:
        """Draw in W of each card at the last reading."""
        return self._draws_w

    def close(self) -> None:
        """Let NVML go."""
        self.session.close()


def _card(gpu: GpuId, handle: Handle, turn: Turn) -> tuple[float, float, float | None]:
    """Draw in W, energy counter in J (-1 for cards that count none), and the share of time that the card works."""
    draw_w = pynvml.nvmlDeviceGetPowerUsage(handle) / MW
    energy_j = optional(lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / MW, -1.0)
    return draw_w, energy_j, utilisation(handle)
