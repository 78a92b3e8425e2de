"""A tariff as the US Utility Rate Database writes it: energy by the hour, and its demand charges.

Form: https://openei.org/services/doc/rest/util_rates/ (version 8, `detail=full`), a record or the answer that holds it,
kept as a file: a tariff changes by the year, and a plan must not hang on a web site for it. Two tables of 12 months by
24 hours, for weekdays and weekends, name a period; the period's tiers hold `rate` and `adj` in USD per kWh or per kW.
What the record can't say in numbers (ratchets that a comment explains, coincident peaks) is told aloud, not guessed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from adapters.context import AdapterContext
from adapters.fields import ZoneName, parse_zone
from adapters.ports import SourceError
from adapters.signals.base import SignalConfig, SignalKind, local_spans, unit_of
from adapters.signals.tariff import holiday_calendar
from optimizer.domain import DemandCharge, Series
from optimizer.reasons import Note, Reason
from optimizer.timegrid import TimeGrid

_STEP = timedelta(minutes=15)
Hours = Annotated[list[int], Field(min_length=24, max_length=24)]
Table = Annotated[list[Hours], Field(min_length=12, max_length=12)]


class UrdbConfig(SignalConfig):
    """A tariff from the US Utility Rate Database."""

    type: Literal["urdb"] = Field(description="Kind of source.", examples=["urdb"])
    kind: Literal[SignalKind.PRICE] = Field(
        default=SignalKind.PRICE, description="What the values are: always a price.", examples=["price"]
    )
    unit: Literal["USD/kWh"] = Field(default="USD/kWh", description="Unit of the values.", examples=["USD/kWh"])
    path: str = Field(
        min_length=1,
        description="The record, or an answer of the database with it, as a JSON file, from the config's folder.",
        examples=["tariffs/b-19.json"],
    )
    label: str | None = Field(
        default=None, description="Which record, where the file holds several.", examples=["5374efea9bef51471a6965d0"]
    )
    timezone: ZoneName = Field(description="Time zone of the tariff's hours.", examples=["America/Los_Angeles"])
    country: str | None = Field(
        default=None,
        description="Country whose public holidays are priced as weekends (ISO 3166); absent: none.",
        examples=["US"],
    )
    subdivision: str | None = Field(default=None, description="State of the holidays.", examples=["CA"])
    monthly_kwh: float | None = Field(
        default=None,
        gt=0,
        description="The site's energy in a month, which tells the tier of the next kWh; absent: the last tier.",
        examples=[2500000],
    )
    peak_kw: float | None = Field(
        default=None,
        gt=0,
        description="The site's usual peak, which tells the tier of the next kW; absent: the last tier.",
        examples=[4500],
    )


class Tier(BaseModel):
    """A step of a price: `rate` and `adj` per kWh or kW, up to `max`."""

    rate: float = 0.0
    adj: float = 0.0
    max: float | None = None
    unit: str | None = None


Structure = list[Annotated[list[Tier], Field(min_length=1)]]


class UrdbRate(BaseModel):
    """What is read of a record; names are the database's own."""

    label: str = ""
    name: str = ""
    enddate: float | None = None
    energyratestructure: Structure = Field(min_length=1)
    energyweekdayschedule: Table
    energyweekendschedule: Table
    demandratestructure: Structure = Field(default_factory=list)
    demandweekdayschedule: Table | None = None
    demandweekendschedule: Table | None = None
    demandrateunit: str = "kW"
    demandratchetpercentage: list[float] = Field(default_factory=list)
    flatdemandstructure: Structure = Field(default_factory=list)
    flatdemandmonths: Annotated[list[int], Field(min_length=12, max_length=12)] | None = None
    flatdemandunit: str = "kW"
    coincidentratestructure: Structure = Field(default_factory=list)


class UrdbSource:
    """Energy prices and demand charges of one record."""

    Config = UrdbConfig

    def __init__(self, config: UrdbConfig, context: AdapterContext) -> None:
        self._config, self._zone = config, parse_zone(config.timezone)
        self._unit = unit_of(config.kind, config.unit, context.currency)
        self._path = context.path(config.path)
        self._rate = read_rate(self._path, config.label)
        self._holidays = holiday_calendar(config.id, config.country, config.subdivision)
        check(self._path, self._rate)

    def read(self, start: datetime, end: datetime, now: datetime) -> Series:
        """Prices over [start, end), widened to quarter-hours; a tariff is known for all time."""
        spans = local_spans(start, end, self._zone, lambda local: self._unit.convert(self._energy(local)))
        return Series(self._config.id, self._unit.canonical, spans, notes=tuple(self._notes(now)))

    def demand_charges(self, grid: TimeGrid, peaks_so_far: Mapping[str, float]) -> tuple[DemandCharge, ...]:
        """One charge for each priced period, and one for any time, in each billing month that `grid` touches; ids are
        `signal/demand-PERIOD/YYYY-MM` and `signal/demand-any/YYYY-MM`. An interval that lies partly in a period counts.
        """
        flags: dict[str, list[bool]] = {}
        prices: dict[str, float] = {}
        for index in range(len(grid)):
            at = datetime.fromtimestamp(grid.edges[index].timestamp() // 900 * 900, UTC)
            while at < grid.edges[index + 1]:
                local = at.astimezone(self._zone)
                for name, price in self._demand(local):
                    key = f"{self._config.id}/{name}/{local:%Y-%m}"
                    flags.setdefault(key, [False] * len(grid))[index] = True
                    prices[key] = price
                at += _STEP
        return tuple(
            DemandCharge(key, prices[key], peaks_so_far.get(key, 0.0), tuple(active)) for key, active in flags.items()
        )

    def _energy(self, local: datetime) -> float:
        rate = self._rate
        period = self._period(rate.energyweekdayschedule, rate.energyweekendschedule, local)
        return price(rate.energyratestructure[period], self._config.monthly_kwh)

    def _demand(self, local: datetime) -> Iterator[tuple[str, float]]:
        """Charges that count at this moment, with their price per kW."""
        rate = self._rate
        if rate.demandratestructure and rate.demandweekdayschedule and rate.demandweekendschedule:
            period = self._period(rate.demandweekdayschedule, rate.demandweekendschedule, local)
            yield f"demand-{period}", price(rate.demandratestructure[period], self._config.peak_kw)
        if rate.flatdemandstructure and rate.flatdemandmonths:
            tiers = rate.flatdemandstructure[rate.flatdemandmonths[local.month - 1]]
            yield "demand-any", price(tiers, self._config.peak_kw)

    def _period(self, weekday: Sequence[Sequence[int]], weekend: Sequence[Sequence[int]], local: datetime) -> int:
        free = local.weekday() >= 5 or (self._holidays is not None and local.date() in self._holidays)
        return (weekend if free else weekday)[local.month - 1][local.hour]

    def _notes(self, now: datetime) -> Iterator[Note]:
        """What the record holds and is not reckoned with."""
        rate, name = self._rate, self._config.id
        if any(rate.demandratchetpercentage):
            text = "the record has a ratchet on demand, which is not reckoned with: declare it as a charge of the site"
            yield Note(Reason.SIGNAL_GAP, name, f"{name}: {text}")
        if rate.coincidentratestructure:
            text = "the record has a coincident charge, which is not reckoned with: see `coincident_peaks` of the site"
            yield Note(Reason.SIGNAL_GAP, name, f"{name}: {text}")
        if rate.enddate is not None and rate.enddate < now.timestamp():
            ended = datetime.fromtimestamp(rate.enddate, UTC)
            yield Note(
                Reason.STALE_SIGNAL, name, f"{name}: the record ended on {ended:%Y-%m-%d}; is there a newer one?"
            )


def price(tiers: Sequence[Tier], quantity: float | None) -> float:
    """`rate` + `adj` of the tier in which `quantity` lies; of the last one where it is None or above all."""
    if quantity is not None:
        for tier in tiers:
            if tier.max is None or quantity <= tier.max:
                return tier.rate + tier.adj
    return tiers[-1].rate + tiers[-1].adj


def read_rate(path: Path, label: str | None) -> UrdbRate:
    """The one record of a file, or the one with this label. Raises SourceError with file and field."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise SourceError(f"{path}: not JSON ({error})") from error
    items = told.get("items", [told]) if isinstance(told, dict) else told
    records = [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
    chosen = [item for item in records if label is None or item.get("label") == label]
    if len(chosen) != 1:
        known = ", ".join(str(item.get("label")) for item in records[:8]) or "none"
        raise SourceError(f"{path}: {len(chosen)} records fit; name one by `label`: {known}")
    try:
        return UrdbRate.model_validate(chosen[0])
    except ValidationError as error:
        first: Any = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SourceError(f"{path}: {where}: {first['msg']}") from None


def check(path: Path, rate: UrdbRate) -> None:
    """SourceError for periods that a table names and no structure has, and for units that are not kWh and kW."""
    tables: list[tuple[str, Sequence[Sequence[int]] | None, Structure]] = [
        ("energyweekdayschedule", rate.energyweekdayschedule, rate.energyratestructure),
        ("energyweekendschedule", rate.energyweekendschedule, rate.energyratestructure),
        ("flatdemandmonths", [rate.flatdemandmonths] if rate.flatdemandmonths else None, rate.flatdemandstructure),
    ]
    if rate.demandratestructure:
        tables += [
            ("demandweekdayschedule", rate.demandweekdayschedule, rate.demandratestructure),
            ("demandweekendschedule", rate.demandweekendschedule, rate.demandratestructure),
        ]
    for name, table, structure in tables:
        for month, hours in enumerate(table or ()):
            if structure and (wrong := next((n for n in hours if not 0 <= n < len(structure)), None)) is not None:
                raise SourceError(f"{path}: {name}[{month}]: there is no period {wrong}")
    units = {tier.unit or "kWh" for tiers in rate.energyratestructure if len(tiers) > 1 for tier in tiers}
    if units - {"kWh"}:
        raise SourceError(
            f"{path}: energyratestructure: tiers by {', '.join(sorted(units - {'kWh'}))} can't be followed"
        )
    for name, unit, structure in (
        ("demandrateunit", rate.demandrateunit, rate.demandratestructure),
        ("flatdemandunit", rate.flatdemandunit, rate.flatdemandstructure),
    ):
        if structure and unit != "kW":
            raise SourceError(f"{path}: {name}: charges by {unit} can't be followed")
