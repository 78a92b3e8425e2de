"""PUE from the outside temperature: what the meter sees for every kW of IT power.

The model is a straight line above a reference temperature, clamped: pue = base + per_degree * max(0, T - reference),
at most `maximum`. PUE is always modelled here, never measured; a site meter, where there is one, corrects it in the
fast loop.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PueModel:
    """Coefficients of the line; degrees in Celsius."""

    base: float = 1.2
    per_degree: float = 0.0
    reference_c: float = 18.0
    maximum: float = 2.0

    def at(self, temperature_c: float | None) -> float:
        """PUE at a temperature; unknown weather counts as the hottest case, so that a limit is never missed by it."""
        if temperature_c is None:
            return self.maximum if self.per_degree > 0 else self.base
        return min(self.maximum, self.base + self.per_degree * max(0.0, temperature_c - self.reference_c))
