"""What the product's forecast expects of a market's days, each learned once, for the case of known and of late prices.

Case "known" at one interval is case "lagged" at the next: what follows the same known prices is made only once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from benchmarks.support.ceiling import Chain, chain_of
from benchmarks.support.market import Days, Market
from optimizer.facts import Floats
from optimizer.forecast import PRICE, Outlook, forecast_on_grid
from optimizer.forecast_learned import TAIL_DAYS, Fan, Learned, Recall, learn_signal
from optimizer.timegrid import TimeGrid

HISTORY_DAYS = 60


@dataclass
class Expecting:
    """Forecasts by the product, for days one after the other; what was learned of the present day is kept."""

    market: Market
    _day: tuple[int, int] = (0, 0)
    _learned: Learned | None = None
    _made: dict[int, Floats] = field(default_factory=dict)

    def after(self, known: int, last: int) -> Floats:
        """What a plan reckons with in [known, last), the rest of a day, when all before `known` is known."""
        self._enter(last)
        if known not in self._made:
            fan = self._fan(known, last)
            self._made[known] = self._plain(known, last) if fan is None else fan.reckoned(PRICE.tail)
        return self._made[known]

    def chain(self, first: int, last: int) -> Chain | None:
        """A day as its forecast at midnight believes that it may come; None where no errors had been learned."""
        self._enter(last)
        fan = self._fan(first, last)
        return None if fan is None or self._learned is None else chain_of(
            self._learned, np.arcsinh(fan.middle / fan.scale))  # fmt: skip

    def chains(self, days: Days) -> Iterator[Chain]:
        """Of those days that have one."""
        return (chain for day in days if (chain := self.chain(*day)) is not None)

    def __post_init__(self) -> None:
        self._ends = {last: (first, last) for first, last in self.market.days()}

    def _enter(self, last: int) -> None:
        """Learn until the midnight that began the day which ends at `last`."""
        if self._day == self._ends[last]:
            return
        made, (first, _) = self.market, self._ends[last]
        begin = max(0, first - HISTORY_DAYS * round(24 / made.hours))
        ahead = made.series(made.day_ahead, begin, last, "day_ahead") if made.day_ahead is not None else None
        self._day, self._made = self._ends[last], {}
        self._learned = None if first == 0 else learn_signal(
            made.series(made.price, begin, first), ahead, made.starts[first], made.starts[last - 1] + made.step,
            Recall(made.zone, HISTORY_DAYS),
        )  # fmt: skip

    def _fan(self, known: int, last: int) -> Fan | None:
        """What may come in [known, last); None while there is too little to learn from."""
        made, learned = self.market, self._learned
        if learned is None:
            return None
        offset, tail = learned.midnight - self._day[0], TAIL_DAYS * round(24 / made.hours)
        return learned.fan(made.price[max(0, known - tail) : known], known + offset, last + offset)

    def _plain(self, known: int, last: int) -> Floats:
        """The forecast of the first days, while there is too little to learn from."""
        made, begin = self.market, max(0, known - 14 * round(24 / self.market.hours))
        if known == 0:
            return made.day_ahead[:last] if made.day_ahead is not None else np.zeros(last)
        ahead = made.series(made.day_ahead, begin, last, "day_ahead") if made.day_ahead is not None else None
        grid = TimeGrid((*made.starts[known:last], made.starts[last - 1] + made.step))
        values, _ = forecast_on_grid(made.series(made.price, begin, known), grid, Outlook(made.zone), reference=ahead)
        return np.array(values)
