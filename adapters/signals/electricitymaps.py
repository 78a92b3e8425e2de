"""Carbon intensity of a zone from Electricity Maps: average, by the hour.

Form: https://portal.electricitymaps.com/developer-hub/api/reference: `history` tells the last 24 hours on every plan,
`past-range` (at most ten days in a question) and `forecast` need a paid one. Values for the last hours are often
estimated at first and revised within two days; which ones are is told in a note, or they are left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic import Field

from adapters.context import AdapterContext
from adapters.ports import SourceError
from adapters.secrets import Secret
from adapters.signals.base import SignalKind, unit_of
from adapters.signals.live import Ask, Live, Told, within
from adapters.signals.rows import Row, instant, number, rows_of, told
from adapters.signals.web import URL, Web, WebConfig
from optimizer.domain import Series
from optimizer.reasons import Note, Reason, Severity

HOUR = timedelta(hours=1)
LONGEST = timedelta(days=10)


class ElectricityMapsConfig(WebConfig):
    """Carbon intensity of a zone of Electricity Maps."""

    type: Literal["electricity_maps"] = Field(description="Kind of source.", examples=["electricity_maps"])
    kind: Literal[SignalKind.CARBON] = Field(
        default=SignalKind.CARBON, description="What the values are: always carbon.", examples=["carbon"]
    )
    unit: Literal["g/kWh"] = Field(default="g/kWh", description="Unit of the values.", examples=["g/kWh"])
    url: str = Field(
        default="https://api.electricitymaps.com",
        pattern=URL,
        description="Address of the service.",
        examples=["https://api.electricitymaps.com"],
    )
    zone: str = Field(pattern=r"^[A-Z0-9-]{2,20}$", description="Key of the zone.", examples=["US-TEX-ERCO"])
    token: Secret = Field(description="Where the API token lies.", examples=["credential:electricity-maps"])
    factors: Literal["lifecycle", "direct"] = Field(
        default="lifecycle", description="Emissions of the whole life cycle, or of operation only.", examples=["direct"]
    )
    estimated: Literal["accept", "leave_out"] = Field(
        default="accept", description="What is done about values that are estimated.", examples=["leave_out"]
    )
    past: bool = Field(
        default=False,
        description="Whether the plan of the account holds `past-range`; without it 24 hours are known.",
        examples=[True],
    )
    forecast: bool = Field(
        default=False, description="Whether the plan of the account holds `forecast`.", examples=[True]
    )

    def bounds(self) -> tuple[float | None, float | None]:
        """No fuel emits more for a unit of power."""
        return within(self.floor, self.cap, 0.0, 1500.0)


class ElectricityMapsSource:
    """Average intensity of one zone."""

    Config = ElectricityMapsConfig
    live = True

    def __init__(self, config: ElectricityMapsConfig, context: AdapterContext) -> None:
        self._config, self._context = config, context
        self._web = Web(config, context, "Electricity Maps")
        self._unit = unit_of(config.kind, config.unit, context.currency)
        self._live = Live(config, context, self._unit, self._ask)

    def read(self, start: datetime, end: datetime, now: datetime) -> Series:
        """Intensities as far as the plan of the account tells them. Raises SourceError."""
        return self._live.read(start, end, now)

    def _ask(self, ask: Ask) -> Told:
        items: list[Any] = []
        if self._config.past:
            at = ask.start
            while at < min(ask.end, ask.now):
                until = min(ask.end, ask.now, at + LONGEST)
                bounds = {"start": f"{at:%Y-%m-%dT%H:%M:%SZ}", "end": f"{until:%Y-%m-%dT%H:%M:%SZ}"}
                items += self._items(ask, "past-range", "data", bounds)
                at = until
        else:
            items += self._items(ask, "history", "history", {})
        measured = [(row, guessed) for row, guessed in rows_of(self._web.place, items, _row) if row.end > ask.start]
        rows = [row for row, guessed in measured if not guessed or self._config.estimated == "accept"]
        if self._config.forecast:
            rows += self._ahead(ask, max((row.end for row, _ in measured), default=ask.start))
        return told(self._config.id, rows, self._unit.convert, self._notes(measured))

    def _ahead(self, ask: Ask, since: datetime) -> list[Row]:
        """The forecast, from where nothing is measured yet."""
        items = self._items(ask, "forecast", "forecast", {})
        return [row for row, _ in rows_of(self._web.place, items, _row) if row.start >= since]

    def _items(self, ask: Ask, what: str, key: str, bounds: dict[str, str]) -> list[Any]:
        config = self._config
        query = {"zone": config.zone, "emissionFactorType": config.factors, **bounds}
        if config.estimated == "leave_out":
            query["disableEstimations"] = "true"
        headers = {"auth-token": config.token.reveal(self._context.base_dir)}
        answer = self._web.json(ask, f"/v3/carbon-intensity/{what}", query, headers)
        items = answer.get(key) if isinstance(answer, dict) else None
        if not isinstance(items, list):
            raise SourceError(f"{self._web.place}: the answer to {what} has no {key}")
        if answer.get("zone", config.zone) != config.zone:
            raise SourceError(f"{self._web.place}: the answer is for zone {answer['zone']}, not {config.zone}")
        return items

    def _notes(self, measured: Iterable[tuple[Row, bool]]) -> tuple[Note, ...]:
        guessed = [row for row, estimated in measured if estimated]
        if not guessed:
            return ()
        done = "taken as they are" if self._config.estimated == "accept" else "left out"
        text = f"{self._config.id}: {len(guessed)} h are estimated by the service, and {done}"
        return (Note(Reason.SIGNAL_ESTIMATED, self._config.id, text, Severity.INFO, guessed[0].start),)


def _row(item: Any) -> tuple[Row, bool]:
    """One hour, and whether it is estimated."""
    start = instant(item["datetime"])
    return Row(start, start + HOUR, number(item["carbonIntensity"])), bool(item.get("isEstimated", False))
