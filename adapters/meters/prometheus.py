"""Power and energy of cards from a Prometheus server that scrapes NVIDIA's dcgm-exporter.

Why a time for each value: Prometheus repeats the last sample of a slow target for up to five minutes as if it were of
now. So the query asks when each sample was scraped as well, and an older one than `max_age` does not count: its card is
lost, never zero. An exporter that has died is marked by Prometheus itself and gone with the next scrape. One query
brings power, energy, utilisation and times of all cards; ages are told by the server's own clock.

The metrics are those of dcgm-exporter (https://github.com/NVIDIA/dcgm-exporter, etc/default-counters.csv): power in W,
energy in mJ, utilisation in per cent. The query language and the answer's form: https://prometheus.io/docs/prometheus/
latest/querying/api/.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import isfinite
from typing import Any, Literal

from pydantic import Field

from adapters.context import AdapterContext
from adapters.fields import Duration
from adapters.http import HttpConfig, JsonServer
from adapters.meters.sums import PoolSums
from adapters.ports import AdapterError, GpuId, Reading
from adapters.prometheus import series_of

POOL_OF = "pool_of"
"""Key of the context's extras: which pool each GPU belongs to, by the GPU's id."""

TIME = "gridpace_is_time"
"""Label of the series that say when the others were scraped."""

SENSOR = timedelta(seconds=1)
"""Cards' sensors tell the mean of about so long."""

MJ_PER_KWH = 3.6e9
MOST_W, MOST_MJ = 1e5, 1e18
NAME = r"^[a-zA-Z_:][a-zA-Z0-9_:]*$"


class PrometheusConfig(HttpConfig):
    """Cards' power from a Prometheus server that scrapes dcgm-exporter."""

    type: Literal["prometheus"] = Field(description="A Prometheus server.", examples=["prometheus"])
    selector: str = Field(
        default="",
        description="Label matchers that choose the series, in Prometheus' own words; empty: all.",
        examples=['cluster="north",Hostname=~"gpu-.*"'],
    )
    max_age: Duration = Field(
        default=timedelta(seconds=10),
        description="Older samples don't count. Exporter and server should refresh several times within it; the "
        "second-by-second control is as late as they are.",
        examples=["10s"],
    )
    uuid_label: str = Field(
        default="UUID",
        pattern=NAME,
        description="Label that carries the GPU's UUID, as `power` names it.",
        examples=["UUID"],
    )
    power_metric: str = Field(
        default="DCGM_FI_DEV_POWER_USAGE",
        pattern=NAME,
        description="Power of a card, in W.",
        examples=["DCGM_FI_DEV_POWER_USAGE"],
    )
    energy_metric: str = Field(
        default="DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
        pattern=NAME,
        description="Energy counter of a card, in mJ.",
        examples=["DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"],
    )
    utilisation_metric: str = Field(
        default="DCGM_FI_DEV_GPU_UTIL",
        pattern=NAME,
        description="Share of time that a card works, in per cent.",
        examples=["DCGM_FI_DEV_GPU_UTIL"],
    )


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of a card, scraped `age_s` seconds ago."""

    metric: str
    gpu: GpuId
    age_s: float
    value: float


class PrometheusMeter:
    """`Meter` over a Prometheus server, for the cards in the context's `pool_of`."""

    Config = PrometheusConfig

    def __init__(self, config: PrometheusConfig, context: AdapterContext) -> None:
        self._config, self._clock = config, context.clock
        self._pool_of: Mapping[GpuId, str] = context.extras.get(POOL_OF, {})
        self._server = JsonServer(config, context, "Prometheus")
        self._sums = PoolSums(self._pool_of)

    def read(self) -> Reading:
        """One reading; cards without a good sample are named in `lost`. AdapterError when the server doesn't answer,
        or knows none of the cards."""
        newest, unnamed = self._newest(series_of(self._server, self.query))
        power = {s.gpu: s for s in newest.values() if s.metric == self._config.power_metric and s.value <= MOST_W}
        if self._pool_of and not power:
            raise AdapterError(f"{self._server.place}: {self._nothing(unnamed)}")
        pool_kw, lost = self._sums.power_kw({gpu: sample.value for gpu, sample in power.items()})
        kwh = {gpu: mj / MJ_PER_KWH for gpu, mj in self._values(newest, self._config.energy_metric, MOST_MJ).items()}
        busy = self._values(newest, self._config.utilisation_metric, 100.0)
        now = self._clock.now()
        oldest = now - timedelta(seconds=max((sample.age_s for sample in power.values()), default=0.0))
        return Reading(
            at=oldest,
            pool_kw=pool_kw,
            energy_kwh=self._sums.energy_kwh(kwh),
            lost=lost,
            busy_gpus=self._sums.busy_gpus({gpu: percent / 100.0 for gpu, percent in busy.items()}),
            taken=self._taken(power, pool_kw, now),
        )

    def _taken(
        self, power: Mapping[GpuId, Sample], pools: Iterable[str], now: datetime
    ) -> dict[str, tuple[datetime, datetime]]:
        """Over which time each pool's samples were taken: as wide about their mean age as the youngest is from it, so
        that one card that was not scraped lately speaks for itself alone."""
        ages_s: dict[str, list[float]] = {pool: [] for pool in pools}
        for gpu, sample in power.items():
            ages_s.get(self._pool_of[gpu], []).append(sample.age_s)
        spans = {}
        for pool, ages in ages_s.items():
            youngest_s, mean_s = min(ages), sum(ages) / len(ages)
            begins, ends = (now - timedelta(seconds=age_s) for age_s in (2 * mean_s - youngest_s, youngest_s))
            spans[pool] = (begins - SENSOR, ends)
        return spans

    def close(self) -> None:
        """End the connection."""
        self._server.close()

    @property
    def query(self) -> str:
        """What is asked, for a person to try by hand."""
        config = self._config
        names = "|".join((config.power_metric, config.energy_metric, config.utilisation_metric))
        chosen = f",{config.selector}" if config.selector.strip() else ""
        times = f'timestamp({{__name__="{config.power_metric}"{chosen}}})'
        return f'{{__name__=~"{names}"{chosen}}} or label_replace({times}, "{TIME}", "1", "", "")'

    def _newest(self, result: list[Any]) -> tuple[dict[tuple[str, GpuId], Sample], int]:
        """The newest good sample of each metric and card (a card may come in several series: MIG instances, two
        scrapers), and how many series of power name no card."""
        found: dict[tuple[str, GpuId], Sample] = {}
        unnamed = 0
        for sample in self._samples(result):
            key = (sample.metric, sample.gpu)
            if not sample.gpu:
                unnamed += sample.metric == self._config.power_metric
            elif sample.gpu in self._pool_of and (key not in found or sample.age_s < found[key].age_s):
                found[key] = sample
        return found, unnamed

    def _samples(self, result: list[Any]) -> Iterator[Sample]:
        """Every value that is in its form, is a number that can be, and is young enough. A series in no form is none:
        its card ends up among the lost."""
        series = [one for one in map(_parsed, result) if one is not None]
        scraped = {_target(labels): value for labels, _, value in series if TIME in labels}
        for labels, asked_at, value in series:
            at = scraped.get(_target(labels))
            if TIME in labels or at is None or not (isfinite(value) and value >= 0):
                continue
            age_s = max(0.0, asked_at - at)
            if age_s <= self._config.max_age.total_seconds():
                yield Sample(labels["__name__"], labels.get(self._config.uuid_label, ""), age_s, value)

    def _values(self, newest: Mapping[tuple[str, GpuId], Sample], metric: str, most: float) -> dict[GpuId, float]:
        return {s.gpu: s.value for s in newest.values() if s.metric == metric and s.value <= most}

    def _nothing(self, unnamed: int) -> str:
        config = self._config
        if unnamed:
            return f"{unnamed} series of {config.power_metric}, and none has the label {config.uuid_label}"
        age = f"{config.max_age.total_seconds():g} s"
        return f"no sample of {config.power_metric} in the last {age} for any of the {len(self._pool_of)} GPUs"


def _parsed(series: Any) -> tuple[Mapping[str, str], float, float] | None:
    """Labels, moment of the query (s) and value of one series of an answer; None when it is not in its form."""
    try:
        labels, (asked_at, text) = series["metric"], series["value"]
        if TIME not in labels:
            labels["__name__"]
        good = all(isinstance(part, str) for pair in labels.items() for part in pair)
        return (labels, float(asked_at), float(text)) if good else None
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _target(labels: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    """What all values of one card from one scrape have in common."""
    return frozenset(item for item in labels.items() if item[0] not in {"__name__", TIME})
