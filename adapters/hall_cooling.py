"""What a simulated site draws beside its IT: cooling and losses, as PUE says they end up, and how long they take.

Why a lag: heat is in the air, the water and the walls before a chiller notices. When IT power falls by a quarter the
meter sees the IT part at once and the cooling's part minutes later, so that PUE, a ratio of settled powers, is wrong
just when an event begins. First order, as in the lumped models of rooms and coils; 95 % of a step after `settle_s`.
"""

from __future__ import annotations

from math import exp


class Overhead:
    """Power beside IT of every site, in kW; without a lag (`settle_s` 0) it is (PUE - 1) x IT power at any moment."""

    def __init__(self, settle_s: float = 0.0) -> None:
        self._tau_s = settle_s / 3.0
        self._kw: dict[str, float] = {}

    def now_kw(self, site: str, pue: float, it_kw: float) -> float:
        """Overhead at this moment, for the IT power and PUE of this moment."""
        settled_kw = (pue - 1.0) * it_kw
        return settled_kw if self._tau_s <= 0 else self._kw.setdefault(site, settled_kw)

    def run_kw(self, site: str, pue: float, it_kw: float, seconds: float) -> float:
        """Mean overhead over a step in which IT draws `it_kw` on average; the lag starts settled."""
        settled_kw = (pue - 1.0) * it_kw
        if self._tau_s <= 0:
            return settled_kw
        gap_kw = self._kw.get(site, settled_kw) - settled_kw
        left = exp(-seconds / self._tau_s)
        self._kw[site] = settled_kw + gap_kw * left
        return settled_kw + gap_kw * (1.0 - left) * self._tau_s / seconds
