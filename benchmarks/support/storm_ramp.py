"""Whether a site of a storm rose faster than its ramp allows because caps were released.

Two measures, and the smaller counts: what the site drew more at its connection than in some second of the last minute,
and what the cards that are busy now may draw more under their limits of now than under those of then. So load that
comes, a job that begins and a machine that boots are no fault, nor are caps that rise where cards draw less. Left out
are cards that were away meanwhile, or that others write to, and the way back to a floor, which is given at once. No
rise is counted from a second in which something broke: another program's limits are put right by the agents in the very
second in which the loop sheds their power elsewhere, and what both took is given back in the next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from adapters.ports import GpuId, GpuInfo
from optimizer.domain import GpuPool

MINUTE_S = 60
TOLERANCE = 0.05
"""Share of what a site draws by which it may be above its ramp: the loops aim by curves and a meter with noise, and
what they kept free for that they may give back at once. (A step of all cards is several times that.)"""


@dataclass(frozen=True)
class Seen:
    """One second: import in kW (inf: nothing is compared with it), and the limit in W of every card that was there."""

    import_kw: float
    limits_w: Mapping[GpuId, float]


class RampWatch:
    """The last minute of a site, second by second."""

    def __init__(
        self, up_kw: float, pue: float, pool_of: Mapping[GpuId, GpuPool], floors_w: Mapping[str, float]
    ) -> None:
        """`up_kw`: what the site may rise in a minute; `floors_w`: lowest cap of each pool that has a floor."""
        self._up_kw, self._pue, self._pool_of, self._floors_w = up_kw, pue, pool_of, floors_w
        self._seen: deque[Seen] = deque(maxlen=MINUTE_S)

    def risen_kw(self, import_kw: float, infos: Mapping[GpuId, GpuInfo], left_out: Collection[GpuId]) -> float:
        """By how much more than it may the site has risen through caps, since any second of the last minute; 0 when it
        has not."""
        over_kw = 0.0
        for ago, then in enumerate(reversed(self._seen), 1):
            allowed_kw = self._up_kw * ago / MINUTE_S + TOLERANCE * import_kw
            if import_kw - then.import_kw > allowed_kw:
                rise_kw = min(import_kw - then.import_kw, self._released_kw(then, infos, left_out))
                over_kw = max(over_kw, rise_kw - allowed_kw)
        return over_kw

    def see(self, import_kw: float, infos: Mapping[GpuId, GpuInfo], broken: bool = False) -> None:
        """Take in the second that was judged; `broken`: something broke in it or just before."""
        self._seen.append(
            Seen(float("inf") if broken else import_kw, {gpu: info.limit_w for gpu, info in infos.items()})
        )

    def _released_kw(self, then: Seen, infos: Mapping[GpuId, GpuInfo], left_out: Collection[GpuId]) -> float:
        """What busy cards may draw more than under the limits of then."""
        away = {gpu for one in self._seen for gpu in self._pool_of if gpu not in one.limits_w}
        watts = 0.0
        for gpu, info in infos.items():
            if gpu not in left_out and gpu not in away:
                pool = self._pool_of[gpu]
                was_w = max(then.limits_w[gpu], min(self._floors_w.get(pool.id, 0.0), info.limit_w))
                caps, draws = zip(*((point.cap_w, point.draw_w) for point in pool.curve.points), strict=True)
                before_w, after_w = np.interp([was_w, info.limit_w], caps, draws)
                watts += (info.utilisation or 0.0) * float(after_w - before_w)
        return watts / 1000.0 * self._pue
