"""How far below a cap the fast loop stays: as far as loads surprise it, and no further when they don't.

Why learned: a second passes between an order and the next reading. A hall of training that draws the same power for
hours needs no room for that, one full of users who come in bursts does, and no operator knows the figure.

Three things happen to a load between two readings. It goes on as it went in the last second: that is no surprise, and
is allowed for as it happens (`surge_kw`). It turns: for that the margin is kept, which is large while loads stand or
fall and small while they rise; but where users of several pools come and go, those of one may turn while those of
another rise. And users come who were not there: the more of them are missing, the more can come at once (`onset_kw`).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

USUAL_TICKS = 10
"""What the meter shows below the model for so long is no room, and what it shows above it no surge but for STEP of it,
by which the model may lag behind (cooling, power that came back): a meter that is off by more doesn't run away with
the site."""

STEP, MOST_MARGIN = 0.02, 0.01
"""Change of power in a tick that is a step, and the most that a load is believed to have fallen in one; the largest
margin; both as shares."""

SPARE, OLD = 1.4, 0.9
"""How much worse than the worst surprise of ten minutes is allowed for, and how much of the worst of an hour: bursts
may leave a site alone for a while. The worst of 600 normal errors lies at 3.1 standard deviations on average; 1.2 times
that is passed once in about three hours, 1.4 times once in some forty."""

RISING = 0.003
"""Share of its power by which a site's load rises within a tick when it is called rising."""

ONSET, MOST_ONSET = 0.05, 0.06
"""Part of the load that is missing to the highest one lately that may come back within a tick; the latter where
surprises are twice what the largest margin covers. Bursts of users take seconds, while batches fill."""

BUCKET_TICKS, BUCKETS, OLD_BUCKETS = 60, 10, 60
"""What is remembered: the highest of each of the last BUCKETS times BUCKET_TICKS, ten minutes; or an hour."""


class Highest:
    """The highest of the last values, in `buckets` of BUCKET_TICKS."""

    def __init__(self, buckets: int = BUCKETS) -> None:
        self._ticks, self._buckets = 0, deque([0.0], maxlen=buckets)

    def see(self, value: float) -> None:
        """Take in one tick's value."""
        self._ticks += 1
        if self._ticks % BUCKET_TICKS == 0:
            self._buckets.append(0.0)
        self._buckets[-1] = max(self._buckets[-1], value)

    @property
    def value(self) -> float:
        """The highest of them; 0 when none was above."""
        return max(self._buckets)


@dataclass
class Surprises:
    """By how much the meter came to lie above what the orders aimed at, second by second. Steps of power are left out:
    what a curve is off by on a long way is no restlessness of the load."""

    aimed_kw: float | None = None
    rising: bool = False
    quiet_kw: float = 0.0
    _beyond: deque[float] = field(default_factory=lambda: deque(maxlen=USUAL_TICKS))
    _behind_kw: float = 0.0
    _expected_kw: float | None = None
    _moved_kw: float = 0.0
    _held_kw: float = 0.0
    _cut_kw: float = 0.0
    _allowed_kw: float = 0.0
    _onset_kw: float = 0.0
    _at_cap: bool = False
    _worst: Highest = field(default_factory=Highest)
    _worst_at_cap: Highest = field(default_factory=lambda: Highest(OLD_BUCKETS))
    _worst_rising: Highest = field(default_factory=Highest)

    def see(self, drawn_kw: float | None) -> None:
        """Take in what the orders of the last tick came to."""
        seen_kw = drawn_kw - self.aimed_kw if drawn_kw is not None and self.aimed_kw is not None else 0.0
        self._worst.see(seen_kw)
        self._worst_at_cap.see(seen_kw if self._at_cap else 0.0)
        self._worst_rising.see(seen_kw if self.rising else 0.0)

    def surge_kw(self, drawn_kw: float | None, modelled_kw: float, coming_kw: float = 0.0) -> float:
        """What to allow for above the model in the next tick: that the smoothed loads lag behind, and that a rise goes
        on for as long as it does. The site's meter says so, because a pool's reading may be nonsense; only that a rise
        has begun or ended it can't tell while our own orders bring power down by more than modelled: as long as the
        pools' readings rise (by `coming_kw` in the last tick) it goes on, no faster than before, and where the last
        orders took power off one begins, no faster than that."""
        going_kw = min(self._moved_kw if self.rising else self._cut_kw, coming_kw)
        self._held_kw, self._cut_kw = modelled_kw, 0.0
        self._behind_kw, self._allowed_kw, self._moved_kw, self.rising = 0.0, 0.0, 0.0, False
        if drawn_kw is None:
            self._expected_kw = None
            return 0.0
        self._beyond.append(drawn_kw - modelled_kw)
        usual_kw = min(max(self._beyond), max(min(self._beyond), 0.0))
        moved_kw = max(self._beyond[-1] - usual_kw, -STEP * drawn_kw)
        self._behind_kw = moved_kw + min(max(usual_kw, 0.0), STEP * drawn_kw)
        if self._expected_kw is not None:
            moved_kw = drawn_kw - self._expected_kw
            moved_kw = max(moved_kw, going_kw)
            self.rising = moved_kw > RISING * drawn_kw
        self._moved_kw = max(0.0, moved_kw)
        self._allowed_kw = self._behind_kw + self._moved_kw
        return max(0.0, self._allowed_kw)

    @property
    def ebb_kw(self) -> float:
        """What the meter shows less than the smoothed loads would draw: room that can be used at once."""
        return max(0.0, -self._allowed_kw)

    def onset_kw(self, missing_kw: float, cap_kw: float, quiet_kw: float = 0.0) -> float:
        """What to keep free for users who are not there: a part of what is missing to the highest load lately (while
        users of one pool come, others may as well); more of it where surprises are larger than the largest margin.
        `quiet_kw` is missing in pools whose load does not rise now: that much may still turn while others rise."""
        self.quiet_kw = quiet_kw
        beyond = SPARE * self._worst.value / (MOST_MARGIN * cap_kw) - 1.0 if cap_kw > 0 else 0.0
        share = ONSET + (MOST_ONSET - ONSET) * max(0.0, min(1.0, beyond))
        self._onset_kw = share * missing_kw
        return self._onset_kw

    def aim(self, most_kw: float, ordered_kw: float, drawn_kw: float | None) -> None:
        """What this tick's orders must not exceed, and what they should come to, from what is drawn now."""
        if drawn_kw is None or abs(ordered_kw - drawn_kw) >= STEP * drawn_kw:
            self.aimed_kw = self._expected_kw = None
            return
        counted_kw = ordered_kw + self._allowed_kw + self._onset_kw
        self._at_cap = (1.0 - STEP) * most_kw < counted_kw
        self.aimed_kw = most_kw if self._at_cap else counted_kw
        self._expected_kw = ordered_kw + self._beyond[-1] if self._beyond else None
        self._cut_kw = max(0.0, self._held_kw - ordered_kw)

    def margin_kw(self, cap_kw: float, least: float) -> float:
        """How far to stay below a cap: a little more than the worst of these lately was, and nearly the worst at a cap
        within the hour (while loads rise: a little more than the worst that came on top of a rise, or what may turn
        besides, if that is less); at least the share `least` of it and at most MOST_MARGIN."""
        needed_kw = max(SPARE * self._worst.value, OLD * self._worst_at_cap.value)
        if self.rising:
            needed_kw = max(SPARE * self._worst_rising.value, min(needed_kw, self.quiet_kw))
        return min(max(least, MOST_MARGIN) * cap_kw, max(least * cap_kw, needed_kw))
