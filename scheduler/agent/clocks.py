"""The node agent's hold on SM clocks: written down before a lock, asserted again, ramped free when nobody renews.

Why apart from the limits: what is owed is not a value that was found, since no driver tells who locked a clock before,
but freedom. Whatever happens, a clock that Gridpace locked does not stay locked.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import replace

from adapters.ports import AdapterError, ClockLocker, ClockReceipt, GpuId, Lease, PowerActuator
from adapters.power.receipts import UNKNOWN_GPU
from optimizer.reasons import Reason
from scheduler.agent.state import AgentFiles, Found
from scheduler.capwatch import DriftRules
from scheduler.clockwatch import ClockWatch

ASSERT_S = 10.0
"""Locks are set again this often whatever the clocks say: of a card that idles they tell nothing."""

RAMP_MHZ_PER_S = 30.0
"""Clocks are let go by so much a second, as limits are by watts."""

FREE_MHZ = 5000
"""No SM clock is as high: one that is ramped up to here is let go at the latest."""

_log = logging.getLogger("gridpace.agent")


class AgentClocks:
    """Locked clocks of this node, in `found` and on disk. Called under the agent's lock."""

    def __init__(self, power: PowerActuator, files: AgentFiles, found: Found, rules: DriftRules | None = None) -> None:
        self._power, self._files, self._found = power, files, found
        self.watch = ClockWatch(rules)
        self._asserted_at = float("-inf")
        self._highest: dict[GpuId, int] = {}

    def leave(self, clocks_mhz: Mapping[GpuId, float], now: float) -> None:
        """These were left to another writer before this process began: our lock is none that it must be freed from."""
        mine = self._found.clocks_mhz
        self.watch.order({gpu: mine[gpu] for gpu in clocks_mhz}, now)
        self.watch.leave(clocks_mhz, now)

    def _locker(self) -> ClockLocker:
        if not isinstance(self._power, ClockLocker):
            raise AdapterError("the cards of this node have no clocks that can be locked")
        return self._power

    def lock(self, clocks_mhz: Mapping[GpuId, int], lease: Lease, now: float) -> ClockReceipt:
        """Write down, then lock. AdapterError when a new card can't be written down: then nothing is locked. One that
        is written down follows on a full disk too. A card that is not there is neither: it would be owed for ever."""
        locker, absent = self._locker(), self._absent(clocks_mhz)
        known = {gpu: mhz for gpu, mhz in clocks_mhz.items() if gpu not in absent}
        held = {**self._found.clocks_mhz, **known}
        if known.keys() - self._found.clocks_mhz.keys():
            self._files.save_found(replace(self._found, clocks_mhz=held))
            self._found.clocks_mhz = held
        elif held != self._found.clocks_mhz:
            self._found.clocks_mhz = held
            self._files.keep(self._found)
        self._asserted_at = now
        receipt = self._set(locker, known, lease, now)
        return replace(receipt, failures={**receipt.failures, **dict.fromkeys(absent, UNKNOWN_GPU)})

    def _absent(self, gpus: Collection[GpuId]) -> set[GpuId]:
        """Those that are to be locked for the first time, and don't answer."""
        fresh = set(gpus) - self._found.clocks_mhz.keys()
        return fresh - self._power.discover().keys() if fresh else fresh

    def _set(self, locker: ClockLocker, clocks_mhz: Mapping[GpuId, int], lease: Lease, now: float) -> ClockReceipt:
        """Lock, but for cards that are left to another writer, and expect the locks to stay."""
        self._bounds(clocks_mhz)
        yielded = self.watch.yielded_mhz
        mine = {gpu: mhz for gpu, mhz in clocks_mhz.items() if gpu not in yielded}
        self.watch.order(clocks_mhz, now)
        receipt = locker.lock(mine, lease) if mine else ClockReceipt()
        self.watch.unwritten(gpu for gpu in receipt.failures if gpu in mine)
        left = {gpu: Reason.CAP_YIELDED for gpu in clocks_mhz if gpu in yielded}
        return ClockReceipt(receipt.clock_mhz, {**receipt.failures, **left})

    def _bounds(self, gpus: Collection[GpuId]) -> None:
        """Know the range of these cards."""
        if not set(gpus) <= self._highest.keys():
            infos = self._power.discover()
            self._highest |= {gpu: infos[gpu].max_clock_mhz if gpu in infos else 0 for gpu in gpus}
            self.watch.bounds({gpu: info.min_clock_mhz for gpu, info in infos.items()})

    def keep(self, lease: Lease, now: float) -> None:
        """Set the locks again now and then, and at once where a clock runs above its lock."""
        held = self._found.clocks_mhz
        if not held:
            return
        judged = self.watch.look(self._power, now)
        if judged.yielded:
            _log.error("locked clocks have another writer and are left to it (MHz): %s", dict(judged.yielded))
        if judged.again:
            _log.warning("locked clocks ran free and are locked again (MHz): %s", dict(judged.again))
        again = {gpu: held[gpu] for gpu in judged.again if gpu in held}
        if now - self._asserted_at >= ASSERT_S:
            self._asserted_at, again = now, dict(held)
        if again:
            self._set(self._locker(), again, lease, now)

    def unlock(self, gpus: Collection[GpuId]) -> ClockReceipt:
        """Let go, and forget those that were read back as free."""
        if not gpus:
            return ClockReceipt()
        receipt = self.watch.let_go(self._locker(), gpus)
        done = receipt.clock_mhz.keys() - receipt.failures.keys()
        held = {gpu: mhz for gpu, mhz in self._found.clocks_mhz.items() if gpu not in done}
        if held != self._found.clocks_mhz:
            self._found.clocks_mhz = held
            self._files.keep(self._found)
        return receipt

    def ramp(self, seconds: float, lease: Lease, now: float) -> None:
        """Raise every lock by some steps; a clock that arrives at its highest goes free."""
        if not self._found.clocks_mhz:
            return
        self._bounds(self._found.clocks_mhz)
        raised = {gpu: mhz + max(1, round(RAMP_MHZ_PER_S * seconds)) for gpu, mhz in self._found.clocks_mhz.items()}
        left = self.watch.yielded_mhz
        free = [gpu for gpu, mhz in raised.items() if mhz >= (self._highest.get(gpu) or FREE_MHZ) or gpu in left]
        moving = {gpu: mhz for gpu, mhz in raised.items() if gpu not in free}
        if moving:
            done = self._set(self._locker(), moving, lease, now).clock_mhz.keys()
            self._found.clocks_mhz.update({gpu: mhz for gpu, mhz in moving.items() if gpu in done})
        self.unlock(free)

    def ramp_s(self) -> float:
        """How long the ramp takes from here."""
        held = self._found.clocks_mhz
        if not held:
            return 0.0
        self._bounds(held)
        return max((self._highest.get(gpu) or FREE_MHZ) - mhz for gpu, mhz in held.items()) / RAMP_MHZ_PER_S
