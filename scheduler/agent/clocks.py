"""The node agent's hold on SM clocks: written down before a lock, asserted again, ramped free when nobody renews.

Why apart from the limits: what is owed is not a value that was found, since no driver tells who locked a clock before,
but freedom. Whatever happens, a clock that Gridpace locked does not stay locked.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from adapters.ports import AdapterError, ClockLocker, ClockReceipt, GpuId, Lease, PowerActuator
from scheduler.agent.state import AgentFiles, Found

ASSERT_S = 10.0
"""Locks are set again this often: a driver reload frees them, and no call tells that it did."""

RAMP_MHZ_PER_S = 30.0
"""Clocks are let go by so much a second, as limits are by watts."""

FREE_MHZ = 5000
"""No SM clock is as high: one that is ramped up to here is let go at the latest."""


class AgentClocks:
    """Locked clocks of this node, in `found` and on disk. Called under the agent's lock."""

    def __init__(self, power: PowerActuator, files: AgentFiles, found: Found) -> None:
        self._power, self._files, self._found = power, files, found
        self._asserted_at = float("-inf")
        self._highest: dict[GpuId, int] = {}

    def _locker(self) -> ClockLocker:
        if not isinstance(self._power, ClockLocker):
            raise AdapterError("the cards of this node have no clocks that can be locked")
        return self._power

    def lock(self, clocks_mhz: Mapping[GpuId, int], lease: Lease, now: float) -> ClockReceipt:
        """Write down, then lock. AdapterError when it can't be written down: then nothing is locked."""
        locker = self._locker()
        self._put({**self._found.clocks_mhz, **clocks_mhz})
        self._asserted_at = now
        return locker.lock(clocks_mhz, lease)

    def keep(self, lease: Lease, now: float) -> None:
        """Set the locks again now and then."""
        if self._found.clocks_mhz and now - self._asserted_at >= ASSERT_S:
            self._asserted_at = now
            self._locker().lock(self._found.clocks_mhz, lease)

    def unlock(self, gpus: Collection[GpuId]) -> ClockReceipt:
        """Let go, and forget those that were read back as free."""
        if not gpus:
            return ClockReceipt()
        receipt = self._locker().unlock(gpus)
        done = receipt.clock_mhz.keys() - receipt.failures.keys()
        self._put({gpu: mhz for gpu, mhz in self._found.clocks_mhz.items() if gpu not in done})
        return receipt

    def ramp(self, seconds: float, lease: Lease) -> None:
        """Raise every lock by some steps; a clock that arrives at its highest goes free."""
        if not self._found.clocks_mhz:
            return
        if not self._found.clocks_mhz.keys() <= self._highest.keys():
            self._highest |= {gpu: info.max_clock_mhz for gpu, info in self._power.discover().items()}
        raised = {gpu: mhz + max(1, round(RAMP_MHZ_PER_S * seconds)) for gpu, mhz in self._found.clocks_mhz.items()}
        free = [gpu for gpu, mhz in raised.items() if mhz >= (self._highest.get(gpu) or FREE_MHZ)]
        moving = {gpu: mhz for gpu, mhz in raised.items() if gpu not in free}
        if moving:
            done = self._locker().lock(moving, lease).clock_mhz.keys()
            self._found.clocks_mhz.update({gpu: mhz for gpu, mhz in moving.items() if gpu in done})
        self.unlock(free)

    def _put(self, clocks_mhz: dict[GpuId, int]) -> None:
        """Keep on disk, then in memory."""
        if clocks_mhz != self._found.clocks_mhz:
            self._files.save_found(replace(self._found, clocks_mhz=clocks_mhz))
            self._found.clocks_mhz = clocks_mhz
