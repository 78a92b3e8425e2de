"""One daemon at a time over one state directory.

Why flock and not a pid file: the kernel drops the lock when its holder dies, however it dies, so there is no stale
file to reason about. The pid in the file is only for the message.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from adapters.ports import AdapterError

EXIT_CODE = 3
NAME = "gridpace.lock"


class AlreadyRunning(Exception):
    """Another daemon holds the lock; `pid` is its process (None: it did not say). The command exits with 3."""

    exit_code = EXIT_CODE

    def __init__(self, pid: int | None, path: Path) -> None:
        self.pid = pid
        super().__init__(f"another gridpace is running{f' as process {pid}' if pid else ''}; it holds {path}")


class DaemonLock:
    """Held from construction until `release`; a context manager too. Raises AlreadyRunning, and AdapterError when the
    directory can't be used. On a disk that takes no writes an existing file is locked all the same."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / NAME
        self._descriptor = _opened(self.path)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = self._pid()
            os.close(self._descriptor)
            raise AlreadyRunning(holder, self.path) from None
        with suppress(OSError):  # a full disk must not keep the daemon from its GPUs
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def _pid(self) -> int | None:
        text = os.pread(self._descriptor, 32, 0).strip()
        return int(text) if text.isdigit() else None

    def release(self) -> None:
        """Let the next daemon in; the file stays (removing it would let two in)."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> DaemonLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def runs_in(state_dir: Path) -> bool:
    """Whether somebody holds the lock of a state directory."""
    if not (state_dir / NAME).exists():
        return False
    try:
        DaemonLock(state_dir).release()
    except AlreadyRunning:
        return True
    return False


def _opened(path: Path) -> int:
    """The lock file's descriptor; read-only where the disk is."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        with suppress(OSError):
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        raise AdapterError(f"state_dir: {path.parent} can't be used: {error.strerror or error}") from error
