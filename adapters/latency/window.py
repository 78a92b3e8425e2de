"""What every source of latencies tells, and the quantile of it.

Why histograms of a window: servers count since their start. What users feel now is the difference of two readings, and
a quantile of that is what an objective is about. Why the number that waits as well: a request shows in the histogram
only once its first token has come, so that a queue which grows is told of late by it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf
from typing import Protocol

METRICS = ("ttft", "itl")
"""Time to the first token of a request; time between two tokens of one."""

FEW = 5.0
"""Fewer observations than these say nothing of a quantile."""

LONGEST_S = 300.0
"""Where fewer come in the window, so many seconds at most are looked at."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Cumulative counts by upper bound in seconds, the last of which is infinite."""

    upper_s: tuple[float, ...]
    counts: tuple[float, ...]

    @property
    def total(self) -> float:
        """Observations in it."""
        return self.counts[-1] if self.counts else 0.0

    def quantile(self, share: float) -> float | None:
        """Seconds that this share of the observations stays within, linear inside a bucket; None without any. As
        Prometheus' histogram_quantile (https://prometheus.io/docs/prometheus/latest/querying/functions/), whose answer
        in the last bucket is the highest finite bound too."""
        if self.total <= 0:
            return None
        rank = share * self.total
        lower_s = below = 0.0
        for upper_s, count in zip(self.upper_s, self.counts, strict=True):
            if count >= rank - 1e-9:
                if upper_s == inf:
                    return lower_s
                inside = count - below
                return lower_s + (upper_s - lower_s) * (max(0.0, rank - below) / inside if inside > 0 else 1.0)
            lower_s, below = upper_s, count
        return lower_s

    def since(self, before: Histogram) -> Histogram | None:
        """What was added since an earlier reading; None where the server began anew between them."""
        if self.upper_s != before.upper_s:
            return None
        added = tuple(now - then for now, then in zip(self.counts, before.counts, strict=True))
        return Histogram(self.upper_s, added) if all(count >= 0 for count in added) else None


def together(parts: Sequence[Histogram]) -> Histogram | None:
    """One histogram of several, where all have the same bounds; of those with the commonest ones otherwise."""
    known = [part for part in parts if part.counts]
    if not known:
        return None
    bounds = [part.upper_s for part in known]
    chosen = max(bounds, key=bounds.count)
    same = [part.counts for part in known if part.upper_s == chosen]
    return Histogram(chosen, tuple(sum(counts) for counts in zip(*same, strict=True)))


def from_buckets(buckets: Mapping[float, float]) -> Histogram | None:
    """A histogram from counts by upper bound; None where the infinite bound is missing or counts fall."""
    bounds = tuple(sorted(buckets))
    counts = tuple(buckets[bound] for bound in bounds)
    good = bounds and bounds[-1] == inf and all(low <= high + 1e-6 for low, high in pairwise(counts))
    return Histogram(bounds, counts) if good and counts[0] >= 0 else None


@dataclass(frozen=True)
class LatencyReading:
    """What was seen in the last `window_s` seconds at most, `age_s` seconds ago: a histogram by metric (absent: nobody
    tells), and requests that wait for their turn (None: nobody tells). `lost`: servers that did not answer.
    `firsts_per_s`: rate of first tokens, where not all servers were seen for the whole window (None: the histogram's).
    `longer`: where a histogram holds less than `FEW`, one of a longer time, and of how many seconds.
    """

    histograms: Mapping[str, Histogram]
    waiting: float | None
    window_s: float
    age_s: float = 0.0
    lost: tuple[str, ...] = field(default=())
    firsts_per_s: float | None = None
    longer: Mapping[str, tuple[Histogram, float]] = field(default_factory=dict)

    def seen(self, metric: str) -> tuple[Histogram | None, float]:
        """The shortest histogram known that holds enough to judge by, else the longest; and of how many seconds."""
        short = self.histograms.get(metric)
        if short is None or short.total < FEW:
            return self.longer.get(metric, (short, self.window_s))
        return short, self.window_s

    @property
    def rate(self) -> float:
        """First tokens a second."""
        if self.firsts_per_s is not None:
            return self.firsts_per_s
        firsts = self.histograms.get("ttft")
        return firsts.total / self.window_s if firsts is not None and self.window_s > 0 else 0.0


class LatencySource(Protocol):
    """Latencies of one pool."""

    def read(self) -> LatencyReading:
        """The newest reading, at once: it is asked every second. Raises AdapterError when there is none that is young
        enough."""
        ...

    def listen(self, heard: Callable[[LatencyReading], None]) -> None:
        """Call `heard` with each new reading once it is there, from any thread, so that a slip need not wait for the
        next tick. Sources that compute theirs when they are asked never call it."""
        ...

    def close(self) -> None:
        """End threads and connections."""
        ...
