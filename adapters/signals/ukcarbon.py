"""Carbon intensity of Great Britain's grid: the country, or one of its regions.

Form: https://carbon-intensity.github.io/api-definitions/: half-hours with UTC bounds, g/kWh, a forecast for up to 96
hours ahead; nationally an `actual` as well once the half-hour is over, null until then and revised for a day. Data of
the National Energy System Operator, CC BY 4.0.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic import Field

from adapters.context import AdapterContext
from adapters.ports import SourceError
from adapters.signals.base import SignalKind, unit_of
from adapters.signals.live import Ask, Live, Told, within
from adapters.signals.rows import Row, instant, number, rows_of, told
from adapters.signals.web import URL, Web, WebConfig
from optimizer.domain import Series

LONGEST = timedelta(days=13)
"""The service refuses more than 14 days at once."""


class UkCarbonConfig(WebConfig):
    """Carbon intensity of Great Britain."""

    type: Literal["uk_carbon"] = Field(description="Kind of source.", examples=["uk_carbon"])
    kind: Literal[SignalKind.CARBON] = Field(
        default=SignalKind.CARBON, description="What the values are: always carbon.", examples=["carbon"]
    )
    unit: Literal["g/kWh"] = Field(default="g/kWh", description="Unit of the values.", examples=["g/kWh"])
    region: int | None = Field(
        default=None,
        ge=1,
        le=18,
        description="Number of a region (1 North Scotland to 17 Wales; 13 is London, 18 Great Britain); absent: the "
        "country, with actuals.",
        examples=[13],
    )
    url: str = Field(
        default="https://api.carbonintensity.org.uk",
        pattern=URL,
        description="Address of the service.",
        examples=["https://api.carbonintensity.org.uk"],
    )

    def bounds(self) -> tuple[float | None, float | None]:
        """No fuel emits more for a unit of power."""
        return within(self.floor, self.cap, 0.0, 1500.0)


class UkCarbonSource:
    """Average intensity by the half-hour: actuals where there are some, else the forecast."""

    Config = UkCarbonConfig
    live = True

    def __init__(self, config: UkCarbonConfig, context: AdapterContext) -> None:
        self._config, self._web = config, Web(config, context, "Carbon Intensity")
        self._unit = unit_of(config.kind, config.unit, context.currency)
        self._live = Live(config, context, self._unit, self._ask)

    def read(self, start: datetime, end: datetime, now: datetime) -> Series:
        """Intensities as far as they are known. Raises SourceError."""
        return self._live.read(start, end, now)

    def _ask(self, ask: Ask) -> Told:
        rows: list[Row] = []
        at = ask.start
        while at < ask.end:
            until = min(ask.end, at + LONGEST)
            rows += rows_of(self._web.place, self._items(ask, at, until), _row)
            at = until
        return told(self._config.id, rows, self._unit.convert)

    def _items(self, ask: Ask, start: datetime, end: datetime) -> Any:
        """Rows of one question; a region's lie one level deeper. A window in the far future has none."""
        region = self._config.region
        bounds = f"{start:%Y-%m-%dT%H:%MZ}/{end:%Y-%m-%dT%H:%MZ}"
        path = f"/intensity/{bounds}" if region is None else f"/regional/intensity/{bounds}/regionid/{region}"
        answer = self._web.json(ask, path)
        data = answer.get("data") if isinstance(answer, dict) else None
        if region is not None:
            data = data[0] if isinstance(data, list) and len(data) == 1 else data
            data = data.get("data") if isinstance(data, dict) else None
        if data is None:
            raise SourceError(f"{self._web.place}: the answer has no data")
        return data


def _row(item: Any) -> Row:
    intensity = item["intensity"]
    actual = number(intensity.get("actual"))
    value = number(intensity["forecast"]) if actual is None else actual
    return Row(instant(item["from"]), instant(item["to"]), value)
