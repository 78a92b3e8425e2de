"""Flex tiers: how much slower than at full power a job may be, averaged over its life.

The field's names: Flex 0 tolerates no reduction, Flex 1, 2 and 3 tolerate 10, 25 and 50 % (the tiers of the field
trial in Phoenix, arXiv:2507.00909). A job of `runtime` at full power that may be slower by a share r is done after
runtime / (1 - r) at the latest; what that leaves beyond its own running is the time that it may stand still.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from optimizer.flex import TOLERATED

OVERTIME = timedelta(minutes=15)
"""Work that a job is taken to have left when it has run for all that its owner said: it is not done, as one sees."""


def tier_of(text: str) -> int:
    """0 to 3. ValueError otherwise."""
    if text not in {str(tier) for tier in range(len(TOLERATED))}:
        raise ValueError(f"tier={text}: write 0, 1, 2 or 3")
    return int(text)


def latest_end(start: datetime, runtime: timedelta, tier: int) -> datetime:
    """When a job that began at `start` must be done, so that its tier is kept."""
    return start + runtime / (1 - TOLERATED[tier])


def standstill_left(tier: int, runtime: timedelta, elapsed: timedelta, ran: timedelta) -> timedelta:
    """How long a job that began `elapsed` ago and has `ran` of its `runtime` behind it may still stand still; below
    zero where its tier is broken already."""
    return runtime / (1 - TOLERATED[tier]) - elapsed - max(timedelta(), runtime - ran)


def work_h(said: timedelta, ran: timedelta, tier: int | None) -> tuple[float, float]:
    """Hours that a job works in all, and that are done, which has `ran` and is not done, where its owner `said` so
    long. One that outlives that has some left: with all of it done it would be given nothing more, and stand still for
    ever. With a tier hours are told as they are: who knows how much it was slowed down sees to that."""
    hour = timedelta(hours=1)
    if tier is None and ran >= said:
        return (ran + OVERTIME) / hour, ran / hour
    return said / hour, ran / hour
