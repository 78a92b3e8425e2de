"""aWATTar's hourly day-ahead prices (EPEX spot, Germany and Austria).

Form: https://www.awattar.de/services/api: bounds in milliseconds since 1970, EUR/MWh before taxes and fees, each row
with its unit, which is checked. Tomorrow is there from about 14:00 in Berlin. At most 100 questions a day are fair use.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic import Field, model_validator

from adapters.context import AdapterContext
from adapters.fields import Duration
from adapters.ports import SourceError
from adapters.signals.base import SignalKind, unit_of
from adapters.signals.live import Ask, Live, Told, within
from adapters.signals.rows import Row, epoch, number, rows_of, told
from adapters.signals.web import URL, Web, WebConfig
from optimizer.domain import Series

HOSTS = {"DE": "https://api.awattar.de", "AT": "https://api.awattar.at"}


class AwattarConfig(WebConfig):
    """Day-ahead prices of Germany or Austria."""

    type: Literal["awattar"] = Field(description="Kind of source.", examples=["awattar"])
    kind: Literal[SignalKind.PRICE] = Field(
        default=SignalKind.PRICE, description="What the values are: always a price.", examples=["price"]
    )
    unit: Literal["EUR/MWh"] = Field(default="EUR/MWh", description="Unit of the values.", examples=["EUR/MWh"])
    country: Literal["DE", "AT"] = Field(description="Which market.", examples=["DE"])
    url: str = Field(
        default="",
        pattern=f"{URL}|^$",
        description="Address of the service; empty: that of the country.",
        examples=["https://api.awattar.de"],
    )
    refresh: Duration = Field(
        default=timedelta(minutes=30), description="How often the source is asked at most.", examples=["30m"]
    )

    def bounds(self) -> tuple[float | None, float | None]:
        """Limits of the coupled day-ahead auction, with room for their next rise."""
        return within(self.floor, self.cap, -600.0, 6000.0)

    def day_ahead_due(self) -> tuple[str, str] | None:
        """Published about 14:00."""
        return "Europe/Berlin", "15:00"

    @model_validator(mode="before")
    @classmethod
    def _host(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and not fields.get("url") and fields.get("country") in HOSTS:
            return {**fields, "url": HOSTS[fields["country"]]}
        return fields


class AwattarSource:
    """Market prices by the hour."""

    Config = AwattarConfig
    live = True

    def __init__(self, config: AwattarConfig, context: AdapterContext) -> None:
        self._config, self._web = config, Web(config, context, "aWATTar")
        self._unit = unit_of(config.kind, config.unit, context.currency)
        self._live = Live(config, context, self._unit, self._ask)

    def read(self, start: datetime, end: datetime, now: datetime) -> Series:
        """Hourly prices as far as they are published. Raises SourceError."""
        return self._live.read(start, end, now)

    def _ask(self, ask: Ask) -> Told:
        bounds = {"start": f"{ask.start.timestamp() * 1000:.0f}", "end": f"{ask.end.timestamp() * 1000:.0f}"}
        answer = self._web.json(ask, "/v1/marketdata", bounds)
        data = answer.get("data") if isinstance(answer, dict) else None
        return told(self._config.id, rows_of(self._web.place, data, _row), self._unit.convert)


def _row(item: Any) -> Row:
    if str(item["unit"]).lower() != "eur/mwh":
        raise SourceError(f'unit "{item["unit"]}", where Eur/MWh was expected; none is taken')
    start, end = (epoch(item[name] / 1000) for name in ("start_timestamp", "end_timestamp"))
    return Row(start, end, number(item["marketprice"]))
