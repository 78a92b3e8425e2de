"""The config of a signal that comes from a file: what its columns mean, and when its values became known.

Why so many words for two columns: exports differ in zone, in whether a stamp begins or ends its interval, and in how
they write the hour that happens twice; each of these shifts a plan by an hour without a single error. Nothing is
guessed where two readings are possible.
"""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from adapters.fields import Duration, TimeOfDay, ZoneName
from adapters.signals.base import SignalConfig


class Publication(StrEnum):
    """When a value becomes known: before all, the day before, when its interval begins, or when it has ended."""

    ALL = "all"
    DAY_AHEAD = "day_ahead"
    REAL_TIME = "real_time"
    REAL_TIME_LAGGED = "real_time_lagged"


class CsvConfig(SignalConfig):
    """A CSV (also .gz) or Parquet file with one row an interval."""

    measured: ClassVar[bool] = True

    type: Literal["csv"] = Field(description="Kind of source.", examples=["csv"])
    path: str = Field(
        min_length=1,
        description="The file: .csv, .csv.gz or .parquet (with the extra `parquet`), from the config's folder. It is "
        "read again when it changes.",
        examples=["data/prices/caiso_np15.csv.gz"],
    )
    timezone: ZoneName = Field(
        default="UTC",
        description="Time zone of stamps that carry no offset of their own: an IANA name or an offset.",
        examples=["America/Chicago"],
    )
    hour: Literal["beginning", "ending"] = Field(
        default="beginning", description="Whether a stamp says when its interval begins or ends.", examples=["ending"]
    )
    interval: Duration | None = Field(
        default=None, description="Length of an interval; absent: found from the spacing of the rows.", examples=["1h"]
    )
    time_column: str | None = Field(
        default=None, description="Column of the stamp, or of the date; absent: the first.", examples=["Delivery Date"]
    )
    time_format: str | None = Field(
        default=None,
        description="How stamps are written, in strptime codes; absent: ISO 8601, year first.",
        examples=["%m/%d/%Y"],
    )
    hour_column: str | None = Field(
        default=None,
        description="Column of the hour, where the date stands alone: 1 to 24, 01:00 to 24:00.",
        examples=["Hour Ending"],
    )
    repeated_hour_column: str | None = Field(
        default=None,
        description="Column that says Y in the second of the two hours that autumn's clock change makes alike; absent: "
        "the order of the rows tells.",
        examples=["Repeated Hour Flag"],
    )
    value_column: str | None = Field(
        default=None,
        description="Column of the value; may be absent when only one column is left.",
        examples=["price_per_mwh"],
    )
    separator: Literal[",", ";", "\t", "|"] = Field(
        default=",", description="What stands between two fields.", examples=[";"]
    )
    decimal: Literal[".", ","] = Field(default=".", description="The decimal mark.", examples=[","])
    publication: Publication = Field(
        default=Publication.ALL,
        description="When a value counts as known: all (as soon as it is in the file), day_ahead (a market day at "
        "`publication_time` of the day before), real_time (when its interval begins), real_time_lagged (when it has "
        "ended). Recorded files need one of the last three in a backtest.",
        examples=["day_ahead"],
    )
    publication_time: TimeOfDay = Field(
        default="13:00", description="Local time at which tomorrow becomes known (day_ahead).", examples=["13:00"]
    )
    market_timezone: ZoneName | None = Field(
        default=None,
        description="Time zone of the market's day (day_ahead); absent: `timezone`.",
        examples=["America/Los_Angeles"],
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.interval is not None and not timedelta(0) < self.interval <= timedelta(days=1):
            raise ValueError("interval: must be above 0 and at most 1d")
        if self.decimal == self.separator:
            raise ValueError("decimal: the decimal mark and the separator are both a comma")
        return self
