"""Caps that move no faster than a program's own ramp limits, in and out.

Why in the caps themselves: plan, fast loop, node agents and settlement all read the same caps. A limit that only the
fast loop knew would be broken by an agent that is cut off, and counted as a missed target by the settlement.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from optimizer.domain import Span

STEP_S, MOST_STEPS = 5.0, 120
"""A slope is told in steps of so many seconds, and in no more than so many steps."""

INF = math.inf


@dataclass(frozen=True, slots=True)
class Pace:
    """The fastest rise and fall of a site's import in kW per minute (inf: any)."""

    up_kw_per_min: float = INF
    down_kw_per_min: float = INF

    def seconds(self, first_kw: float, last_kw: float) -> float:
        """Least time from one cap to another."""
        per_min = self.down_kw_per_min if last_kw < first_kw else self.up_kw_per_min
        return abs(last_kw - first_kw) / per_min * 60.0


def paced(spans: Iterable[Span], level_kw: float, pace: Pace) -> tuple[Span, ...]:
    """The caps of `spans`, which follow each other, as stairs that begin at `level_kw` and are never ahead of the pace:
    a fall lags behind the straight line by up to a step, a rise too. What there is no time for is not reached."""
    found: list[Span] = []
    for span in spans:
        seconds, first_kw = pace.seconds(level_kw, span.value), level_kw
        steps = min(MOST_STEPS, math.ceil(seconds / STEP_S - 1e-9))
        edges = [span.start + timedelta(seconds=seconds * step / max(1, steps)) for step in range(steps + 1)]
        for step, (left, right) in enumerate(pairwise(edges)):
            if left < span.end:
                level_kw = first_kw + (span.value - first_kw) * step / steps
                found.append(Span(left, min(right, span.end), level_kw))
        if edges[-1] < span.end:
            level_kw = span.value
            found.append(Span(edges[-1], span.end, level_kw))
    return tuple(found)


def paced_event(
    spans: tuple[Span, ...], baseline_kw: float, start: datetime, ramp_in_s: float, pace: Pace
) -> tuple[tuple[Span, ...], float]:
    """The caps of an event that begins at its baseline, and the length of its ramp in: its own or the program's,
    whichever is slower. A ramp that takes longer than the first cap lasts is told in stairs, and none is left."""
    first = spans[0]
    ramp_s = max(ramp_in_s, pace.seconds(max(baseline_kw, first.value), first.value))
    if ramp_s <= (first.end - start).total_seconds():
        return (first, *paced(spans[1:], first.value, pace)), ramp_s
    if ramp_s == ramp_in_s:
        return spans, ramp_s
    slowest = min(pace.down_kw_per_min, (baseline_kw - first.value) / ramp_s * 60.0)
    return paced(spans, max(baseline_kw, first.value), Pace(pace.up_kw_per_min, slowest)), 0.0
