"""A content on its way in: written where it will lie, and counted while it comes.

Why no spool: a folder for temporary files is often memory, and nobody's disk should hold what its tenant may not store.
So what comes counts as its tenant's from the first byte on, and is refused at the byte that is too much.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from scheduler.gateway.model import ApiError

PIECE = 1024 * 1024
"""Bytes that are gathered before they are written in a thread."""
FORM_BYTES = 64 * 1024
"""What an upload's form may have around the content that it carries."""


class Incoming:
    """A content of a tenant, `size` bytes so far. `room`: bytes that it may have, of which so many are here. `lock`:
    held while it is decided that some more are. All of it blocks."""

    def __init__(self, path: Path, tenant: str, room: Callable[[int], int], lock: threading.Lock) -> None:
        """Raises OSError."""
        self.path, self.tenant, self.size = path, tenant, 0
        self._room, self._lock = room, lock
        self._file = path.open("xb")

    def expect(self, size: int | None) -> None:
        """Raises ApiError (413) where it will have `size` bytes (None: nobody knows) and may not."""
        if size is not None and size > (most := self._room(0)):
            raise _too_large(most)

    def write(self, data: bytes) -> None:
        """Take some more. Raises ApiError (413), with nothing of it taken, and OSError."""
        with self._lock:
            if self.size + len(data) > (most := self._room(self.size)):
                raise _too_large(most)
            self.size += len(data)
        self._file.write(data)

    def seal(self) -> None:
        """All of it is here: on disk when this returns. Raises OSError."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def discard(self) -> None:
        """Leave nothing of what was not taken over. Again is the same."""
        with suppress(OSError):  # what could not be flushed goes with it
            self._file.close()
        self.path.unlink(missing_ok=True)


def _too_large(most: int) -> ApiError:
    return ApiError(413, f"file: only {most} more bytes may be stored", "file_too_large", "file")
