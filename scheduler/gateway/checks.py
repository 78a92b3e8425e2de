"""Whose new batch is checked next: small inputs pass large ones, and in either lane tenants take turns.

Why lanes: a million lines take half a minute. Checked in order of their coming, one tenant's archive would keep
everybody's ten lines waiting, and checked all at once they would take memory without bound and the loop's time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from enum import StrEnum

LARGE = 8 * 1024 * 1024
"""Bytes from which on an input is large: some hundred milliseconds of checking."""


class Lane(StrEnum):
    """One check is under way in each."""

    SMALL = "small"
    LARGE = "large"


class Checks:
    """Batches that wait for their check. Lives in one event loop."""

    def __init__(self) -> None:
        self._waiting: dict[Lane, dict[str, deque[str]]] = {lane: {} for lane in Lane}
        self._news = {lane: asyncio.Event() for lane in Lane}

    def put(self, name: str, tenant: str, size: int) -> None:
        """A batch with an input of `size` bytes waits."""
        lane = Lane.LARGE if size >= LARGE else Lane.SMALL
        self._waiting[lane].setdefault(tenant, deque()).append(name)
        self._news[lane].set()

    async def next(self, lane: Lane) -> str:
        """The next batch of a lane, once there is one: of the tenant whose turn is longest ago."""
        waiting = self._waiting[lane]
        while not waiting:
            self._news[lane].clear()
            await self._news[lane].wait()
        tenant = next(iter(waiting))
        mine = waiting.pop(tenant)
        name = mine.popleft()
        if mine:
            waiting[tenant] = mine  # behind the others
        return name
