"""What may turn out otherwise: scenarios, and how a plan weighs them.

Why apart from `domain.py`: a problem without scenarios is planned as ever; both types are absent by default.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

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
    """How scenarios count. Reserve is offered where it can be delivered with probability `reserve_share`, and a billed
    peak is aimed at the level that it stays below with probability `peak_share`. `risk_weight` (0..1) is the weight of
    the mean cost of the worst `risk_tail` (share of probability) beside the mean of all; 0: the mean alone. Risk is
    weighed every `weigh_every_s` of the clock, and what is decided then holds so long; peaks are sized every
    `size_every_s` (0: in every plan), and where reserve is offered, which is sold anew in every interval, in every
    plan."""

    reserve_share: float = 0.95
    peak_share: float = 0.5
    risk_weight: float = 0.0
    risk_tail: float = 0.1
    weigh_every_s: float = 3600.0
    size_every_s: float = 0.0


SAME = 0.02
"""Relative change of a limit or a reserve's price from which on what scenarios decided is decided anew at once: margins
and forecasts move both by less all the time."""


def next_whole(moment: datetime, every_s: float) -> datetime:
    """The next whole `every_s` of the clock after a moment."""
    return moment + timedelta(seconds=every_s - moment.timestamp() % every_s)
