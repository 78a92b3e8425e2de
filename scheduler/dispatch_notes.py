"""The dispatcher's words: GPUs that failed, caps that came back raised, GPUs left to another writer.

Why apart: a thousand GPUs with one fault are one fact, and the sentence names a few of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from adapters.ports import GpuId
from optimizer.reasons import Note, Reason, Severity

NAMED = 3
"""GPUs that a sentence names; the others are counted."""


@dataclass(frozen=True)
class Dispatched:
    """What one dispatch did: pools written, notes about GPUs that did not follow, seconds it took."""

    pools: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()
    seconds: float = 0.0


def disagreements(count: int, failures: Mapping[GpuId, Reason], now: datetime) -> tuple[Note, ...]:
    """One note per reason for orders that did not take."""
    by_reason: dict[Reason, list[GpuId]] = {}
    for gpu, reason in failures.items():
        by_reason.setdefault(reason, []).append(gpu)
    return tuple(
        Note(reason, gpus[0], f"{len(gpus)} of {count} GPUs: {reason} ({_some(gpus)})", Severity.ALERT, now)
        for reason, gpus in by_reason.items()
    )


def raised_notes(
    pools: Mapping[str, Sequence[GpuId]],
    wanted_w: Mapping[GpuId, float],
    again: Mapping[GpuId, float],
    now: datetime,
) -> tuple[Note, ...]:
    """A note for each pool with caps that came back raised."""
    notes = []
    for pool, gpus in _by_pool(pools, again).items():
        first = gpus[0]
        text = (
            f"{len(gpus)} GPUs of {pool} are not at the {wanted_w[first]:.0f} W ordered "
            f"({first} is at {again[first]:.0f} W); written again"
        )
        notes.append(Note(Reason.CAP_DRIFT, pool, text, Severity.WARNING, now))
    return tuple(notes)


def yielded_notes(
    pools: Mapping[str, Sequence[GpuId]],
    limits_w: Mapping[GpuId, float],
    ignoring: Collection[GpuId],
    now: datetime,
) -> tuple[Note, ...]:
    """An alert for each pool with GPUs that belong to another writer for the time being, or that ignore their caps."""
    return tuple(
        Note(Reason.CAP_YIELDED, pool, yielded_text(pool, gpus, limits_w, ignoring), Severity.ALERT, now)
        for pool, gpus in _by_pool(pools, limits_w).items()
    )


def yielded_text(
    pool: str, gpus: Sequence[GpuId], limits_w: Mapping[GpuId, float], ignoring: Collection[GpuId] = ()
) -> str:
    """What a person should know and do."""
    deaf = [gpu for gpu in gpus if gpu in ignoring]
    others = [gpu for gpu in gpus if gpu not in ignoring]
    said = ([_contested(pool, others, limits_w)] if others else []) + ([_deaf(pool, deaf, limits_w)] if deaf else [])
    return ". ".join(said)


def _deaf(pool: str, gpus: Sequence[GpuId], limits_w: Mapping[GpuId, float]) -> str:
    return (
        f"{len(gpus)} GPUs of {pool} ({_some(gpus)}) take their caps and ignore them: read back right after each, they "
        f"had not moved (now {max(limits_w[gpu] for gpu in gpus):.0f} W). They are counted as what they draw. See to "
        "card or controller, then `gridpace resume` caps them at once; otherwise they are tried after a quiet time"
    )


def _contested(pool: str, gpus: Sequence[GpuId], limits_w: Mapping[GpuId, float]) -> str:
    return (
        f"{len(gpus)} GPUs of {pool} ({_some(gpus)}) have another writer: their caps came back raised again and again "
        f"(now {max(limits_w[gpu] for gpu in gpus):.0f} W). They are left to it and counted as what they draw. Stop "
        "that writer, then `gridpace resume` takes them back at once; otherwise a quiet time does"
    )


def not_returned(missing: Sequence[GpuId], count: int, now: datetime) -> tuple[Note, ...]:
    """An alert where limits were not given back."""
    if not missing:
        return ()
    text = f"{len(missing)} of {count} GPUs did not take their limit back ({_some(missing)}); kept, and tried again"
    return (Note(Reason.CAP_REFUSED, "power", text, Severity.ALERT, now),)


def _by_pool(pools: Mapping[str, Sequence[GpuId]], chosen: Collection[GpuId]) -> dict[str, list[GpuId]]:
    found = {pool: [gpu for gpu in gpus if gpu in chosen] for pool, gpus in pools.items()} if chosen else {}
    return {pool: gpus for pool, gpus in found.items() if gpus}


def _some(gpus: Sequence[GpuId]) -> str:
    return f"{', '.join(gpus[:NAMED])}{', …' if len(gpus) > NAMED else ''}"
