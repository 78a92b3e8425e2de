"""Marginal carbon intensity of a grid region from WattTime: what one kWh more emits, every five minutes.

Form: https://docs.watttime.org (version 3): a login by user and password gives a token for 30 minutes; `historical` (at
most 32 days in a question) and `forecast` (up to 72 h) tell values by the start of their interval, with the interval's
length and the unit beside them. The unit is pounds of CO2 per MWh, and is checked.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic import Field

from adapters.context import AdapterContext
from adapters.fields import Duration
from adapters.ports import SourceError
from adapters.secrets import Secret
from adapters.signals.base import SignalKind, unit_of
from adapters.signals.live import Ask, Live, Told, within
from adapters.signals.rows import Row, instant, number, rows_of, told
from adapters.signals.web import URL, Refused, Web, WebConfig
from optimizer.domain import Series

UNIT = "lbs_co2_per_mwh"
LONGEST = timedelta(days=30)
TOKEN_S = 25 * 60.0
"""How long a token is used: it holds for 30 minutes."""


class WatttimeConfig(WebConfig):
    """Marginal carbon intensity of a region of WattTime."""

    type: Literal["watttime"] = Field(description="Kind of source.", examples=["watttime"])
    kind: Literal[SignalKind.CARBON] = Field(
        default=SignalKind.CARBON, description="What the values are: always carbon.", examples=["carbon"]
    )
    unit: Literal["lb/MWh"] = Field(default="lb/MWh", description="Unit of the values.", examples=["lb/MWh"])
    url: str = Field(
        default="https://api.watttime.org",
        pattern=URL,
        description="Address of the service.",
        examples=["https://api.watttime.org"],
    )
    region: str = Field(pattern=r"^[A-Z0-9_]{2,40}$", description="The region.", examples=["CAISO_NORTH"])
    username: str = Field(min_length=1, description="User of the account.", examples=["gridpace"])
    password: Secret = Field(description="Where the user's password lies.", examples=["credential:watttime"])
    horizon: Duration = Field(
        default=timedelta(hours=24), description="How far ahead is asked for, up to 72h.", examples=["72h"]
    )
    refresh: Duration = Field(
        default=timedelta(minutes=5), description="How often the source is asked at most.", examples=["5m"]
    )

    def bounds(self) -> tuple[float | None, float | None]:
        """No fuel emits more for a unit of power."""
        return within(self.floor, self.cap, 0.0, 3300.0)


class WatttimeSource:
    """Marginal operating emissions of one region."""

    Config = WatttimeConfig
    live = True

    def __init__(self, config: WatttimeConfig, context: AdapterContext) -> None:
        self._config, self._context = config, context
        self._web = Web(config, context, "WattTime")
        self._unit = unit_of(config.kind, config.unit, context.currency)
        self._live = Live(config, context, self._unit, self._ask)
        self._token: tuple[str, float] | None = None

    def read(self, start: datetime, end: datetime, now: datetime) -> Series:
        """Intensities, measured and forecast. Raises SourceError."""
        return self._live.read(start, end, now)

    def _ask(self, ask: Ask) -> Told:
        rows: list[Row] = []
        at = ask.start
        while at < min(ask.end, ask.now):
            until = min(ask.end, ask.now, at + LONGEST)
            rows += self._rows(ask, "historical", {"start": at.isoformat(), "end": until.isoformat()})
            at = until
        since = max((row.end for row in rows), default=ask.start)
        hours = min(72, max(1, round(self._config.horizon / timedelta(hours=1))))
        ahead = self._rows(ask, "forecast", {"horizon_hours": str(hours)})
        rows += [row for row in ahead if row.start >= since]
        return told(self._config.id, rows, self._unit.convert)

    def _rows(self, ask: Ask, what: str, bounds: dict[str, str]) -> list[Row]:
        query = {"region": self._config.region, "signal_type": "co2_moer", **bounds}
        try:
            answer = self._web.json(ask, f"/v3/{what}", query, self._bearer(ask))
        except Refused as error:
            if error.status != 401:
                raise
            self._token = None
            answer = self._web.json(ask, f"/v3/{what}", query, self._bearer(ask))
        meta = answer.get("meta") if isinstance(answer, dict) else None
        if not isinstance(meta, dict):
            raise SourceError(f"{self._web.place}: the answer to {what} has no meta")
        if meta.get("units") != UNIT:
            raise SourceError(f'{self._web.place}: unit "{meta.get("units")}", where {UNIT} was expected')
        period = timedelta(seconds=float(meta.get("data_point_period_seconds", 300)))
        return rows_of(self._web.place, answer.get("data"), lambda item: _row(item, period))

    def _bearer(self, ask: Ask) -> dict[str, str]:
        """The token's header; a token is asked for when there is none that still holds."""
        clock = self._context.clock
        if self._token is None or clock.monotonic() > self._token[1]:
            login = (self._config.username, self._config.password.reveal(self._context.base_dir))
            answer = self._web.json(ask, "/login", auth=login)
            token = answer.get("token") if isinstance(answer, dict) else None
            if not isinstance(token, str):
                raise SourceError(f"{self._web.place}: the login gave no token")
            self._token = (token, clock.monotonic() + TOKEN_S)
        return {"Authorization": f"Bearer {self._token[0]}"}


def _row(item: Any, period: timedelta) -> Row:
    start = instant(item["point_time"])
    return Row(start, start + period, number(item["value"]))
