"""The pools as they are known now.

Why an object and not a dict: all else about a pool is configured and stays, but its power curve is learned, and some of
its GPUs may belong to another writer for a while. The loops replace the model of a pool between two turns, under the
state's lock, and everybody who asks sees the new one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from statistics import fmean

from optimizer.curves import draw_at_cap, throughput_at_cap
from optimizer.domain import CurvePoint, GpuPool, PowerCurve
from scheduler.levers import Clocked


@dataclass(frozen=True)
class PoolModel:
    """One pool as configured; `load` is a share (0..1) or the id of a signal. `learns`: its curve is corrected by what
    the meters say; `spread` is how far (standard deviation, relative) it may be off at first; `start` says where the
    curve came from, for one that the operator did not name."""

    pool: GpuPool
    load: float | str = 1.0
    learns: bool = True
    spread: float = 0.1
    start: str = ""


class Pools(Mapping[str, PoolModel]):
    """Pool id -> model; `configured` are the models as they were at the start."""

    def __init__(self, models: Mapping[str, PoolModel]) -> None:
        self.configured: Mapping[str, PoolModel] = dict(models)
        self._now = dict(models)
        self._yielded: dict[str, tuple[float, ...]] = {}
        self._away: dict[str, tuple[float, ...]] = {}
        self._clocked: dict[str, Clocked] = {}
        self._mixed: dict[str, PoolModel] = {}

    def __getitem__(self, pool: str) -> PoolModel:
        return self._mixed.get(pool) or self._now[pool]

    def __iter__(self) -> Iterator[str]:
        return iter(self._now)

    def __len__(self) -> int:
        return len(self._now)

    def put_curve(self, pool: str, curve: PowerCurve) -> None:
        """Let a pool have another curve from now on; its range of caps stays."""
        model = self._now[pool]
        if model.pool.curve is not curve:
            self._now = self._now | {pool: replace(model, pool=replace(model.pool, curve=curve))}
            self._mix()

    def put_yielded(
        self, limits_w: Mapping[str, tuple[float, ...]], away_w: Mapping[str, tuple[float, ...]] | None = None
    ) -> None:
        """By pool: limits in W that another writer holds on GPUs which no order of ours moves now; and of GPUs that are
        `away`, which no order lowers, but which a higher one raises when they come back."""
        away = dict(away_w or {})
        if (limits_w, away) != (self._yielded, self._away):
            self._yielded, self._away = dict(limits_w), away
            self._mix()

    def put_clocked(self, clocked: Mapping[str, Clocked]) -> None:
        """Pools that are moved by their SM clocks now, and how these move them."""
        if clocked != self._clocked:
            self._clocked = dict(clocked)
            self._mix()

    def clocked(self, pool: str) -> Clocked | None:
        """How clocks move a pool; None: its limits do."""
        return self._clocked.get(pool)

    def by_limits(self, pool: str) -> PoolModel:
        """A pool as its limits move it, also while its clocks do."""
        return self._now[pool]

    def _mix(self) -> None:
        held, away = self._yielded, self._away
        others = {pool: (held.get(pool, ()), away.get(pool, ())) for pool in (*held, *away)}
        mixed = {pool: with_others(self._now[pool].pool, *limits) for pool, limits in others.items() if any(limits)}
        mixed |= {pool: held.pool(self._now[pool].pool) for pool, held in self._clocked.items()}
        self._mixed = {pool: replace(self._now[pool], pool=shown) for pool, shown in mixed.items()}


def with_others(pool: GpuPool, limits_w: tuple[float, ...], away_w: tuple[float, ...] = ()) -> GpuPool:
    """The pool as it answers an order while some of its GPUs keep limits of another writer: those draw what their
    limits let them, whatever the cap. GPUs that are away count with their limits, and with the cap where that is
    higher: else a cap that rises would look cheap, and be dear in the next second, when they count with it. Throughput
    stays that of a GPU which follows, so that a floor's cap is the same. A pool with nothing left to order about stays
    where it is."""
    others = len(limits_w) + len(away_w)
    if others >= pool.count:
        fixed_w = min(pool.max_cap_w, max(pool.min_cap_w, float(round(fmean(limits_w + away_w)))))
        return replace(pool, min_cap_w=fixed_w, max_cap_w=fixed_w)
    curve, share = pool.curve, 1 - others / pool.count
    away = Counter(away_w)  # thousands of cards, of few limits
    fixed_w = sum(count * draw_at_cap(curve, limit) for limit, count in Counter(limits_w).items())
    first, last = curve.points[0].cap_w, curve.points[-1].cap_w
    caps = sorted({point.cap_w for point in curve.points} | {limit for limit in away if first < limit < last})
    points = []
    for cap in caps:
        others_w = fixed_w + sum(count * draw_at_cap(curve, max(limit, cap)) for limit, count in away.items())
        draw_w = share * draw_at_cap(curve, cap) + others_w / pool.count
        points.append(CurvePoint(cap, draw_w, throughput_at_cap(curve, cap)))
    return replace(pool, curve=replace(curve, points=tuple(points)))
