"""NVML as this process has it open, by all its sessions together.

Why together: NVML counts how often it was opened, and closes only when it was shut down as often. Until then nothing
opens it anew, and after the driver was loaded again every call of this process would go to the driver that is gone. So
who sees that lets go for all sessions, and each opens NVML again when it next needs it. The count is documented with
`nvmlInit_v2` and `nvmlShutdown`: https://docs.nvidia.com/deploy/nvml-api/group__nvmlInitializationAndCleanup.html.
"""

from __future__ import annotations

import threading
from contextlib import suppress

import pynvml


class Library:
    """How often NVML is open, and since when. Its calls may take as long as the driver likes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held = 0
        self.age = 0
        """The same number until NVML was let go for all: who was given another one has handles of no use."""

    def open(self) -> int:
        """Open NVML once more; the present age. Raises what NVML says."""
        with self._lock:
            pynvml.nvmlInit()
            self._held += 1
            return self.age

    def let_go(self, age: int) -> None:
        """The driver that was opened at this age is gone: shut NVML down for everybody, once."""
        with self._lock:
            if age != self.age:
                return
            self.age += 1
            held, self._held = self._held, 0
            for _ in range(held):
                _shut_down()

    def close(self, age: int) -> None:
        """Shut down what was opened at this age, unless that was done for all."""
        with self._lock:
            if age == self.age and self._held:
                self._held -= 1
                _shut_down()


def _shut_down() -> None:
    with suppress(pynvml.NVMLError):  # a driver that is gone may have forgotten that it was open
        pynvml.nvmlShutdown()


NVML = Library()
"""The only one: NVML counts by process."""
