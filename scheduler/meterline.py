"""From IT power to what the site's meter will show in the next second, and back.

Why not PUE alone: PUE is a ratio of settled powers. When IT falls by a quarter the meter loses the IT part at once and
the cooling's part minutes later, so that who sheds through PUE is over the limit just after every step. What lies
between IT and meter is measured every second; how much of it follows IT at once is learned from the steps that happen.
Until that is known a fall counts as if nothing followed, a rise as if everything did.
"""

from __future__ import annotations

from dataclasses import dataclass

SMOOTHING = 0.3
STEP_SHARE = 0.015
"""A change of IT power within one reading that is large enough to learn from."""

SENSE = 0.5
"""Shares further than this outside 0..1 come from readings that are nonsense."""

SURE, FORGET, LEAST_ERROR = 2.0, 0.95, 0.05
"""Standard errors that are allowed for; what a step still counts when the next one comes; least standard error."""


class Overhead:
    """What the meter shows beside IT, and the share of its settled change that follows IT within one reading."""

    def __init__(self) -> None:
        self.it_kw = self.kw = 0.0
        self.fresh = self.known = False
        self._last: tuple[float, float] | None = None
        self._guessed: frozenset[str] = frozenset()
        self._noise = 0.0
        self._weight = self._sum = 0.0

    def see(
        self,
        it_kw: float,
        kw: float,
        settled_kw: float,
        pue: float,
        bound_kw: float,
        guessed: frozenset[str] = frozenset(),
    ) -> None:
        """Take in one reading: IT power, what lies between it and the meter, and what PUE says would; no further from
        that than `bound_kw`, so that a broken meter can't run away with the site. `guessed`: pools that nobody
        measured. What they should draw is in `it_kw`, and what that is off by in `kw`: nothing is learned from it, and
        no part of it stays when they are measured again."""
        same = guessed == self._guessed
        if self._last is not None and same and not guessed:
            self._learn(it_kw, (pue - 1.0) * (it_kw - self._last[0]), kw - self._last[1])
        self._last, self._guessed = (it_kw, kw), guessed
        kw = settled_kw + max(-bound_kw, min(bound_kw, kw - settled_kw))
        taken = SMOOTHING if self.fresh and same else 1.0
        self.it_kw += taken * (it_kw - self.it_kw)
        self.kw += taken * (kw - self.kw)
        self.fresh = self.known = True

    def lose(self) -> None:
        """There is no reading; what was seen last stands, and counts as if cooling had not followed since."""
        self.fresh, self._last = False, None

    def _learn(self, it_kw: float, settled_kw: float, moved_kw: float) -> None:
        """Linear regression through the origin over the steps; between them the noise is measured."""
        last_kw = self._last[0] if self._last is not None else it_kw
        if abs(it_kw - last_kw) < STEP_SHARE * it_kw or settled_kw == 0.0:
            self._noise += 0.05 * (moved_kw**2 - self._noise)
        elif -SENSE < moved_kw / settled_kw < 1.0 + SENSE:
            weight = settled_kw**2 / (self._noise + (LEAST_ERROR * settled_kw) ** 2)
            self._weight = FORGET * self._weight + weight
            self._sum = FORGET * self._sum + weight * moved_kw / settled_kw

    @property
    def shares(self) -> tuple[float, float]:
        """Least and largest share that follows at once, as far as it is known."""
        if self._weight <= 0:
            return 0.0, 1.0
        mean, error = self._sum / self._weight, SURE * max(LEAST_ERROR, self._weight**-0.5)
        return max(0.0, min(1.0, mean - error)), min(1.0, max(0.0, mean + error))


@dataclass(frozen=True, slots=True)
class MeterLine:
    """Import over IT power: two straight lines through the present (`it_kw`, `import_kw`), for less and for more."""

    it_kw: float
    import_kw: float
    falling: float
    rising: float

    def import_of(self, it_kw: float) -> float:
        """Import in kW that an IT power will show."""
        moved = it_kw - self.it_kw
        return self.import_kw + moved * (self.rising if moved > 0 else self.falling)

    def it_of(self, import_kw: float) -> float:
        """IT power in kW that shows as an import."""
        moved = import_kw - self.import_kw
        return self.it_kw + moved / (self.rising if moved > 0 else self.falling)
