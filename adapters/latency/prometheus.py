"""Latencies from a Prometheus server that scrapes the serving processes.

It is as late as the scrapes are: with the usual 15 s the guard acts up to that much later than with the servers
themselves (`vllm`). The increase of a histogram over the window is what Prometheus makes of it, restarts included;
samples that are too old don't count, by the server's own clock.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from math import inf, isfinite
from typing import Any, Literal

from pydantic import Field

from adapters.context import AdapterContext
from adapters.fields import Duration
from adapters.http import JsonServer
from adapters.latency.polled import Polled
from adapters.latency.vllm import MetricNames
from adapters.latency.window import FEW, LONGEST_S, METRICS, Histogram, LatencyReading, from_buckets
from adapters.ports import AdapterError
from adapters.prometheus import series_of

IS = "gridpace_is"
"""Label that says what a series of the answer is."""


class PrometheusLatencyConfig(MetricNames):
    """A Prometheus server that scrapes the serving processes."""

    type: Literal["prometheus"] = Field(description="A Prometheus server.", examples=["prometheus"])
    selector: str = Field(
        default="",
        description="Label matchers that choose the pool's series, in Prometheus' own words; empty: all.",
        examples=['model_name="chat",cluster="north"'],
    )
    window: Duration = Field(
        default=timedelta(seconds=60),
        description="Quantiles are of the requests of so much time; at least two scrapes must lie in it.",
        examples=["60s"],
    )
    every: Duration = Field(default=timedelta(seconds=1), description="How often it is asked.", examples=["1s"])
    max_age: Duration = Field(
        default=timedelta(seconds=45), description="Older samples don't count.", examples=["45s"]
    )  # fmt: skip


class PrometheusLatency:
    """`LatencySource` over a Prometheus server."""

    Config = PrometheusLatencyConfig

    def __init__(self, config: PrometheusLatencyConfig, context: AdapterContext) -> None:
        self._config = config
        self._server = JsonServer(config, context, "Prometheus")
        every_s, max_age_s = config.every.total_seconds(), config.max_age.total_seconds()
        self._polled = Polled(self.ask, every_s, max_age_s, self._server.place)

    def read(self) -> LatencyReading:
        """The newest reading. Raises AdapterError."""
        return self._polled.read()

    def listen(self, heard: Callable[[LatencyReading], None]) -> None:
        """Call `heard` with each new reading."""
        self._polled.heard = heard

    def close(self) -> None:
        """End the thread and the connection."""
        self._polled.close()
        self._server.close()

    def query(self, window_s: float) -> str:
        """What is asked of a window of so many seconds, for a person to try by hand."""
        config = self._config
        chosen = f"{{{config.selector}}}" if config.selector.strip() else ""
        window = f"{max(1, round(window_s))}s"
        parts = []
        for metric in METRICS:
            rises = (f"sum by (le) (increase({name}_bucket{chosen}[{window}]))" for name in config.names[metric])
            parts.append(_as(" or ".join(rises), metric))
        parts.append(_as(f"sum({config.waiting_metric}{chosen})", "waiting"))
        times = [f"timestamp({name}_count{chosen})" for metric in METRICS for name in config.names[metric]]
        parts.append(_as(f"time() - max({' or '.join(times)})", "age"))
        return " or ".join(parts)

    def ask(self) -> LatencyReading:
        """Ask now, and once more of a longer time where too few came. Raises AdapterError when there is no answer, or
        no series in it."""
        window_s = self._config.window.total_seconds()
        histograms, single = self._told(window_s)
        if "age" not in single:
            raise AdapterError(f"{self._server.place}: no series of {self._config.ttft_metric} in its answer")
        longer: dict[str, tuple[Histogram, float]] = {}
        few = [metric for metric, found in histograms.items() if found.total < FEW]
        if few and window_s < LONGEST_S:
            more, _ = self._told(LONGEST_S)
            longer = {metric: (more[metric], LONGEST_S) for metric in few if metric in more}
        age_s = max(0.0, single["age"])
        return LatencyReading(histograms, single.get("waiting"), window_s, age_s, longer=longer)

    def _told(self, window_s: float) -> tuple[dict[str, Histogram], dict[str, float]]:
        """Histograms by metric, and what is a number."""
        buckets: dict[str, dict[float, float]] = {metric: {} for metric in METRICS}
        single: dict[str, float] = {}
        for what, bound, value in filter(None, map(_parsed, series_of(self._server, self.query(window_s)))):
            if what in buckets:
                buckets[what][bound] = value
            else:
                single[what] = value
        found = {metric: from_buckets(some) for metric, some in buckets.items() if some}
        return {metric: histogram for metric, histogram in found.items() if histogram is not None}, single


def _as(query: str, what: str) -> str:
    return f'label_replace({query}, "{IS}", "{what}", "", "")'


def _parsed(series: Any) -> tuple[str, float, float] | None:
    """What a series is, its upper bound and its value; None when it is not in its form."""
    try:
        labels, (_, text) = series["metric"], series["value"]
        value = float(text)
        return (str(labels[IS]), float(labels.get("le", inf)), value) if isfinite(value) else None
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
