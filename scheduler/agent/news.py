"""What of a node's state is worth a message: ten thousand nodes that repeat themselves would drown the daemon."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

from adapters.ports import GpuId, GpuInfo

SAME_SHARE, SAME_W = 0.005, 2.0
"""A node's draw that changed by less than both, and nothing else with it, is no news."""

QUIET_S = 4.0
"""Even without news a node tells its state this often: one that is silent for longer counts as lost."""


class News:
    """Remembers what was told last."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._told: tuple[Any, ...] | None = None
        self._draw_w, self._at = 0.0, 0.0

    def worth(self, infos: Mapping[GpuId, GpuInfo], status: Mapping[str, Any]) -> bool:
        """Whether to tell this state now; if so, it is what was told last."""
        now, draw_w = self._clock(), sum(info.draw_w for info in infos.values())
        rest = {name: value for name, value in status.items() if name != "lease_left_s"}
        facts = (rest, {gpu: info.enforced_w for gpu, info in infos.items()})
        same_draw = abs(draw_w - self._draw_w) < max(SAME_W, SAME_SHARE * self._draw_w)
        if facts == self._told and same_draw and now - self._at < QUIET_S:
            return False
        self._told, self._draw_w, self._at = facts, draw_w, now
        return True
