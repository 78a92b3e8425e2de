"""Octopus Energy's half-hourly tariffs (Agile and its like) in Great Britain.

Form: https://developer.octopus.energy/rest/guides/endpoints, "standard-unit-rates": UTC bounds of each half-hour, p/kWh
with and without VAT, newest first, in pages. The day is the market's, which ends at 23:00 in London: the last hour of
a local day comes with the next day's, and until then is a gap, not 0.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from adapters.context import AdapterContext
from adapters.ports import SourceError
from adapters.signals.base import SignalKind, unit_of
from adapters.signals.live import Ask, Live, Told, within
from adapters.signals.rows import Row, instant, number, rows_of, told
from adapters.signals.web import URL, Web, WebConfig
from optimizer.domain import Series

PAGE = 1500
MOST_PAGES = 20


class OctopusConfig(WebConfig):
    """A half-hourly tariff of Octopus Energy."""

    type: Literal["octopus"] = Field(description="Kind of source.", examples=["octopus"])
    kind: Literal[SignalKind.PRICE] = Field(
        default=SignalKind.PRICE, description="What the values are: always a price.", examples=["price"]
    )
    unit: Literal["p/kWh"] = Field(default="p/kWh", description="Unit of the values.", examples=["p/kWh"])
    url: str = Field(
        default="https://api.octopus.energy",
        pattern=URL,
        description="Address of the service.",
        examples=["https://api.octopus.energy"],
    )
    tariff: str = Field(
        pattern=r"^E-[12]R-[A-Z0-9-]+-[A-P]$",
        description="Code of the tariff, with the letter of the grid region at its end.",
        examples=["E-1R-AGILE-24-10-01-C"],
    )
    product: str | None = Field(
        default=None,
        pattern=r"^[A-Z0-9-]+$",
        description="Code of the product; absent: the middle of the tariff's code.",
        examples=["AGILE-24-10-01"],
    )
    vat: Literal["excluded", "included"] = Field(
        default="excluded", description="Whether prices hold value-added tax.", examples=["excluded"]
    )
    payment: Literal["DIRECT_DEBIT", "NON_DIRECT_DEBIT"] = Field(
        default="DIRECT_DEBIT",
        description="Way of paying, for tariffs whose prices differ by it.",
        examples=["DIRECT_DEBIT"],
    )

    def bounds(self) -> tuple[float | None, float | None]:
        """The supplier caps Agile at 100 p/kWh."""
        return within(self.floor, self.cap, -100.0, 100.0)

    def day_ahead_due(self) -> tuple[str, str] | None:
        """Published between 16:00 and 16:30 in London; a flat tariff has no end."""
        return "Europe/London", "17:30"


class OctopusSource:
    """Unit rates of one tariff."""

    Config = OctopusConfig
    live = True

    def __init__(self, config: OctopusConfig, context: AdapterContext) -> None:
        self._config, self._web = config, Web(config, context, "Octopus Energy")
        self._unit = unit_of(config.kind, config.unit, context.currency)
        self._live = Live(config, context, self._unit, self._ask)
        self._value = "value_inc_vat" if config.vat == "included" else "value_exc_vat"
        product = config.product or "-".join(config.tariff.split("-")[2:-1])
        self._path = f"/v1/products/{product}/electricity-tariffs/{config.tariff}/standard-unit-rates/"

    def read(self, start: datetime, end: datetime, now: datetime) -> Series:
        """Half-hourly prices as far as they are published. Raises SourceError."""
        return self._live.read(start, end, now)

    def _ask(self, ask: Ask) -> Told:
        rows: list[Row | None] = []
        for page in range(1, MOST_PAGES + 1):
            answer = self._web.json(ask, self._path, self._params(ask, page))
            results = answer.get("results") if isinstance(answer, dict) else None
            rows += rows_of(self._web.place, results, lambda item: self._row(item, ask))
            if not answer.get("next"):
                kept = [row for row in rows if row is not None]
                return told(self._config.id, kept, self._unit.convert)
        raise SourceError(f"{self._web.place}: more than {MOST_PAGES} pages")

    def _params(self, ask: Ask, page: int) -> dict[str, str]:
        bounds = {"period_from": f"{ask.start:%Y-%m-%dT%H:%M:%SZ}", "period_to": f"{ask.end:%Y-%m-%dT%H:%M:%SZ}"}
        return {**bounds, "page_size": str(PAGE), "page": str(page)}

    def _row(self, item: Any, ask: Ask) -> Row | None:
        """One rate; None where it is for another way of paying. A rate without an end holds until further notice."""
        if item.get("payment_method") not in {None, self._config.payment}:
            return None
        end = ask.end if item["valid_to"] is None else instant(item["valid_to"])
        start = instant(item["valid_from"])
        return Row(start, end, number(item[self._value])) if start < end else None
