"""Why a daemon that could not take the lead up does not reach for it again at once.

Books that open for following and not for leading (another process holds the file, the disk is full) would be tried
twice a second, each time under a new epoch, while whoever stands by with good books hardly gets a chance.
"""

from __future__ import annotations

from collections.abc import Callable

from scheduler.boottime import boottime

FIRST_S, LONGEST_S = 1.0, 30.0
"""The first pause, and the longest: each is twice as long as the one before."""


class Pause:
    """After leads that could not be taken up. `clock` tells seconds that only go forward."""

    def __init__(self, clock: Callable[[], float] = boottime) -> None:
        self._clock = clock
        self._until = float("-inf")
        self._next_s = FIRST_S
        self._why = ""

    def begin(self, why: str, *, grows: bool = True) -> None:
        """One more lead could not be taken up: wait, longer than the last time where that `grows`. Where the bus was
        too slow it does not: nobody leads meanwhile, and the next moment may be better."""
        self._until, self._why = self._clock() + (self._next_s if grows else FIRST_S), why
        self._next_s = min(LONGEST_S, 2.0 * self._next_s) if grows else self._next_s

    def end(self) -> None:
        """A lead was taken up: the next pause is a first one again."""
        self._until, self._next_s, self._why = float("-inf"), FIRST_S, ""

    @property
    def left_s(self) -> float:
        """Seconds until the lead is reached for again; 0 where it is now."""
        return max(0.0, self._until - self._clock())

    @property
    def trouble(self) -> str:
        """What keeps this daemon from leading now; "" where nothing does."""
        left_s = self.left_s
        return f"the lead could not be taken up ({self._why}); tried again in {left_s:.0f} s" if left_s > 0 else ""
