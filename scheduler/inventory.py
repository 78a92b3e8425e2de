"""The cards of each pool as they last answered, so that those of a node that is away keep their place.

Why in the books: a daemon that starts while a node is cut off would else plan without its cards, and never order them
about again when they are back: their agent lets them go by its ramp, and the site is above a limit that could be kept.
The config's count says how many a pool should have; cards beyond it are forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from adapters.ports import GpuId, GpuInfo, RecordStore
from scheduler.config import PoolConfig
from scheduler.store.database import StoreDegraded

KIND = "cards"
Cards = Mapping[GpuId, GpuInfo]
_KEPT = ("id", "model", "min_w", "max_w", "default_w", "min_clock_mhz", "max_clock_mhz")


def remembered(records: RecordStore | None) -> dict[str, dict[GpuId, GpuInfo]]:
    """Pool -> cards that answered before; their draw and limits of now are not known. Empty without books, or where
    they can't be read."""
    if records is None:
        return {}
    try:
        held = records.all(KIND)
    except StoreDegraded:
        return {}
    return {pool: {row[0]: _card(row) for row in body["cards"]} for pool, body in held.items()}


def keep(records: RecordStore | None, gpus: Mapping[str, tuple[GpuId, ...]], cards: Cards) -> None:
    """Write down which cards each pool has, where that is news. A disk that says no leaves the last word."""
    if records is None:
        return
    known = remembered(records)
    for pool, ids in gpus.items():
        mine = {gpu: _plain(cards[gpu]) for gpu in ids}
        if {gpu: _plain(card) for gpu, card in known.get(pool, {}).items()} != mine:
            try:
                records.put(KIND, pool, {"cards": list(mine.values())})
            except StoreDegraded:
                return


def absent(config: PoolConfig, answering: int, known: Cards, found: Cards) -> dict[GpuId, GpuInfo]:
    """Cards of a pool that answered before and don't now, as many as the config says are missing."""
    away = [card for gpu, card in known.items() if gpu not in found]
    return {card.id: card for card in away[: max(0, config.count - answering)]}


def _plain(card: GpuInfo) -> list[Any]:
    values = asdict(card)
    return [values[name] for name in _KEPT]


def _card(row: list[Any]) -> GpuInfo:
    told = dict(zip(_KEPT, row, strict=True))
    return GpuInfo(**told, limit_w=told["max_w"], enforced_w=told["max_w"], draw_w=0.0)
