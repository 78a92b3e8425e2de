"""Rules of thumb as choosers for a market year, each held to the planner of the same name that Gridpace ships.

Why by arithmetic: a year has 35,000 quarter-hours, and for one job without other limits every rule's present share is
known at once. Now and then the planner itself is asked, and must say the same. Perfect foresight is not among them: it
is what every share is a share of.

This site has one pool without a limit, and no event. So rules that differ in who gives way have nothing to differ in:
one cap for all and both tiered rules run work as it comes, as who does nothing. Their planners are asked once a day,
and what they plan is lived.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

import numpy as np

from benchmarks.support.controllers import first_step, problem
from benchmarks.support.market import DUTY, MOST_KW, Chooser, Market
from optimizer.facts import Floats
from optimizer.rivals import RIVALS
from optimizer.rivals.rule import corrected, share_now

WITHOUT_PRICES = ("do_nothing", "uniform_cap", "fair_tiered", "greedy_tiered")
"""Rules that look at no price: what they plan at midnight is what they do."""

Prices = Callable[[int, int], Floats]
"""Prices of intervals [index, last) as they are seen at `index`."""


def rivals(made: Market, lagged: bool, forecast: Prices) -> dict[str, Chooser]:
    """Rules by name, from the simplest on. Those with an eye on prices see what is public without a model: prices of
    the day before, corrected by the last error (`order_of_expected`: as they are). `greedy` is a rung of the ladder,
    and gets what the plan gets: the product's own `forecast`."""
    expected = made.day_ahead if made.day_ahead is not None else week_profile(made)
    if made.published:
        expected = made.price

    def seen(index: int, last: int) -> Floats:
        known = index - 1 if lagged else index
        error = float(made.price[known] - expected[known]) if known >= 0 else 0.0
        prices = corrected(expected[index:last], error, index - known)
        if not lagged:
            prices[0] = made.price[index]
        return prices

    return {
        "even": lambda index, last, owed: DUTY,
        **{name: AtMidnight(made, name, seen).choose for name in WITHOUT_PRICES},
        "price_threshold": Watched(made, "price_threshold", seen, threshold).choose,
        "order_of_expected": Watched(made, "cheapest_remaining", lambda index, last: expected[index:last]).choose,
        "cheapest_remaining": Watched(made, "cheapest_remaining", seen).choose,
        "greedy": Watched(made, "greedy", forecast).choose,
    }


def threshold(prices: Floats, owed: float) -> float:
    """All of the present interval while it costs no more than the median, or where work would be late otherwise."""
    return float(prices[0] <= np.median(prices) or owed > (len(prices) - 1) * (1.0 + 1e-9))


@dataclass(frozen=True)
class AtMidnight:
    """A rule that looks at no price, as its planner has it: one plan for each day, lived to its end."""

    market: Market
    planner: str
    prices: Prices
    days: dict[int, tuple[int, Floats]] = field(default_factory=dict)

    def choose(self, index: int, last: int, owed: float) -> float:
        """What was planned for this interval when the day began."""
        if last not in self.days:
            asked = problem(self.market, index, last, owed, self.prices(index, last))
            run = np.array(RIVALS[self.planner](asked, None).jobs["day"].work_gpus) / MOST_KW
            self.days[last] = (index, run)
        first, run = self.days[last]
        return float(run[index - first])


@dataclass(frozen=True)
class Watched:
    """A rule by its arithmetic on `prices`, the share of the present interval; in every `ask_every`-th interval the
    planner of that name is asked, and must say the same: RuntimeError where it doesn't."""

    market: Market
    planner: str
    prices: Prices
    share: Callable[[Floats, float], float] = share_now
    ask_every: int = 97

    def choose(self, index: int, last: int, owed: float) -> float:
        """The present share."""
        prices = self.prices(index, last)
        found = min(owed, self.share(prices, owed))
        if index % self.ask_every or np.any(np.abs(prices[1:] - prices[0]) < 1e-6):
            return found
        asked = problem(self.market, index, last, owed, prices)
        planned = first_step(RIVALS[self.planner](asked, None))
        if abs(planned - found) > 1e-5:
            moment = self.market.starts[index]
            raise RuntimeError(f"{moment}: the rule {self.planner} runs at {planned:.6f}, its arithmetic at {found}")
        return found


def week_profile(made: Market) -> Floats:
    """Mean of the last seven days at the same local time, from days before the present one only."""
    per_day = round(24 / made.hours)
    place = [(start.astimezone(made.zone).hour * 60 + start.astimezone(made.zone).minute) for start in made.starts]
    slot = np.array(place) // round(made.step / timedelta(minutes=1))
    expected = np.zeros(len(made.price))
    rows: list[Floats] = []
    for first, last in made.days():
        if rows:
            mean = np.nanmean(np.array(rows[-7:]), axis=0) if len(rows) > 1 else rows[0]
            expected[first:last] = np.nan_to_num(mean[slot[first:last]])
        row = np.full(per_day, np.nan)
        row[slot[first:last]] = made.price[first:last]
        rows.append(row)
    return expected
