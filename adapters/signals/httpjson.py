"""Any service that answers with JSON: the config says where rows, times and values lie, in JMESPath.

Why a language for paths (https://jmespath.org) and not a plugin: most suppliers and most in-house services answer with
some list of stamps and numbers, and an operator should not have to write Python to read one. What such an answer
cannot say of itself stays declared: zone, whether a stamp begins or ends its interval, and the unit; where it does say
its unit, `unit_path` and `unit_is` hold it to that.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from adapters.context import AdapterContext
from adapters.fields import Duration, ZoneName, parse_zone
from adapters.ports import SourceError
from adapters.secrets import Secret
from adapters.signals.base import unit_of
from adapters.signals.csvconfig import CsvConfig
from adapters.signals.live import Ask, Live, Told
from adapters.signals.rows import epoch, number, rows_of
from adapters.signals.table import Table
from adapters.signals.web import Web, WebConfig
from optimizer.domain import Series, Span
from optimizer.reasons import Note, Reason

HOLES = ("start", "end", "start_s", "end_s", "start_ms", "end_ms", "start_date", "end_date")
_HOLE = re.compile(r"\{([^{}]*)\}")


@lru_cache(maxsize=64)
def _compiled(path: str) -> Any:
    import jmespath

    try:
        return jmespath.compile(path)
    except jmespath.exceptions.JMESPathError as error:
        raise ValueError(f'"{path}" is not JMESPath: {str(error).splitlines()[0]}') from None


def _checked_path(path: str) -> str:
    _compiled(path)
    return path


def _checked_url(text: str) -> str:
    for name in _HOLE.findall(text):
        if name not in HOLES:
            raise ValueError(f'"{{{name}}}" is nothing that can be filled in; there are {", ".join(HOLES)}')
    return text


JmesPath = Annotated[str, AfterValidator(_checked_path)]


class HttpJsonConfig(WebConfig):
    """A service that answers with JSON."""

    type: Literal["http_json"] = Field(description="Kind of source.", examples=["http_json"])
    url: Annotated[str, AfterValidator(_checked_url)] = Field(
        pattern=r"^https?://[^\s/?#@]+(/[^\s#]*)?$",
        description="Address, with its query. {start} and {end} stand for the times asked for in UTC (ISO 8601), "
        "{start_s} and {end_s} in seconds, {start_ms} and {end_ms} in milliseconds since 1970, {start_date} and "
        "{end_date} for days in `timezone` (the last one included). Keys and tokens don't belong here.",
        examples=["https://prices.example.net/v1/spot?from={start}&to={end}"],
    )
    rows: JmesPath = Field(
        default="@", description="JMESPath to the list of rows; absent: the answer is one.", examples=["data.prices[]"]
    )
    time: JmesPath = Field(description="JMESPath of a row's stamp.", examples=["start"])
    value: JmesPath = Field(description="JMESPath of a row's value.", examples=["price.amount"])
    time_format: str | None = Field(
        default=None,
        description="How stamps are written: unix (seconds since 1970), unix_ms, or strptime codes; absent: ISO 8601.",
        examples=["unix_ms"],
    )
    timezone: ZoneName = Field(
        default="UTC", description="Time zone of stamps without an offset.", examples=["Europe/Berlin"]
    )
    hour: Literal["beginning", "ending"] = Field(
        default="beginning", description="Whether a stamp says when its interval begins or ends.", examples=["ending"]
    )
    interval: Duration | None = Field(
        default=None, description="Length of an interval; absent: found from the spacing of the rows.", examples=["1h"]
    )
    unit_path: JmesPath | None = Field(
        default=None, description="JMESPath to where the answer says its unit.", examples=["meta.unit"]
    )
    unit_is: str | None = Field(
        default=None, description="What must stand there; anything else is refused.", examples=["EUR/MWh"]
    )
    header: str = Field(
        default="Authorization", pattern=r"^[A-Za-z0-9-]+$", description="Header that carries the token.",
        examples=["X-API-Key"],
    )  # fmt: skip
    token: Secret | None = Field(
        default=None,
        description="Where the token lies. In the header Authorization it follows the word Bearer.",
        examples=["credential:prices"],
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.unit_path is None) != (self.unit_is is None):
            raise ValueError("`unit_path` and `unit_is` go together")
        if self.interval is not None and not timedelta(0) < self.interval <= timedelta(days=1):
            raise ValueError("interval: must be above 0 and at most 1d")
        return self


class HttpJsonSource:
    """Stamps and numbers out of any JSON."""

    Config = HttpJsonConfig
    live = True

    def __init__(self, config: HttpJsonConfig, context: AdapterContext) -> None:
        self._config, self._context = config, context
        parts = urlsplit(config.url)
        base = config.model_copy(update={"url": f"{parts.scheme}://{parts.netloc}"})
        self._path = parts.path + (f"?{parts.query}" if parts.query else "")
        self._web = Web(base, context, config.id)
        self._unit = unit_of(config.kind, config.unit, context.currency)
        self._zone = parse_zone(config.timezone)
        self._live = Live(config, context, self._unit, self._ask)

    def read(self, start: datetime, end: datetime, now: datetime) -> Series:
        """What the service tells about [start, end). Raises SourceError."""
        return self._live.read(start, end, now)

    def _ask(self, ask: Ask) -> Told:
        answer = self._web.json(ask, self._filled(ask), headers=self._headers())
        config = self._config
        if config.unit_path is not None and (said := _found(config.unit_path, answer)) != config.unit_is:
            raise SourceError(f'{self._web.place}: unit_path: "{said}", where {config.unit_is} must stand')
        rows = rows_of(self._web.place, _found(config.rows, answer), self._row)
        return self._placed(rows) if rows else Told(())

    def _filled(self, ask: Ask) -> str:
        """The path with the times asked for."""
        start_s, end_s = ask.start.timestamp(), ask.end.timestamp()
        filling = {
            "start": f"{ask.start:%Y-%m-%dT%H:%M:%SZ}",
            "end": f"{ask.end:%Y-%m-%dT%H:%M:%SZ}",
            "start_s": f"{start_s:.0f}",
            "end_s": f"{end_s:.0f}",
            "start_ms": f"{start_s * 1000:.0f}",
            "end_ms": f"{end_s * 1000:.0f}",
            "start_date": f"{ask.start.astimezone(self._zone):%Y-%m-%d}",
            "end_date": f"{(ask.end - timedelta(seconds=1)).astimezone(self._zone):%Y-%m-%d}",
        }
        return _HOLE.sub(lambda match: filling[match[1]], self._path)

    def _headers(self) -> dict[str, str]:
        config = self._config
        if config.token is None:
            return {}
        token = config.token.reveal(self._context.base_dir)
        return {config.header: f"Bearer {token}" if config.header == "Authorization" else token}

    def _row(self, item: Any) -> tuple[str, float | None]:
        stamp, form = _found(self._config.time, item), self._config.time_format
        if form in {"unix", "unix_ms"}:
            return epoch(stamp / 1000 if form == "unix_ms" else stamp).isoformat(), number(self._value(item))
        if not isinstance(stamp, str):
            raise SourceError(f'time: "{stamp}" is not a stamp')
        return stamp, number(self._value(item))

    def _value(self, item: Any) -> Any:
        """The value; many services write numbers as texts."""
        value = _found(self._config.value, item)
        if isinstance(value, str):
            try:
                return float(value) if "_" not in value else value
            except ValueError:
                return value
        return value

    def _placed(self, rows: list[tuple[str, float | None]]) -> Told:
        """Rows on the axis of time by the rules that files follow, DST days included."""
        from adapters.signals.timestamps import place_rows, utc

        config, place = self._config, f"{self._web.place}: row"
        form = None if config.time_format in {"unix", "unix_ms"} else config.time_format
        layout = CsvConfig(id=config.id, type="csv", path="-", hour=config.hour, time_format=form,
                           interval=config.interval)  # fmt: skip
        stamps, values = zip(*rows, strict=True)
        table = Table(place, tuple(range(1, len(rows) + 1)), stamps, None, None, values)
        placed = place_rows(table, layout, self._zone)
        notes = [Note(issue.code, config.id, issue.text, at=issue.at) for issue in placed.issues]
        spans = []
        for row, start, end in zip(placed.order, placed.starts, placed.ends, strict=True):
            value = values[row]
            if value is None:
                notes.append(Note(Reason.SIGNAL_NAN, config.id, f"{table.place(row)}: no value", at=utc(start)))
            else:
                spans.append(Span(utc(start), utc(end), self._unit.convert(value)))
        return Told(tuple(spans), tuple(notes))


def _found(path: str, data: Any) -> Any:
    import jmespath

    try:
        return _compiled(path).search(data)
    except jmespath.exceptions.JMESPathError as error:
        raise SourceError(f'"{path}": {str(error).splitlines()[0]}') from None
