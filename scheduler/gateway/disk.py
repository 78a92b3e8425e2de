"""What becomes of the gateway's work while its disk takes nothing.

Why nothing ends: a record is written before anything that depends on it is said or done, so that what failed changed
nothing, and can be done again with the next turn. Clients are told to come again; what is under way goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from scheduler.store.database import StoreDegraded

log = structlog.get_logger("gridpace.gateway")

DISK_ERRORS = (StoreDegraded, OSError)
AGAIN_S = 5.0
"""Clients whose call could not be kept come again after this, and a file that could not be read is read again."""


class Disk:
    """Whether what must be kept can be. `trouble`: why not, "" while it can."""

    def __init__(self) -> None:
        self.trouble = ""
        self._failed = False

    @contextmanager
    def tries(self) -> Iterator[None]:
        """Try something that is tried again when the disk does not let it be done."""
        try:
            yield
        except* DISK_ERRORS as errors:
            first: BaseException = errors
            while isinstance(first, BaseExceptionGroup):
                first = first.exceptions[0]
            if not self.trouble:
                log.error("gateway.disk_trouble", why=str(first))
            self.trouble, self._failed = str(first) or type(first).__name__, True

    def turned(self) -> None:
        """A turn is over: where nothing failed in it, the trouble is."""
        if self.trouble and not self._failed:
            log.info("gateway.disk_back")
            self.trouble = ""
        self._failed = False
