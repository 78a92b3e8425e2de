"""What is known of the GPUs of a pool that sleep.

Why apart from who orders it: the state of the loops holds it, and readings are corrected by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from optimizer.domain import GpuPool


@dataclass
class ParkedState:
    """GPUs of a pool that were ordered to sleep, that sleep as far as is known, and that wake (how many, until when).

    `ordered` is what is on disk; `asleep` the larger of it and of what the hook says."""

    ordered: int = 0
    asleep: int = 0
    waking: list[tuple[int, datetime]] = field(default_factory=list)

    def waking_gpus(self, now: datetime) -> int:
        """GPUs that were woken and can't work yet."""
        return sum(gpus for gpus, ready in self.waking if ready > now)

    def wake_left_s(self, now: datetime) -> float:
        """Seconds until all of them can."""
        return max(((ready - now).total_seconds() for _, ready in self.waking if ready > now), default=0.0)


def asleep_kw(parked: Mapping[str, ParkedState], pool: GpuPool) -> float:
    """What parked GPUs of a pool draw less than idle ones, in kW."""
    if pool.parking is None or pool.id not in parked:
        return 0.0
    return parked[pool.id].asleep * max(0.0, pool.curve.idle_w - pool.parking.parked_w) / 1000.0
