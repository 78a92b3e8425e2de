"""How far a plan stays below a limit, because what the meter shows is never quite what the model says.

Why a quantile of what was seen, and not a fixed share: a hall with chillers that come and go needs more room than one
rack, and neither operator knows the figure. Booked once a cycle: by how much the meter lay above the model.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from optimizer.reasons import Note, Reason, Severity

KEPT = 2016
"""Cycles that count: a week of five minutes."""
LEAST = 24
"""Errors that must have been seen before they say anything."""
SAID_SHARE = 0.01
"""Share of a limit from which on the back-off is worth a word."""


@dataclass
class BaseLoadErrors:
    """By how many kW each site's meter lay above the model, cycle by cycle."""

    _seen: dict[str, deque[float]] = field(default_factory=dict)

    def see(self, bias_kw: dict[str, float], sites: frozenset[str]) -> None:
        """Take in the present errors of the sites that have one."""
        for site in sites & bias_kw.keys():
            self._seen.setdefault(site, deque(maxlen=KEPT)).append(bias_kw[site])

    def margin_kw(self, site: str, share: float) -> float:
        """The error that is not exceeded with probability `share`; never negative, 0 while too little was seen."""
        seen = self._seen.get(site, ())
        return max(0.0, float(np.quantile(list(seen), share))) if len(seen) >= LEAST else 0.0

    def quantiles_kw(self, site: str, count: int) -> NDArray[np.float64] | None:
        """`count` values that stand for the errors seen, lowest first, none below 0; None while too little was seen."""
        seen = self._seen.get(site, ())
        if len(seen) < LEAST:
            return None
        found: NDArray[np.float64] = np.quantile(list(seen), (np.arange(count) + 0.5) / count)
        return np.clip(found, 0.0, None)


def backed_off(
    limits: tuple[float, ...], margin_kw: float, site: str, share: float, now: datetime
) -> tuple[tuple[float, ...], tuple[Note, ...]]:
    """Limits less the margin, and a note where it takes more than a hundredth of the tightest."""
    if margin_kw <= 0:
        return limits, ()
    kept = tuple(max(0.0, limit - margin_kw) for limit in limits)
    if margin_kw <= SAID_SHARE * min(limits):
        return kept, ()
    text = f"{site} is planned {margin_kw:.0f} kW below its limit: in {share:.0%} of cycles the meter was no more above"
    return kept, (Note(Reason.BACK_OFF, site, text + " the model", Severity.INFO, now),)
