"""What people should know at present: the newest wording of each fact, safe to tell from any thread.

Why keyed: a shortfall that lasts an hour is one fact said 3,600 times, and must not push the others out of sight.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from datetime import datetime

from optimizer.reasons import Note, Reason


class Notes:
    """Notes by reason and subject, oldest first; at most `most` of them."""

    def __init__(self, most: int = 200) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._held: dict[tuple[Reason, str], Note] = {}

    def append(self, note: Note) -> None:
        """Say one thing; what was said before of the same reason and subject is replaced."""
        self.extend((note,))

    def extend(self, notes: Iterable[Note]) -> None:
        """Say several things."""
        with self._lock:
            for note in notes:
                self._held.pop((note.code, note.subject), None)
                self._held[note.code, note.subject] = note
            for key in list(self._held)[: -self._most]:
                del self._held[key]

    def withdraw(self, code: Reason, subject: str) -> None:
        """It is so no more."""
        with self._lock:
            self._held.pop((code, subject), None)

    def forget(self, before: datetime) -> None:
        """Drop what was last said before a moment; what has no time stays."""
        with self._lock:
            self._held = {key: note for key, note in self._held.items() if note.at is None or note.at >= before}

    def __iter__(self) -> Iterator[Note]:
        with self._lock:
            return iter(tuple(self._held.values()))

    def __len__(self) -> int:
        return len(self._held)
