"""What a pool's real cards are like: the range of limits that orders may have, and what an operator should know.

Why said at the start and by `gridpace check --connect`: a limit that vanishes with the last program, a board that holds
its cards lower than anybody asked, cards that differ in one pool: each looks like a fault of the controller later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from adapters.ports import ClockLocker, GpuId, GpuInfo, PowerActuator
from optimizer.domain import GpuPool
from optimizer.reasons import Note, Reason, Severity
from scheduler.capwatch import DRIFT_W
from scheduler.config import PoolConfig


def bounded(pool: GpuPool, infos: Sequence[GpuInfo]) -> GpuPool:
    """The pool with as many GPUs as answer. Its lowest cap is one that every card takes, since a card that takes only
    more would draw more than ordered; its highest is that of the best card, and the others stay at their own."""
    highest = min(pool.max_cap_w, max(info.max_w for info in infos))
    lowest = max(pool.min_cap_w, *(info.min_w for info in infos))
    return replace(pool, count=len(infos), min_cap_w=min(lowest, highest), max_cap_w=highest)


def card_notes(pool: str, infos: Sequence[GpuInfo], now: datetime) -> list[Note]:
    """What an operator should know of a pool's cards, a sentence for each thing."""
    notes = []
    if lose := sum(not info.persistence for info in infos):
        text = (
            f"{lose} of {len(infos)} GPUs of {pool} run without persistence mode: their limits are lost when the last "
            "program on the card ends; Gridpace keeps the driver open while it runs, and sets them again. Run "
            "`nvidia-smi -pm 1`"
        )
        notes.append(Note(Reason.PERSISTENCE_OFF, pool, text, Severity.WARNING, now))
    if mig := sum(info.mig for info in infos):
        text = f"{mig} GPUs of {pool} are cut into MIG instances: each is capped as a whole card, for all of them"
        notes.append(Note(Reason.MIG_MODE, pool, text, Severity.INFO, now))
    lows, highs = {info.min_w for info in infos}, {info.max_w for info in infos}
    if len(lows) > 1 or len(highs) > 1:
        text = (
            f"GPUs of {pool} differ: their lowest limits go from {min(lows):g} to {max(lows):g} W, their highest from "
            f"{min(highs):g} to {max(highs):g} W; none is ordered below {max(lows):g} W, and each stays inside its own"
        )
        notes.append(Note(Reason.CAP_CLAMPED, pool, text, Severity.INFO, now))
    if held := [info for info in infos if info.enforced_w < info.limit_w - DRIFT_W]:
        text = (
            f"{len(held)} GPUs of {pool} are held at {min(info.enforced_w for info in held):g} W by a board controller "
            f"while the driver says {held[0].limit_w:g} W; the lower of the two always counts"
        )
        notes.append(Note(Reason.BOARD_LIMIT, pool, text, Severity.WARNING, now))
    return notes


def clock_ranges(
    configs: Sequence[PoolConfig],
    gpus: Mapping[str, Sequence[GpuId]],
    found: Mapping[GpuId, GpuInfo],
    power: PowerActuator,
    now: datetime,
) -> tuple[dict[str, tuple[int, int]], tuple[Note, ...]]:
    """Clocks in MHz that all cards of a pool can be locked to, for pools whose config allows it; a note where they
    can't be."""
    ranges, notes = {}, []
    for config in configs:
        if not config.lock_clocks:
            continue
        infos = [found[gpu] for gpu in gpus[config.id]]
        low, high = max(info.min_clock_mhz for info in infos), min(info.max_clock_mhz for info in infos)
        if isinstance(power, ClockLocker) and 0 < low < high:
            ranges[config.id] = (low, high)
        else:
            text = f"{config.id}: the clocks of its GPUs can't be locked here; its limits alone move its power"
            notes.append(Note(Reason.CLOCK_REFUSED, config.id, text, Severity.WARNING, now))
    return ranges, tuple(notes)
