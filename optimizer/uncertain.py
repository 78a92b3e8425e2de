"""What may turn out otherwise: scenarios, and how a plan weighs them.

Why apart from `domain.py`: a problem without scenarios is planned as ever; both types are absent by default.
"""

from __future__ import annotations

from dataclasses import dataclass

Values = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Scenario:
    """One way in which what is not known may turn out, and its probability. Values have an entry an interval for each
    site (price in money per MWh, hard limit in kW, IT load that is not GPUs in kW) or pool (busy share of its GPUs), in
    the problem's own order."""

    probability: float
    price_per_mwh: Values
    limit_kw: Values
    other_it_kw: Values
    load: Values


@dataclass(frozen=True, slots=True)
class Weighing:
    """How scenarios count: reserve is offered where it can be delivered with probability `reserve_share`, and a billed
    peak is aimed at the level that it stays below with probability `peak_share`."""

    reserve_share: float = 0.95
    peak_share: float = 0.5
