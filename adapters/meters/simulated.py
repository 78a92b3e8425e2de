"""The meters of a simulated hall: power and energy per pool, import per site.

The site meter is true; GPU sensors carry the noise and the losses that the hall was told to have.
"""

from __future__ import annotations

from collections.abc import Mapping

from adapters.hall import SimulatedHall
from adapters.ports import AdapterError, GpuId, Reading
from optimizer.reasons import Note


class SimulatedMeter:
    """`Meter` over a `SimulatedHall`."""

    def __init__(self, hall: SimulatedHall) -> None:
        self.hall = hall

    def read(self) -> Reading:
        """One reading of the clock's present; AdapterError when every part of it is lost."""
        reading = self.hall.reading()
        if not reading.pool_kw and not reading.import_kw:
            raise AdapterError(f"simulated hall: no meter answered at {reading.at.isoformat()}")
        return reading

    def cards(self) -> Mapping[GpuId, float]:
        """Draw in W of each card on the bus, as its sensor tells it."""
        now = self.hall.columns()
        rows = zip(self.hall.pool_of, now.draw_w.tolist(), now.live.tolist(), strict=True)
        return {gpu: draw_w for gpu, draw_w, live in rows if live}

    def describe(self) -> Note:
        """Says that nothing here is real."""
        return self.hall.describe()
