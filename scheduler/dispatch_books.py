"""What the dispatcher writes down, as it sees the store: whoever keeps these promises can be its books."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol


class Books(Protocol):
    """What the dispatcher writes down (a part of scheduler.store.Store)."""

    def remember_first_limits(self, limits: Mapping[str, tuple[float, str]], now: datetime) -> None:
        """Keep the limit in W and the model of each GPU, unless one is kept already; on disk when it returns."""
        ...

    def first_limits(self) -> dict[str, float]:
        """The limits to restore, in W."""
        ...

    def forget_first_limits(self, ids: Sequence[str]) -> None:
        """These GPUs have their limit back."""
        ...

    def journal_intent(self, orders: Mapping[str, Any]) -> int:
        """Write down what is about to be done; on disk when it returns."""
        ...

    def journal_result(self, intent: int, result: Mapping[str, Any]) -> None:
        """Write down what became of it."""
        ...
