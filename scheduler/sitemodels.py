"""What a site has beside a meter and GPUs, as configured: the grid's own peaks.

Why apart from the engine: the loops carry these through; only the problem builder and its helpers look inside.
"""

from __future__ import annotations

from dataclasses import dataclass

from optimizer.coincident import PeakRule


@dataclass(frozen=True)
class CoincidentModel:
    """A charge on the grid's own peak; its probability comes from a signal, or by `rule` from the grid's load."""

    id: str
    price_per_kw: float
    rule: PeakRule
    probability: str | None = None
    system_load: str | None = None
