"""What was learned of a signal is kept through its day: a plan every few minutes needn't learn the same again.

Why compared and not timed: a value that was revised, or a day-ahead price that came, changes what is learned at once.
The same arguments give the same fan, whatever was asked before.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from optimizer.domain import Series, Span
from optimizer.forecast_base import step_of
from optimizer.forecast_learned import Fan, Learned, Past, Recall, fan_of, learned_of, midnight_before, past_of

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
Mark = tuple[object, ...]


@dataclass
class Pasts:
    """The past of each signal by name, made anew when what it is made of has changed."""

    _kept: dict[str, tuple[Mark, Past | None]] = field(default_factory=dict)

    def past(
        self, series: Series, reference: Series | None, start: datetime, until: datetime, recall: Recall
    ) -> Past | None:
        """See `past_of`; up to the last midnight until `start`, and ahead to the end of a day that holds `until`."""
        midnight = midnight_before(start, recall.zone)
        end = midnight - (midnight - until) // DAY * DAY
        begin = midnight - timedelta(days=recall.days) - HOUR
        told = None if reference is None else _between(reference, begin, end + HOUR)
        mark = (midnight, end, recall, step_of(series), _between(series, begin, midnight), told)
        kept = self._kept.get(series.name)
        if kept is None or kept[0] != mark:
            kept = self._kept[series.name] = (mark, past_of(series, reference, midnight, end, recall))
        return kept[1]


@dataclass
class Errors:
    """See `forecasters.Forecaster`: `look_ahead`, which keeps the model of each signal through the day."""

    _pasts: Pasts = field(default_factory=Pasts)
    _learned: dict[str, tuple[Past, Learned | None]] = field(default_factory=dict)

    def __call__(
        self, series: Series, reference: Series | None, start: datetime, until: datetime, recall: Recall
    ) -> Fan | None:
        """See `forecasters.Forecaster`."""
        past = self._pasts.past(series, reference, start, until, recall)
        if past is None:
            return None
        kept = self._learned.get(series.name)
        if kept is None or kept[0] is not past:
            kept = self._learned[series.name] = (past, learned_of(past))
        return None if kept[1] is None else fan_of(kept[1], series, start, until)


def _between(series: Series, begin: datetime, end: datetime) -> tuple[Span, ...]:
    return tuple(span for span in series.spans if span.end > begin and span.start < end)
