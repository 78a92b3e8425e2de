"""A scripted utility: the demand-response twin for the demo, backtests and tests.

Why messages and not events: the script goes through the same ledger as a real utility's message, cancellations, later
versions and repeats included.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from adapters.ports import EventMessage


class SimulatedUtility:
    """Sends each message once, when the injected clock has reached its time."""

    def __init__(self, script: Iterable[tuple[datetime, EventMessage]]) -> None:
        self._script = sorted(script, key=lambda entry: entry[0])
        self._sent = 0

    def poll(self, now: datetime) -> Sequence[EventMessage]:
        """Messages that are due at `now` and were not sent before, in the order of their times."""
        first = self._sent
        while self._sent < len(self._script) and self._script[self._sent][0] <= now:
            self._sent += 1
        return [message for _, message in self._script[first : self._sent]]
