"""Work that takes seconds with thousands of nodes, one piece at a time, beside the loop that asked for it.

Why beside: the fast loop's next order may not wait for the last trajectory of ten thousand.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from adapters.ports import AdapterError

Work = Callable[[], None]


class Errand:
    """One piece of work at a time. `threads` False: it is always done at once, as virtual clocks want it."""

    def __init__(self, threads: bool = False) -> None:
        self.threads = threads
        self.lock = threading.Lock()
        """Held while work is under way; whoever holds it keeps any from beginning."""
        self._failed: AdapterError | None = None

    @property
    def busy(self) -> bool:
        """Whether work is under way."""
        return self.lock.locked()

    def do(self, prepare: Callable[[], Work | None], aside: bool = False, wait: bool = True) -> None:
        """Wait for the work before (`wait` False: leave it, where there is some), prepare (here), and do it; `aside`:
        in a thread of its own. AdapterError of either, but of work aside by the next `check`."""
        if not self.lock.acquire(wait):
            return
        try:
            work = prepare()
            if work is not None and aside and self.threads:
                threading.Thread(target=self._beside, args=(work,), name="errand", daemon=True).start()
                return  # it lets the lock go
            if work is not None:
                work()
        except BaseException:
            self.lock.release()
            raise
        self.lock.release()

    def _beside(self, work: Work) -> None:
        try:
            work()
        except AdapterError as error:
            self._failed = error
        finally:
            self.lock.release()

    def check(self) -> None:
        """Raise what became of work aside that failed, once."""
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed
