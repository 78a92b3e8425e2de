"""A time-of-use tariff: seasons, weekdays, weekends, public holidays and demand charges, laid over the real calendar.

Why from local wall time: a tariff's day has 92, 96 or 100 quarter-hours, and a table that merely repeats every 24
hours is an hour off for half of the year. Each quarter-hour of UTC is asked what time it is there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any

from adapters.context import AdapterContext
from adapters.fields import parse_zone
from adapters.ports import SourceError
from adapters.signals.base import local_spans, unit_of
from adapters.signals.tariffconfig import WEEK, Period, TariffConfig, TariffDemandCharge
from optimizer.domain import DemandCharge, Series
from optimizer.timegrid import TimeGrid

_STEP = timedelta(minutes=15)


class TariffSource:
    """Energy prices by local time, and the demand charges that go with them."""

    Config = TariffConfig

    def __init__(self, config: TariffConfig, context: AdapterContext) -> None:
        self._config, self._zone = config, parse_zone(config.timezone)
        self._unit = unit_of(config.kind, config.unit, context.currency)
        self._holidays = holiday_calendar(config.id, config.country, config.subdivision)
        self._period_of = lru_cache(maxsize=4096)(self._day_periods)

    def read(self, start: datetime, end: datetime, now: datetime) -> Series:
        """Prices over [start, end), widened to quarter-hours; a tariff is known for all time."""
        spans = local_spans(start, end, self._zone, lambda local: self._unit.convert(self._period(local).price))
        return Series(self._config.id, self._unit.canonical, spans)

    def demand_charges(self, grid: TimeGrid, peaks_so_far: Mapping[str, float]) -> tuple[DemandCharge, ...]:
        """One charge for each declared charge and billing month that `grid` touches; ids are `signal/charge/YYYY-MM`.

        `peaks_so_far` gives the month's highest interval mean so far in kW by that id; an id that is absent has had
        none. An interval that lies partly in a charged period counts as charged.
        """
        flags: dict[str, list[bool]] = {}
        prices: dict[str, float] = {}
        for index in range(len(grid)):
            for local in self._quarters(grid.edges[index], grid.edges[index + 1]):
                for charge in self._config.demand_charges:
                    if self._charged(charge, local):
                        key = f"{self._config.id}/{charge.name}/{local:%Y-%m}"
                        flags.setdefault(key, [False] * len(grid))[index] = True
                        prices[key] = charge.price_per_kw
        return tuple(
            DemandCharge(key, prices[key], peaks_so_far.get(key, 0.0), tuple(active)) for key, active in flags.items()
        )

    def _quarters(self, start: datetime, end: datetime) -> Iterator[datetime]:
        """Local times of the quarter-hours that [start, end) touches."""
        at = datetime.fromtimestamp(start.timestamp() // 900 * 900, UTC)
        while at < end:
            yield at.astimezone(self._zone)
            at += _STEP

    def _charged(self, charge: TariffDemandCharge, local: datetime) -> bool:
        in_season = not charge.seasons or self._season(local.date()) in charge.seasons
        return in_season and (not charge.periods or self._period(local).name in charge.periods)

    def _period(self, local: datetime) -> Period:
        day = local.date()
        kind = "holiday" if self._holidays is not None and day in self._holidays else WEEK[day.weekday()]
        return self._period_of(self._season(day), kind)[local.hour * 4 + local.minute // 15]

    def _day_periods(self, season: str | None, day: str) -> tuple[Period, ...]:
        return tuple(periods[0] for periods in self._config.day_table(season, day))

    def _season(self, day: date) -> str | None:
        return next((season.name for season in self._config.seasons if season.holds(day)), None)


def holiday_calendar(signal: str, country: str | None, subdivision: str | None) -> Any:
    """A calendar that answers `day in calendar`, or None; raises SourceError naming country or subdivision."""
    if country is None:
        return None
    import holidays

    try:
        return holidays.country_holidays(country, subdiv=subdivision)
    except NotImplementedError as error:
        raise SourceError(f"{signal}: country, subdivision: {error}") from error
