"""GPUs of a simulated hall that sleep: which ones, until when they wake, and what they draw meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from adapters.hall_state import Floats, PoolState

NEVER = np.inf


class HallParking:
    """Parks the last GPUs of a pool. A woken one draws its idle power and takes no work until it is ready."""

    def __init__(self, pools: Sequence[PoolState], start: datetime, lock: threading.RLock) -> None:
        """`lock` is the hall's: nothing changes in the middle of a step."""
        self._lock = lock
        self._pools = {state.pool.id: state for state in pools}
        count = sum(state.pool.count for state in pools)
        self._start = start
        self.asleep: NDArray[np.bool_] = np.zeros(count, dtype=np.bool_)
        """Parked GPUs."""
        self._ready_s: Floats = np.full(count, -NEVER)
        self.parked_w: Floats = np.zeros(count)
        self.woken: dict[str, int] = {state.pool.id: 0 for state in pools if state.pool.parking is not None}
        """GPUs woken since the start, by pool."""
        for state in pools:
            self.parked_w[state.part] = state.pool.parking.parked_w if state.pool.parking is not None else 0.0

    def parked(self, pool: str) -> int:
        """GPUs of a pool that are parked."""
        return int(self.asleep[self._pools[pool].part].sum())

    def park(self, pool: str, gpus: int, now: datetime) -> None:
        """Have the last `gpus` GPUs of a pool parked; others that were wake from now on."""
        state = self._pools[pool]
        if state.pool.parking is None:
            raise ValueError(f"pool {pool} can't park GPUs")
        places = np.arange(state.part.start, state.part.stop)
        wanted = places >= state.part.stop - max(0, min(gpus, state.pool.count))
        woken = self.asleep[places] & ~wanted
        with self._lock:
            self._ready_s[places[woken]] = (now - self._start).total_seconds() + state.pool.parking.wake_s
            self.woken[pool] += int(woken.sum())
            self.asleep[places] = wanted

    def able(self, now: datetime) -> NDArray[np.bool_]:
        """GPUs that can take work at a moment."""
        able: NDArray[np.bool_] = ~self.asleep & (self._ready_s <= (now - self._start).total_seconds() + 1e-6)
        return able

    def next_ready(self, now: datetime, cut: datetime) -> datetime:
        """When the next GPU is ready, at the latest `cut`."""
        second = (now - self._start).total_seconds() + 1e-6
        coming = self._ready_s[(self._ready_s > second) & ~self.asleep]
        return min(cut, self._start + timedelta(seconds=float(coming.min()))) if coming.size else cut
