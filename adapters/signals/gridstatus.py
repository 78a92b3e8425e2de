"""Prices and loads of the American markets: CAISO, ERCOT, PJM, MISO, NYISO, ISO-NE and SPP, through `gridstatus`.

Why another's library: each operator has web pages and files of its own, with its own clock changes, and changes them;
gridstatus (https://github.com/gridstatus/gridstatus, BSD-3) follows that. Why in a child: see `adapters.signals.child`.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Literal, Self

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

Market = Literal["CAISO", "ERCOT", "PJM", "MISO", "NYISO", "ISONE", "SPP"]
HISTORY = {"day_ahead": timedelta(days=7), "real_time": timedelta(hours=6)}

DUE = {
    "CAISO": ("America/Los_Angeles", "15:00"),
    "ERCOT": ("America/Chicago", "15:00"),
    "PJM": ("America/New_York", "15:30"),
    "MISO": ("EST", "15:30"),
    "NYISO": ("America/New_York", "12:30"),
    "ISONE": ("America/New_York", "15:30"),
    "SPP": ("America/Chicago", "15:30"),
}


class GridstatusConfig(ChildConfig):
    """A market operator of North America."""

    type: Literal["gridstatus"] = Field(description="Kind of source.", examples=["gridstatus"])
    kind: Literal[SignalKind.PRICE, SignalKind.SYSTEM_LOAD] = Field(
        default=SignalKind.PRICE,
        description="What the values are: price, or system_load (the operator's meter, then its forecast, MW).",
        examples=["price"],
    )
    unit: Literal["USD/MWh", "MW"] | None = Field(
        default=None, description="Unit of the values: USD/MWh, or MW for loads.", examples=["USD/MWh"]
    )
    market: Market = Field(description="The operator.", examples=["ERCOT"])
    product: Literal["day_ahead", "real_time"] = Field(
        default="day_ahead",
        description="Which price: day_ahead (hourly), or real_time (ERCOT 15 min, else 5 min; known when over).",
        examples=["real_time"],
    )
    location: str | None = Field(
        default=None,
        min_length=1,
        description="Node, zone or hub, as the operator names it; in PJM its number.",
        examples=["HB_HUBAVG"],
    )
    key: Secret | None = Field(
        default=None,
        description="Where the API key lies (PJM Data Miner 2).",
        examples=["credential:pjm"],
    )
    history: Duration | None = Field(
        default=None,
        description="How far back is asked for at the start; absent: 7d, or 6h in real time.",
        examples=["14d"],
    )

    def bounds(self) -> tuple[float | None, float | None]:
        """What no node of these markets has seen or can see under their caps; loads of the largest in MW."""
        if self.kind is SignalKind.SYSTEM_LOAD:
            return within(self.floor, self.cap, 0.0, 300_000.0)
        return within(self.floor, self.cap, -3000.0, 15_000.0)

    def day_ahead_due(self) -> tuple[str, str] | None:
        """The hour after the market's usual time of publication; none in real time."""
        return DUE[self.market] if self.kind is SignalKind.PRICE and self.product == "day_ahead" else None

    @model_validator(mode="before")
    @classmethod
    def _units(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and fields.get("unit") is None:
            return {**fields, "unit": "MW" if fields.get("kind") == "system_load" else "USD/MWh"}
        return fields

    @model_validator(mode="after")
    def _complete(self) -> Self:
        price = self.kind is SignalKind.PRICE
        if price and self.location is None:
            raise ValueError("`location` is missing: the node, zone or hub whose price this is")
        if self.market == "PJM" and self.key is None:
            raise ValueError("`key` is missing: PJM's Data Miner asks for one")
        if price and self.market == "PJM" and not str(self.location).isdigit():
            raise ValueError("`location`: PJM names nodes by number, such as 51217 for the Western hub")
        if (self.unit == "MW") == price:
            raise ValueError("`unit` is USD/MWh for prices and MW for loads")
        return self


class GridstatusSource:
    """One price or load of one operator."""

    Config = GridstatusConfig
    live = True

    def __init__(self, config: GridstatusConfig, context: AdapterContext) -> None:
        require_extra("gridstatus")
        self._config, self._context = config, context
        self._unit = unit_of(config.kind, config.unit, context.currency)
        self._live = Live(config, context, self._unit, self._ask)

    def read(self, start: datetime, end: datetime, now: datetime) -> Series:
        """Values as far as they are published. Raises SourceError."""
        return self._live.read(start, end, now)

    def _ask(self, ask: Ask) -> Told:
        config, base = self._config, self._context.base_dir
        ask = replace(ask, start=min(ask.end, max(ask.start, ask.now - (config.history or HISTORY[config.product]))))
        question = {
            "library": "gridstatus",
            "market": config.market,
            "kind": str(config.kind),
            "product": config.product,
            "location": config.location,
            "key": None if config.key is None else config.key.reveal(base),
        }
        ca = None if config.ca is None else str(self._context.path(config.ca))
        return told(config.id, ask_child(config.market, ask, question, config.proxy, ca), self._unit.convert)
