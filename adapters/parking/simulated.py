"""The twin of a parking command: GPUs of a simulated hall, which draw less while parked and take their time to wake."""

from __future__ import annotations

from adapters.hall import SimulatedHall
from adapters.ports import AdapterError


class SimulatedParking:
    """`ParkingHook` of one pool of a hall. `broken` makes it fail, as a node does that does not come back."""

    def __init__(self, hall: SimulatedHall, pool: str) -> None:
        self.hall, self.pool, self.broken = hall, pool, False

    def read(self) -> int:
        """GPUs that are parked. Raises AdapterError while it is broken."""
        if self.broken:
            raise AdapterError(f"simulated parking of {self.pool}: no answer")
        return self.hall.parking.parked(self.pool)

    def apply(self, gpus: int) -> None:
        """Park so many, the last ones of the pool."""
        if not self.broken:
            self.hall.advance()
            self.hall.parking.park(self.pool, gpus, self.hall.now)

    def close(self) -> None:
        """Nothing is open."""
