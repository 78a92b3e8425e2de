"""The cap that an event, with its ramps and its rebound limit, puts on a site's import at any moment.

Why one function: the plan, the fast loop, the node agents, the checker and the settlement must agree to the watt on
what was asked. Rule: before `start` nothing; a straight ramp from the baseline to the first target over `ramp_in_s`;
the targets; a straight ramp from the last target to the baseline over `ramp_out_s`; then the rebound limit for
`rebound_s`; then nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from itertools import pairwise

from optimizer.domain import GridEvent

INF = float("inf")


def released_at(event: GridEvent) -> datetime:
    """The end of an event's ramp out."""
    return event.end + timedelta(seconds=event.ramp_out_s)


def event_limit_kw(event: GridEvent, moment: datetime) -> float:
    """Cap in kW on the site's import at `moment` (inf: the event asks nothing then)."""
    released = released_at(event)
    if moment < event.start or moment >= released + timedelta(seconds=event.rebound_s):
        return INF
    if moment >= released:
        return event.rebound_kw if event.rebound_kw is not None else INF
    if moment >= event.end:
        share = (moment - event.end).total_seconds() / event.ramp_out_s
        return _between(event.targets[-1].value, max(event.baseline_kw, event.targets[-1].value), share)
    target = next((span.value for span in event.targets if span.start <= moment < span.end), event.targets[-1].value)
    since = (moment - event.start).total_seconds()
    if since < event.ramp_in_s:
        return _between(max(event.baseline_kw, target), target, since / event.ramp_in_s)
    return target


def _between(first_kw: float, last_kw: float, share: float) -> float:
    """Point at `share` of the straight line between two caps."""
    return first_kw + (last_kw - first_kw) * share


def event_breakpoints(event: GridEvent) -> tuple[datetime, ...]:
    """Moments at which the cap changes its slope, in order."""
    released = released_at(event)
    inner = {span.start for span in event.targets} | {event.start + timedelta(seconds=event.ramp_in_s)}
    return tuple(sorted(inner | {event.start, event.end, released, released + timedelta(seconds=event.rebound_s)}))


def mean_limit_kw(event: GridEvent, start: datetime, end: datetime) -> float:
    """Mean cap over [start, end) counting only the part in which the event asks something; inf when it asks nothing.

    This is the cap on the mean import of a planning interval. Where only a part of the interval is bound, the bound
    part's mean applies to the whole of it (the stricter reading).
    """
    if end <= event.start or start >= released_at(event) + timedelta(seconds=event.rebound_s):
        return INF
    cuts = [start, *(cut for cut in event_breakpoints(event) if start < cut < end), end]
    total = seconds = 0.0
    for left, right in pairwise(cuts):
        middle = event_limit_kw(event, left + (right - left) / 2)
        if middle != INF:
            length = (right - left).total_seconds()
            total += middle * length
            seconds += length
    return total / seconds if seconds else INF


def promised_kwh(event: GridEvent, start: datetime, end: datetime) -> float:
    """Energy below the baseline that an event and its ramps ask inside [start, end)."""
    begin, stop = max(start, event.start), min(end, event.end + timedelta(seconds=event.ramp_out_s))
    cuts = [begin, *(cut for cut in event_breakpoints(event) if begin < cut < stop), stop]
    total = 0.0
    for left, right in pairwise(cuts):
        if right > left:
            below_kw = event.baseline_kw - max(0.0, event_limit_kw(event, left + (right - left) / 2))
            total += max(0.0, below_kw) * (right - left).total_seconds() / 3600.0
    return total


def tightest_kw(events: Iterable[GridEvent], moment: datetime) -> float:
    """The strictest cap of all `events` at `moment` (inf: none)."""
    return min((event_limit_kw(event, moment) for event in events), default=INF)
