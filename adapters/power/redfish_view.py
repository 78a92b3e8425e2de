"""A card's limit and range as its controller tells them, and limits as plain numbers, the one that is switched off too.

Why marks: books, lease files and agents keep numbers, for weeks and over restarts, while a controller's range and the
config move. So a number must say by itself whether a limit was on or off. It does so by a fraction of a watt that no
limit has, and lies a watt above the range like any high limit, so that ramps, clamps and sums stay what they are.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import floor

from adapters.power.orders import SAME_W, CardError, inside
from optimizer.reasons import Reason

OFF, ON = 2.0**-10, 2.0**-11
"""What is added, in W, to a number that means "switched off", and to a limit that is on where one may take it for that.
Binary fractions, so that every book keeps them exactly."""

DECIMALS = 3
"""To so many decimals limits are told, which the marks are none of."""


@dataclass(frozen=True, slots=True)
class Rated:
    """The range that the config names; also the controller's own, as far as it tells one."""

    min_w: float | None
    max_w: float | None


@dataclass(frozen=True, slots=True)
class View:
    """A card as its controller tells it; `limit_w` is None while the limit is switched off."""

    place: str
    own: Rated
    rated: Rated
    default_w: float | None
    limit_w: float | None
    draw_w: float

    def range(self) -> tuple[float, float]:
        """What may be ordered: the narrower of what the controller and the config name. Raises CardError."""
        lows = [low for low in (self.own.min_w, self.rated.min_w) if low is not None]
        highs = self._highs()
        if not lows or not highs or max(lows) > min(highs):
            raise CardError(f"{self.place}: tells no range of limits; set `min_w` and `max_w`", Reason.CAP_REFUSED)
        return max(lows), min(highs)

    def ordered(self, watts: float) -> float:
        """What an order becomes. Raises CardError."""
        return inside(watts, *self.range())

    def restored(self, found_w: float, seen_on: Collection[float]) -> float | None:
        """What giving back the limit found becomes: none where it was off; else itself, inside the controller's own
        range of now. The config bounds our orders, not what was there before them. `seen_on`: limits that were on."""
        if found_w % 1.0 == OFF or (found_w not in seen_on and found_w in self._once_off()):
            return None
        found_w = plain(found_w)
        return found_w if same(self.limit_w, found_w) else inside(found_w, self.own.min_w, self.own.max_w)

    def told(self) -> float:
        """The limit as a number for books, by which `restored` knows it again whatever moved meanwhile."""
        if self.limit_w is None:
            return self.off_w
        limit_w = plain(self.limit_w)
        return limit_w + ON if limit_w in self._once_off() else limit_w

    @property
    def off_w(self) -> float:
        """The number of a limit that is switched off: above the range, and above the limit that is in force."""
        return floor(max(min(self._highs(), default=0.0), self.limit_w or 0.0)) + 1.0 + OFF

    def _once_off(self) -> list[float]:
        """Numbers that mean "off" in books of before, without a mark: a watt above the range."""
        return [high + 1.0 for high in self._highs()]

    def _highs(self) -> list[float]:
        return [high for high in (self.own.max_w, self.rated.max_w) if high is not None]


def plain(watts: float) -> float:
    """A limit without marks."""
    return round(watts, DECIMALS)


def same(one: float | None, other: float | None) -> bool:
    """Whether two limits are one; None: off."""
    return one is other or (one is not None and other is not None and abs(one - other) < SAME_W / 1000)
