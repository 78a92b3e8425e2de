"""How far below a cap the fast loop stays: as far as loads have surprised it lately.

Why learned: a second passes between an order and the next reading. A hall of training that draws the same power for
hours needs no room for that, one full of users who come in bursts does, and no operator knows the figure.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

SURGE = 2.0
"""A surge of power counts so many times: once because the smoothed load lags behind a burst by about that much, once
because the burst goes on."""

USUAL_TICKS = 10
"""What the meter shows above the model for so long is no surge."""

STEP, MOST_MARGIN = 0.02, 0.01
SURPRISE_TICKS, SPARE = 600, 1.2
"""Changes of power in a tick that are steps; the largest margin, as a share; how many ticks are remembered, and how
much worse than the worst of them is allowed for."""


@dataclass
class Surprises:
    """By how much the meter came to lie above what the orders aimed at, second by second, in the last minutes. Steps of
    power are left out: what a curve is off by on a long way is no restlessness of the load."""

    aimed_kw: float | None = None
    _beyond: deque[float] = field(default_factory=lambda: deque(maxlen=USUAL_TICKS))
    _seen: deque[float] = field(default_factory=lambda: deque(maxlen=SURPRISE_TICKS))

    def see(self, drawn_kw: float | None) -> None:
        """Take in what the orders of the last tick came to."""
        if drawn_kw is not None and self.aimed_kw is not None:
            self._seen.append(drawn_kw - self.aimed_kw)

    def surge_kw(self, drawn_kw: float | None, modelled_kw: float) -> float:
        """What to allow for above the model in the next tick, when the meter shows more than the smoothed loads can
        explain. The site's meter says so, because a pool's reading may be nonsense."""
        if drawn_kw is None:
            return 0.0
        self._beyond.append(drawn_kw - modelled_kw)
        return SURGE * (self._beyond[-1] - max(0.0, min(self._beyond))) if self._beyond[-1] > 0 else 0.0

    def aim(self, most_kw: float, ordered_kw: float, drawn_kw: float | None) -> None:
        """What this tick's orders must not exceed, and what they should come to, from what is drawn now."""
        near = drawn_kw is not None and abs(ordered_kw - drawn_kw) < STEP * drawn_kw
        self.aimed_kw = most_kw if near else None

    def margin_kw(self, cap_kw: float, least: float) -> float:
        """How far to stay below a cap: a little more than the worst of these was, at least the share `least` of it and
        at most MOST_MARGIN."""
        return min(max(least, MOST_MARGIN) * cap_kw, max(least * cap_kw, SPARE * max(self._seen, default=0.0)))
