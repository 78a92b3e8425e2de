"""How much a site may draw right now, and how fast it may get there.

The ceiling is the strictest of the hard limit, every live event with its ramps, and the operator's order. The wish is
the plan's. Economic moves are slewed by the site's ramp limits in both directions; a falling ceiling is followed at
once (its own ramp is part of it), a rising one never faster than the ramp allows: that is what prevents a rebound. A
fall that is known in time begins early enough for the ramp; one that comes too late for it is said (`hurry`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from optimizer.domain import GridEvent
from optimizer.envelope import event_limit_kw, released_at, tightest_kw
from optimizer.timegrid import floor_time

INF = float("inf")


@dataclass(frozen=True, slots=True)
class Ceiling:
    """Caps in kW on a site's import at one moment, and the strictest of them."""

    limit_kw: float
    event_kw: float
    operator_kw: float

    @property
    def kw(self) -> float:
        """The cap in force."""
        return min(self.limit_kw, self.event_kw, self.operator_kw)


def ceiling(
    site: str, limit_kw: float, events: Iterable[GridEvent], operator_kw: float, now: datetime, then: datetime
) -> Ceiling:
    """Ceiling over [now, then]: the next tick comes at `then`, so a falling ramp is met ahead of time."""
    mine = [event for event in events if event.site == site]
    return Ceiling(limit_kw, min(tightest_kw(mine, now), tightest_kw(mine, then)), operator_kw)


def slew(
    wish_kw: float,
    last_kw: float | None,
    seconds: float,
    up_kw_per_min: float,
    down_kw_per_min: float,
    risen_kw: float = 0.0,
) -> float:
    """The wish, no further from the last set-point than the ramp limits allow in `seconds`, beside what it has `risen`
    by load alone."""
    if last_kw is None:
        return wish_kw
    minutes = seconds / 60.0
    return min(max(wish_kw, last_kw - down_kw_per_min * minutes), last_kw + risen_kw + up_kw_per_min * minutes)


MINUTE = timedelta(minutes=1)


class LastMinute:
    """The set-points of the last minute."""

    def __init__(self) -> None:
        self._seen: deque[tuple[datetime, float]] = deque()

    def see(self, now: datetime, kw: float) -> None:
        """Take in the one of this tick."""
        self._seen.append((now, kw))
        while self._seen[0][0] < now - MINUTE:
            self._seen.popleft()

    @property
    def least_kw(self) -> float:
        """The lowest of them (inf: there is none)."""
        return min((kw for _, kw in self._seen), default=INF)


def risen_by_load(last_kw: float | None, held_kw: float, least_kw: float, up_kw_per_min: float) -> float:
    """By how much a site may be above its last set-point since users add load under the orders in force: that is no
    move of ours, and as long as the site has risen by no more than its ramp allows in a minute, nobody is throttled for
    it. (Else a load that flickers by more than a second's part of the ramp takes GPUs from jobs, every few seconds.)"""
    if last_kw is None or up_kw_per_min == INF:
        return 0.0
    return max(0.0, min(held_kw, least_kw + up_kw_per_min) - last_kw)


def setpoint(
    wish_kw: float, last_kw: float | None, cap_kw: float, seconds: float, up: float, down: float, risen_kw: float = 0.0
) -> float:
    """Import to aim for in this tick: slewed, and never above the ceiling."""
    return min(slew(wish_kw, last_kw, seconds, up, down, risen_kw), cap_kw)


def live(site: str, events: Iterable[GridEvent], now: datetime) -> list[GridEvent]:
    """The site's events that have begun and whose ramp out is not over."""
    return [event for event in events if event.site == site and event.start <= now < released_at(event)]


def pace(
    site: str, events: Iterable[GridEvent], now: datetime, up_kw_per_min: float, down_kw_per_min: float
) -> tuple[float, float]:
    """Ramp limits of a site now: its own and those of programs whose events are live; the slower of them each way."""
    mine = live(site, events, now)
    ups = [up_kw_per_min, *(event.ramp_up_kw_per_min for event in mine)]
    downs = [down_kw_per_min, *(event.ramp_down_kw_per_min for event in mine)]
    return min(ups), min(downs)


def release_kw_per_min(site: str, events: Iterable[GridEvent], now: datetime, interval: timedelta) -> float:
    """How fast a site may rise whose event has just been released: as its ramp out did, to the end of the first whole
    interval after that, and as long as its rebound lasts; inf where there is none. What an event put off begins with
    that interval's plan, when its caps are over, and would rise in one step what the ramp was there to spread."""
    rates = [
        max(0.0, event.baseline_kw - event.targets[-1].value) / event.ramp_out_s * 60.0
        for event in events
        if event.site == site and event.ramp_out_s > 0 and released_at(event) <= now < _settled_at(event, interval)
    ]
    return min((rate for rate in rates if rate > 0), default=INF)


def _settled_at(event: GridEvent, interval: timedelta) -> datetime:
    released = released_at(event)
    whole = floor_time(released + interval - timedelta(microseconds=1), interval) + interval
    return min(whole, released + timedelta(seconds=event.rebound_s))


def approach_kw(
    site: str,
    events: Iterable[GridEvent],
    then: datetime,
    last_kw: float | None,
    seconds: float,
    own_kw_per_min: float = INF,
) -> float:
    """Import that lets a site be at each coming cap of an event when that begins to hold, and fall no faster until then
    than its own ramp and the event's program allow; inf where neither has a ramp, or none is coming. (A site that draws
    more than its baseline, or has a slower ramp than the event, would fall in one step.)"""
    least_kw = INF
    for event in events:
        per_min = min(own_kw_per_min, event.ramp_down_kw_per_min)
        if event.site != site or per_min == INF:
            continue
        coming = _coming(event, then, ramped=per_min < event.ramp_down_kw_per_min)
        least_kw = min(least_kw, descent_kw(coming, then, last_kw, seconds, per_min))
    return least_kw


def descent_kw(
    coming: Iterable[tuple[datetime, float]], then: datetime, last_kw: float | None, seconds: float, per_min: float
) -> float:
    """Import from which each coming cap (from when, kW) is reached by a ramp of `per_min` when it begins to hold; no
    further down from `last_kw` than that ramp allows in `seconds`; inf where nothing is coming."""
    line_kw = min((cap_kw + per_min * ((at - then) / MINUTE) for at, cap_kw in coming if at > then), default=INF)
    if line_kw == INF:
        return INF
    return max(line_kw, last_kw - per_min * seconds / 60.0 if last_kw is not None else -INF)


def _coming(event: GridEvent, then: datetime, *, ramped: bool) -> Iterator[tuple[datetime, float]]:
    """Where the caps of an event may become stricter after `then`: its start, each target, and (`ramped`: its ramp in
    may be too steep, which that of its own program never is) the end of its ramp in."""
    level = event.start + timedelta(seconds=event.ramp_in_s)
    early = {event.start, *(span.start for span in event.targets if span.start < level), *([level] if ramped else [])}
    yield from ((at, event_limit_kw(event, at)) for at in early if then < at < event.end)
    yield from ((span.start, span.value) for span in event.targets if span.start >= level and span.start > then)


STEP_ERROR = 0.05
"""How far a step of power may be off its curve: the trials' own simulators were off by 3 % and more."""


def careful(aim_kw: float, drawn_kw: float) -> float:
    """What to reach for when `aim_kw` is to be met from `drawn_kw` and not exceeded: a little less the longer the way,
    and exactly the aim once it is there. Feedback closes the rest in the next ticks."""
    return aim_kw - STEP_ERROR * abs(aim_kw - drawn_kw) if aim_kw < INF else INF
