"""Latencies from the `/metrics` of the servers themselves, in vLLM's names, several times a second.

Why not through Prometheus: it scrapes every 15 s or so, and a guard that is to act within a second can't wait for that.
Counters are differenced here; a server that began anew is counted from its next reading on. The names are vLLM's
(https://docs.vllm.ai/en/latest/design/metrics.html); other servers that tell histograms are named in the config.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from math import inf
from time import monotonic
from typing import Literal

from prometheus_client.parser import text_string_to_metric_families
from pydantic import Field

from adapters.context import AdapterContext
from adapters.fields import Duration
from adapters.http import HttpConfig, JsonServer
from adapters.latency.polled import Polled
from adapters.latency.window import FEW, LONGEST_S, METRICS, Histogram, LatencyReading, from_buckets, together
from adapters.ports import AdapterError
from adapters.workers import Crew

TTFT = "vllm:time_to_first_token_seconds"
ITL = ("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds")
"""The second is what older servers say."""
WAITING = "vllm:num_requests_waiting"
NAME = r"^[a-zA-Z_:][a-zA-Z0-9_:]*$"


class MetricNames(HttpConfig):
    """What the latencies are called, and over which time they are looked at."""

    ttft_metric: str = Field(
        default=TTFT, pattern=NAME, description="Histogram of the time to the first token, in s.", examples=[TTFT]
    )
    itl_metric: str | None = Field(
        default=None, pattern=NAME,
        description="Histogram of the time between tokens, in s. Absent: vLLM's, by its present or its older name.",
        examples=[ITL[0]],
    )  # fmt: skip
    waiting_metric: str = Field(
        default=WAITING, pattern=NAME, description="How many requests wait for their turn.", examples=[WAITING]
    )
    window: Duration = Field(
        default=timedelta(seconds=10),
        description="Quantiles are of the requests of so much time. Shorter reacts sooner; it must hold some dozens.",
        examples=["10s"],
    )

    @property
    def names(self) -> Mapping[str, tuple[str, ...]]:
        """Names of each metric, the preferred one first."""
        return {"ttft": (self.ttft_metric,), "itl": (self.itl_metric,) if self.itl_metric else ITL}


class VllmConfig(MetricNames):
    """The serving processes themselves, asked for their metrics."""

    type: Literal["vllm"] = Field(description="Servers with vLLM's metrics.", examples=["vllm"])
    others: tuple[str, ...] = Field(
        default=(),
        description="Addresses of the pool's further servers, with the same login.",
        examples=[["http://node2:8000", "http://node3:8000"]],
    )
    every: Duration = Field(
        default=timedelta(seconds=0.5), description="How often they are asked.", examples=["0.5s"]
    )  # fmt: skip
    max_age: Duration = Field(
        default=timedelta(seconds=5), description="Older answers don't count.", examples=["5s"]
    )  # fmt: skip


Reading = tuple[float, Mapping[str, Histogram], float | None]
"""When, counters by metric, and how many wait."""

OLDER_S = 5.0
"""Of readings before the window one in so many seconds is kept."""


@dataclass
class _Seen:
    """Counters of one server, by the moment at which they were read. What came while it was not heard of for `silent_s`
    is of no window: it is counted anew from then on. `older`: some of those before the window, up to LONGEST_S."""

    silent_s: float
    readings: deque[Reading] = field(default_factory=deque)
    older: deque[Reading] = field(default_factory=deque)

    def add(self, at: float, counters: Mapping[str, Histogram], waiting: float | None, window_s: float) -> None:
        """Take in a reading; all but one of those that are older than the window are none of it any more."""
        if self.readings and self.readings[-1][0] < at - self.silent_s:
            self._begin_anew()
        self.readings.append((at, counters, waiting))
        while len(self.readings) > 2 and self.readings[1][0] <= at - window_s:
            past = self.readings.popleft()
            if not self.older or past[0] - self.older[-1][0] >= OLDER_S:
                self.older.append(past)
        while self.older and self.older[0][0] < at - LONGEST_S:
            self.older.popleft()

    def _begin_anew(self) -> None:
        self.readings.clear()
        self.older.clear()

    @property
    def span_s(self) -> float:
        """Seconds between the first reading and the last."""
        return self.readings[-1][0] - self.readings[0][0]

    def within(self, metric: str) -> Histogram | None:
        """What came between the first reading and the last; from the last start of the server on."""
        now = self.readings[-1][1].get(metric)
        before = self.readings[0][1].get(metric)
        if now is None or before is None:
            return None
        added = now.since(before)
        if added is None:
            newest = self.readings[-1]
            self._begin_anew()
            self.readings.append(newest)
        return added

    def over(self, metric: str, span_s: float) -> tuple[Histogram, float] | None:
        """What came in the last `span_s` seconds, or since it is known, and in how many; None where nobody tells."""
        at, counters, _ = self.readings[-1]
        first = next((one for one in reversed(self.older) if one[0] <= at - span_s), None)
        then, before, _ = first or next(iter(self.older), self.readings[0])
        added = counters[metric].since(before[metric]) if metric in counters and metric in before else None
        return (added, at - then) if added is not None else None


class VllmLatency:
    """`LatencySource` over the servers of one pool."""

    Config = VllmConfig

    def __init__(self, config: VllmConfig, context: AdapterContext) -> None:
        self._config, self._window_s = config, config.window.total_seconds()
        urls = (config.url, *config.others)
        self._servers = {
            url: JsonServer(config.model_copy(update={"url": url}), context, "metrics of")
            for url in dict.fromkeys(urls)
        }
        silent_s = max(self._window_s, 2 * config.every.total_seconds())
        self._seen = {url: _Seen(silent_s) for url in self._servers}
        self._crew: Crew[str] = Crew("latency")
        place = f"metrics of {config.url}"
        self._polled = Polled(self.ask, config.every.total_seconds(), config.max_age.total_seconds(), place)

    def read(self) -> LatencyReading:
        """The newest reading of all servers that answered. Raises AdapterError."""
        return self._polled.read()

    def listen(self, heard: Callable[[LatencyReading], None]) -> None:
        """Call `heard` with each new reading."""
        self._polled.heard = heard

    def close(self) -> None:
        """End the thread and the connections."""
        self._polled.close()
        self._crew.stop()
        for server in self._servers.values():
            server.close()

    def ask(self) -> LatencyReading:
        """Ask every server now. Raises AdapterError when none answers, or none tells any latency."""
        deadline_s = self._config.timeout.total_seconds()
        told = self._crew.each(self._servers, lambda url, _turn: self._scrape(url), deadline_s + 0.2)
        errors = {url: answer for url, answer in told.items() if isinstance(answer, Exception)}
        if len(errors) == len(told):
            raise AdapterError("; ".join(str(error) for error in errors.values()))
        alive = [self._seen[url] for url in told if url not in errors]
        if not any(seen.readings[-1][1] for seen in alive):
            names = " or ".join(name for metric in METRICS for name in self._config.names[metric])
            raise AdapterError(f"metrics of {self._config.url}: no histogram {names}")
        return _reading(alive, self._window_s, tuple(errors))

    def _scrape(self, url: str) -> None:
        text = self._servers[url].text("/metrics")
        counters, waiting = parsed(text, self._config.names, self._config.waiting_metric)
        self._seen[url].add(monotonic(), counters, waiting, self._window_s)


def _reading(alive: list[_Seen], window_s: float, lost: tuple[str, ...] = ()) -> LatencyReading:
    """What these servers tell together. `lost`: those that did not answer."""
    told = {metric: together([h for seen in alive if (h := seen.within(metric))]) for metric in METRICS}
    histograms = {metric: found for metric, found in told.items() if found is not None}
    few = (metric for metric, found in histograms.items() if found.total < FEW)
    known = [count for _, _, count in (seen.readings[-1] for seen in alive) if count is not None]
    return LatencyReading(
        histograms,
        sum(known) if known else None,
        max(window_s, *(seen.span_s for seen in alive)),
        lost=lost,
        firsts_per_s=_rate(alive),
        longer={metric: more for metric in few if (more := _longer(alive, metric, window_s))},
    )


def _longer(alive: list[_Seen], metric: str, window_s: float) -> tuple[Histogram, float] | None:
    """What all servers tell of a time twice as long as the window, or four times and so on, until it is enough to
    judge by: the shortest, so that what users felt long ago is forgotten as soon as something is known of now."""
    found, span_s = None, window_s
    while span_s < LONGEST_S and (found is None or found[0].total < FEW):
        span_s = min(2 * span_s, LONGEST_S)
        parts = [part for seen in alive if (part := seen.over(metric, span_s)) is not None]
        histogram = together([part for part, _ in parts])
        found = (histogram, max(seconds for _, seconds in parts)) if histogram is not None else None
    return found


def _rate(alive: list[_Seen]) -> float:
    """First tokens a second of all servers, each over the time for which it was seen."""
    firsts = [(seen.within("ttft"), seen.span_s) for seen in alive]
    return sum(found.total / span_s for found, span_s in firsts if found is not None and span_s > 0)


def parsed(text: str, names: Mapping[str, tuple[str, ...]], waiting: str) -> tuple[dict[str, Histogram], float | None]:
    """Histograms by metric and the number that waits, from an exposition; series of one name are added up. Raises
    ValueError for a text that is none."""
    wanted = {*(name for some in names.values() for name in some), waiting}
    prefixes = tuple(wanted)
    lines = [line for line in text.splitlines() if line.removeprefix("# TYPE ").startswith(prefixes)]
    buckets: dict[str, dict[float, float]] = {}
    waits: float | None = None
    for family in text_string_to_metric_families("\n".join(lines) + "\n"):
        for sample in family.samples:
            if sample.name == waiting:
                waits = (waits or 0.0) + sample.value
            elif sample.name.endswith("_bucket") and (name := sample.name.removesuffix("_bucket")) in wanted:
                bound = float(sample.labels.get("le", inf))
                some = buckets.setdefault(name, {})
                some[bound] = some.get(bound, 0.0) + sample.value
    found = {metric: next((buckets[n] for n in some if n in buckets), None) for metric, some in names.items()}
    made = {metric: from_buckets(some) for metric, some in found.items() if some is not None}
    return {metric: histogram for metric, histogram in made.items() if histogram is not None}, waits
