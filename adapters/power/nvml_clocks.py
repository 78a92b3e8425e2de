"""Locked SM clocks through NVML: the second actuator, for work that draws less than any limit a card takes.

NVML tells the present clock and the highest one, and nothing about who locked it before, or whether it still is
locked; a reset lets it go free. So a lock that somebody else made can't be given back, and clocks are touched only
where the configuration says so.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pynvml

from adapters.nvml_session import Handle, NvmlSession, optional
from adapters.ports import ClockReceipt, GpuId
from adapters.workers import Turn

NO_RANGE = (0, 0)


def clock_range(_gpu: GpuId, handle: Handle, _turn: Turn) -> tuple[int, int]:
    """Lowest and highest SM clock in MHz that the card can be locked to; zeros where it can't."""

    def supported() -> tuple[int, int]:
        memory_mhz = pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_MEM)
        clocks = pynvml.nvmlDeviceGetSupportedGraphicsClocks(handle, memory_mhz)
        return (int(min(clocks)), int(max(clocks))) if clocks else NO_RANGE

    return optional(supported, NO_RANGE)


def lock_clocks(
    session: NvmlSession, clocks_mhz: Mapping[GpuId, int], ranges: Mapping[GpuId, tuple[int, int]]
) -> ClockReceipt:
    """Lock each card's SM clock between its lowest and this, clamped to its range, and read the clock back."""

    def order(gpu: GpuId, handle: Handle, turn: Turn) -> int:
        low, high = ranges.get(gpu, NO_RANGE)
        most = min(max(clocks_mhz[gpu], low), high) if high else clocks_mhz[gpu]
        turn.check()
        pynvml.nvmlDeviceSetGpuLockedClocks(handle, low, most)
        return int(pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM))

    return ClockReceipt(*session.each(clocks_mhz, order))


def unlock_clocks(session: NvmlSession, gpus: Collection[GpuId]) -> ClockReceipt:
    """Reset the locked clocks of these cards, and read the clock back."""

    def reset(_gpu: GpuId, handle: Handle, turn: Turn) -> int:
        turn.check()
        pynvml.nvmlDeviceResetGpuLockedClocks(handle)
        return int(pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM))

    return ClockReceipt(*session.each(gpus, reset))


def read_clocks(session: NvmlSession, gpus: Collection[GpuId]) -> Mapping[GpuId, int]:
    """The clock at which each of these cards that answers runs, in MHz: one call a card, all at once."""

    def read(_gpu: GpuId, handle: Handle, _turn: Turn) -> int:
        return int(pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM))

    return session.look(gpus, read)[0]
