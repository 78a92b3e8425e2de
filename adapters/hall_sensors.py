"""The power sensors of simulated cards: what a card says that it draws, where that is not what it draws now.

NVIDIA's cards from Ampere on, the A100 excepted, tell the mean of the last second; on an H200 a step in load is whole
after 0.1 s and is told in a straight line over one second (docs/gpu-limits.md).
"""

from __future__ import annotations

from collections import deque

from adapters.hall_state import Floats


class Sensors:
    """Tell the mean draw of the last `window_s` seconds (0: the draw of the moment), a card an entry."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._past: deque[tuple[float, Floats]] = deque()
        self._past_s = 0.0

    def ran(self, seconds: float, joules: Floats) -> None:
        """So many seconds have passed, in which the cards used this energy."""
        if self._window_s <= 0:
            return
        self._past.append((seconds, joules))
        self._past_s += seconds
        while self._past_s - self._past[0][0] >= self._window_s:
            self._past_s -= self._past.popleft()[0]

    def told_w(self, draw_w: Floats) -> Floats:
        """What the cards say that they draw, in W, while they draw `draw_w`. Before the first window has passed the
        mean is of what has; inside a step that began before the window, draw counts as even."""
        if not self._past or self._window_s <= 0:
            return draw_w
        spare_s = max(0.0, self._past_s - self._window_s)
        oldest_s, oldest_j = self._past[0]
        joules: Floats = oldest_j * (1.0 - spare_s / oldest_s) + sum(joules for _, joules in list(self._past)[1:])
        return joules / (self._past_s - spare_s)
