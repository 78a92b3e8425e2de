"""Day-ahead prices of Europe's bidding zones from ENTSO-E's Transparency Platform, through `entsoe-py`.

Quarter-hours since 1 October 2025, hours before; published about 13:00 in Brussels for the market's next day, at times
hours late. The library (https://github.com/EnergieID/entsoe-py, MIT) runs in a child: see `adapters.signals.child`.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic import Field, model_validator

from adapters.context import AdapterContext
from adapters.fields import Duration
from adapters.registry import require_extra
from adapters.secrets import Secret
from adapters.signals.base import SignalKind, unit_of
from adapters.signals.child import ask_child
from adapters.signals.live import Ask, ChildConfig, Live, Told, within
from adapters.signals.rows import told
from optimizer.domain import Series


class EntsoeConfig(ChildConfig):
    """A bidding zone of Europe."""

    type: Literal["entsoe"] = Field(description="Kind of source.", examples=["entsoe"])
    kind: Literal[SignalKind.PRICE] = Field(
        default=SignalKind.PRICE, description="What the values are: always a price.", examples=["price"]
    )
    unit: str = Field(
        default="EUR/MWh",
        pattern=r"^[A-Z]{3}/MWh$",
        description="Unit of the values; an answer in another currency is refused.",
        examples=["EUR/MWh"],
    )
    zone: str = Field(pattern=r"^[A-Z0-9_]{2,20}$", description="The bidding zone.", examples=["DE_LU"])
    key: Secret = Field(description="Where the platform's security token lies.", examples=["credential:entsoe"])
    refresh: Duration = Field(
        default=timedelta(minutes=15), description="How often the source is asked at most.", examples=["15m"]
    )

    def bounds(self) -> tuple[float | None, float | None]:
        """Limits of the coupled day-ahead auction in EUR, with room for their next rise; other currencies: none."""
        return within(self.floor, self.cap, -600.0, 6000.0) if self.unit == "EUR/MWh" else (self.floor, self.cap)

    def day_ahead_due(self) -> tuple[str, str] | None:
        """Published about 13:00, often later."""
        return "Europe/Brussels", "15:00"

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, fields: Any) -> Any:
        return {**fields, "unit": "EUR/MWh"} if isinstance(fields, dict) and fields.get("unit") is None else fields


class EntsoeSource:
    """Day-ahead prices of one zone."""

    Config = EntsoeConfig
    live = True

    def __init__(self, config: EntsoeConfig, context: AdapterContext) -> None:
        require_extra("entsoe")
        self._config, self._context = config, context
        self._unit = unit_of(config.kind, config.unit, context.currency)
        self._live = Live(config, context, self._unit, self._ask)

    def read(self, start: datetime, end: datetime, now: datetime) -> Series:
        """Prices as far as they are published. Raises SourceError."""
        return self._live.read(start, end, now)

    def _ask(self, ask: Ask) -> Told:
        config = self._config
        question = {
            "library": "entsoe",
            "zone": config.zone,
            "currency": config.unit.partition("/")[0],
            "key": config.key.reveal(self._context.base_dir),
        }
        ca = None if config.ca is None else str(self._context.path(config.ca))
        return told(config.id, ask_child("ENTSO-E", ask, question, config.proxy, ca), self._unit.convert)
