"""What a site has beside GPUs and a plain meter: charges on the grid's own peak.

Why apart from `domain.py`: a site without them is planned as ever; each type here is absent by default.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CoincidentCharge:
    """Money per kW of the site's import in the interval in which the *grid* peaks (4CP, 12CP, 5CP).

    `probability` has an entry an interval of the plan: how much of a coincident peak is expected in it (the probability
    that the peak's metering interval lies in it; less where it is only a part of one). Its cost is an expected one:
    price_per_kw * sum of probability * mean import in kW.
    """

    id: str
    price_per_kw: float
    probability: tuple[float, ...]
