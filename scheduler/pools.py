"""The pools as they are known now.

Why an object and not a dict: all else about a pool is configured and stays, but its power curve is learned. The slow
loop replaces the model of a pool between two turns, under the state's lock, and everybody who asks sees the new one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from optimizer.domain import GpuPool, PowerCurve


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

    def __getitem__(self, pool: str) -> PoolModel:
        return self._now[pool]

    def __iter__(self) -> Iterator[str]:
        return iter(self._now)

    def __len__(self) -> int:
        return len(self._now)

    def put_curve(self, pool: str, curve: PowerCurve) -> None:
        """Let a pool have another curve from now on; its range of caps stays."""
        model = self._now[pool]
        if model.pool.curve is not curve:
            self._now = self._now | {pool: replace(model, pool=replace(model.pool, curve=curve))}
