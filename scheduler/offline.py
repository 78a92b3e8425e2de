"""Everything that the daemon would build, without its hardware and its books: for `check` and `plan`.

Why simulated GPUs: trying a config out must be possible on a laptop and while the daemon runs, and must never write to
a GPU or into the books.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from adapters.ports import Clock
from scheduler.clock import VirtualClock
from scheduler.config import Config, Mode, is_simulated
from scheduler.config.builtin import SimulatedMeterConfig, SimulatedPowerConfig
from scheduler.store.store import Store
from scheduler.wiring import Parts, build, build_clock


def without_hardware(config: Config) -> Config:
    """The same config on simulated GPUs, only observing."""
    changes: dict[str, object] = {"mode": Mode.OBSERVE}
    if not is_simulated(config):
        changes["power"] = SimulatedPowerConfig(type="simulated")
        changes["meters"] = (SimulatedMeterConfig(type="simulated"),)
    return config.model_copy(update=changes)


@contextmanager
def rehearsal(config: Config, at: datetime | None = None) -> Iterator[Parts]:
    """Everything built on simulated GPUs and empty books; `at` sets the clock. Raises what `wiring.build` raises."""
    clock: Clock = VirtualClock(at) if at is not None else build_clock(config)
    parts = build(without_hardware(config), clock, Store.in_memory())
    try:
        yield parts
    finally:
        parts.close()
