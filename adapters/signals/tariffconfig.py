"""The config of a time-of-use tariff, and the proof that it prices every moment of the year exactly once.

Why proved up front: a tariff sheet typed with a hole between two seasons would otherwise show itself as a missing
price at the one midnight when nobody looks. A hole or an overlap is an error that names season, day and time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date, timedelta
from itertools import islice
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from adapters.fields import AdapterConfig, Id, ZoneName, did_you_mean, parse_time_of_day
from adapters.signals.base import SignalConfig, SignalKind

WEEK = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DayName = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun", "holiday", "weekday", "weekend", "all"]
QUARTERS = 96
_MONTH_DAY = re.compile(r"^\d{2}-\d{2}$")
_LEAP_YEAR = 2024


def day_names(names: list[DayName]) -> frozenset[str]:
    """Day names with weekday, weekend (which holidays belong to) and all written out."""
    groups: dict[str, tuple[str, ...]] = {
        "weekday": WEEK[:5],
        "weekend": (*WEEK[5:], "holiday"),
        "all": (*WEEK, "holiday"),
    }
    return frozenset(day for name in names for day in groups.get(name, (name,)))


def quarters(hours: list[str]) -> frozenset[int]:
    """Quarter-hours of the day, 0 to 95, in ranges such as `16:00-21:00`; a range may pass midnight."""
    found: set[int] = set()
    for text in hours:
        first, dash, last = text.partition("-")
        if not dash:
            raise ValueError(f'"{text}" is not a range of hours; write it as 16:00-21:00')
        start, end = parse_time_of_day(first.strip()), parse_time_of_day(last.strip())
        if start % 15 or end % 15 or start == end:
            raise ValueError(f'"{text}" must begin and end on different quarter-hours')
        length = (end - start) % 1440 or 1440
        found.update((start // 15 + step) % QUARTERS for step in range(length // 15))
    return frozenset(found)


def _checked_hours(hours: list[str]) -> list[str]:
    quarters(hours)
    return hours


def _checked_day(text: str) -> str:
    try:
        if not _MONTH_DAY.match(text):
            raise ValueError(text)
        date.fromisoformat(f"{_LEAP_YEAR}-{text}")
    except ValueError:
        raise ValueError(f'"{text}" is not a day of the year; write it as MM-DD') from None
    return text


MonthDay = Annotated[str, AfterValidator(_checked_day)]
Hours = Annotated[list[str], AfterValidator(_checked_hours)]


class Season(AdapterConfig):
    """A part of the year."""

    name: Id = Field(description="Name of the season; periods refer to it.", examples=["summer"])
    first: MonthDay = Field(description="Its first day, MM-DD.", examples=["06-01"])
    last: MonthDay = Field(description="Its last day, MM-DD; may lie in the next year.", examples=["09-30"])

    def holds(self, day: date) -> bool:
        """True when the season holds this day."""
        text = f"{day:%m-%d}"
        if self.first <= self.last:
            return self.first <= text <= self.last
        return text >= self.first or text <= self.last


class Period(AdapterConfig):
    """Hours that share a price."""

    name: Id = Field(description="Name of the period; several entries may share it.", examples=["peak"])
    price: float = Field(description="Energy price, in `unit`.", examples=[0.41], allow_inf_nan=False)
    seasons: list[Id] = Field(
        default_factory=list, description="Seasons in which it applies; empty: all.", examples=[["summer"]]
    )
    days: list[DayName] = Field(
        default=["all"],
        min_length=1,
        description="Days on which it applies: mon to sun, holiday, weekday, weekend (holidays included), all.",
        examples=[["weekday"]],
    )
    hours: Hours = Field(
        default=["00:00-24:00"],
        min_length=1,
        description="Local hours, on quarter-hours; a range may pass midnight.",
        examples=[["16:00-21:00"]],
    )


class TariffDemandCharge(AdapterConfig):
    """Money for the highest mean power of a billing month."""

    name: Id = Field(description="Name of the charge.", examples=["summer_peak"])
    price_per_kw: float = Field(ge=0, description="Price per kW of the month's highest interval.", examples=[21.5])
    periods: list[Id] = Field(
        default_factory=list, description="Periods whose power counts; empty: any time.", examples=[["peak"]]
    )
    seasons: list[Id] = Field(
        default_factory=list, description="Seasons in which it is charged; empty: all.", examples=[["summer"]]
    )


class TariffConfig(SignalConfig):
    """A time-of-use tariff."""

    type: Literal["tariff"] = Field(description="Kind of source.", examples=["tariff"])
    timezone: ZoneName = Field(
        description="Time zone of the tariff's hours: an IANA name or an offset.", examples=["America/Los_Angeles"]
    )
    country: str | None = Field(
        default=None,
        description="Country whose public holidays count, as ISO 3166 code; absent: no holidays.",
        examples=["US"],
    )
    subdivision: str | None = Field(default=None, description="State or province of the holidays.", examples=["CA"])
    seasons: list[Season] = Field(
        default_factory=list,
        description="Parts of the year, covering each day once; empty: the whole year is one season.",
        examples=[
            [
                {"name": "summer", "first": "06-01", "last": "09-30"},
                {"name": "winter", "first": "10-01", "last": "05-31"},
            ]
        ],
    )
    periods: list[Period] = Field(
        min_length=1,
        description="Hours and their prices, covering each moment of the year once.",
        examples=[
            [
                {"name": "peak", "price": 0.41, "hours": ["16:00-21:00"]},
                {"name": "off_peak", "price": 0.19, "hours": ["21:00-16:00"]},
            ]
        ],
    )
    demand_charges: list[TariffDemandCharge] = Field(
        default_factory=list,
        description="Charges for the month's highest power.",
        examples=[[{"name": "any_time", "price_per_kw": 18.2}]],
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if problems := list(islice(self._problems(), 5)):
            raise ValueError("; ".join(problems))
        return self

    def _problems(self) -> Iterator[str]:
        """Everything wrong with the tariff as a whole, each beginning with the field that is at fault."""
        if self.kind is not SignalKind.PRICE:
            yield f"kind: a tariff is a price, not {self.kind}"
        yield from self._unknown_names()
        yield from self._calendar_problems()
        yield from self._clock_problems()

    def _unknown_names(self) -> Iterator[str]:
        seasons, periods = [season.name for season in self.seasons], [period.name for period in self.periods]
        users: list[tuple[str, list[Id]]] = [(f"periods[{i}]", item.seasons) for i, item in enumerate(self.periods)]
        users += [(f"demand_charges[{i}]", item.seasons) for i, item in enumerate(self.demand_charges)]
        for field, names in users:
            for name in names:
                if name not in seasons:
                    yield f'{field}.seasons: "{name}" is not a season of this tariff.{did_you_mean(name, seasons)}'
        for i, charge in enumerate(self.demand_charges):
            for name in charge.periods:
                if name not in periods:
                    hint = did_you_mean(name, periods)
                    yield f'demand_charges[{i}].periods: "{name}" is not a period of this tariff.{hint}'
        for field, names in (("seasons", seasons), ("demand_charges", [item.name for item in self.demand_charges])):
            if twice := next((name for name in names if names.count(name) > 1), None):
                yield f'{field}: "{twice}" is there twice'
        if self.subdivision and not self.country:
            yield "subdivision: needs country as well"

    def _calendar_problems(self) -> Iterator[str]:
        if not self.seasons:
            return
        for number in range(366):
            day = date(_LEAP_YEAR, 1, 1) + timedelta(days=number)
            holding = [season.name for season in self.seasons if season.holds(day)]
            if len(holding) != 1:
                what = f"lies in {' and '.join(holding)}" if holding else "lies in no season"
                yield f"seasons: {day:%m-%d} {what}"

    def _clock_problems(self) -> Iterator[str]:
        seasons: list[str | None] = [season.name for season in self.seasons] or [None]
        for season in seasons:
            for day in (*WEEK, "holiday") if self.country else WEEK:
                table = self.day_table(season, day)
                for quarter, periods in enumerate(table):
                    if len(periods) != 1 and (quarter == 0 or periods != table[quarter - 1]):
                        names = " and ".join(period.name for period in periods)
                        where = f"{season + ' ' if season else ''}{day} {quarter // 4:02d}:{quarter % 4 * 15:02d}"
                        yield f"periods: {where} is in {names or 'no period'}"

    def day_table(self, season: str | None, day: str) -> list[list[Period]]:
        """The periods of each quarter-hour of such a day; exactly one each once the tariff is accepted."""
        table: list[list[Period]] = [[] for _ in range(QUARTERS)]
        for period in self.periods:
            if (season is None or not period.seasons or season in period.seasons) and day in day_names(period.days):
                for quarter in quarters(period.hours):
                    table[quarter].append(period)
        return table
