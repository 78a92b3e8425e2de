"""GPU power of a simulated hall: the twin of `nvml.py`, for the demo, backtests and tests.

It obeys like hardware does (ranges, refusals, limits set out of band, GPUs off the bus) and says in every GPU's model
that it is simulated. Leases are the node agent's business, here as on real GPUs: run the agent over this actuator to
have them enforced.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from time import perf_counter

from adapters.hall import SimulatedHall
from adapters.hall_state import MAX_MHZ
from adapters.ports import AdapterError, ClockReceipt, GpuId, GpuInfo, Lease, Receipt
from optimizer.reasons import Note


class SimulatedPower:
    """`PowerActuator` over a `SimulatedHall`."""

    def __init__(self, hall: SimulatedHall) -> None:
        self.hall = hall

    def discover(self) -> Mapping[GpuId, GpuInfo]:
        """Every simulated GPU that is on the bus."""
        return self.hall.infos()

    def apply(self, caps_w: Mapping[GpuId, int], lease: Lease) -> Receipt:
        """Set these limits, each clamped to its GPU's range."""
        return self.release(caps_w)

    def release(self, limits_w: Mapping[GpuId, float]) -> Receipt:
        """Give these limits back."""
        started = perf_counter()
        receipt = self.hall.set_limits(limits_w)
        return Receipt(receipt.enforced_w, receipt.failures, receipt.notes, perf_counter() - started)

    def enforced(self, gpus: Collection[GpuId]) -> Mapping[GpuId, float]:
        """Enforced limit in W of each of these GPUs that is on the bus. AdapterError when none is."""
        limits = self.hall.enforced(gpus)
        if gpus and not limits:
            raise AdapterError(f"the simulated hall: none of {len(gpus)} GPUs is on the bus")
        return limits

    def lock(self, clocks_mhz: Mapping[GpuId, int], lease: Lease) -> ClockReceipt:
        """Hold these SM clocks down."""
        return self.hall.set_clocks(clocks_mhz)

    def unlock(self, gpus: Collection[GpuId]) -> ClockReceipt:
        """Let these SM clocks go free."""
        return self.hall.set_clocks(dict.fromkeys(gpus, MAX_MHZ))

    def clocks(self, gpus: Collection[GpuId]) -> Mapping[GpuId, int]:
        """The SM clocks that run now."""
        return self.hall.clocks(gpus)

    def describe(self) -> Note:
        """Says that nothing here is real."""
        return self.hall.describe()
