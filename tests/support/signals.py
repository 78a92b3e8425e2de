"""Short ways to write signals in tests."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from adapters.context import AdapterContext
from adapters.signals.csvconfig import CsvConfig
from adapters.signals.csvfile import CsvSource
from optimizer.domain import Series, Span
from optimizer.quality import GateRules
from scheduler.clock import VirtualClock

EVER = (datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
NOON = datetime(2022, 9, 6, 12, tzinfo=UTC)
RULES = GateRules("USD/MWh")


def utc(*parts: int) -> datetime:
    """`utc(2022, 9, 6, 12)`."""
    return datetime(*parts, tzinfo=UTC)


def series(values, start: datetime = NOON, step: timedelta = timedelta(hours=1), **fields) -> Series:
    """Consecutive values from `start` on; None leaves a gap."""
    spans = [
        Span(start + i * step, start + (i + 1) * step, value) for i, value in enumerate(values) if value is not None
    ]
    return Series(fields.pop("name", "price"), fields.pop("unit", "USD/MWh"), tuple(spans), **fields)


def context(folder: Path = Path(), currency: str = "USD", now: datetime = NOON) -> AdapterContext:
    """Surroundings of an adapter under a virtual clock."""
    return AdapterContext(VirtualClock(now), folder, currency=currency)


def csv_source(path: Path, text: str | bytes | None = None, currency: str = "USD", **fields) -> CsvSource:
    """A source over `path`, written first when `text` is given."""
    if text is not None:
        path.write_bytes(text.encode() if isinstance(text, str) else text)
    config = CsvConfig(id=fields.pop("id", "price"), type="csv", path=str(path), **fields)
    return CsvSource(config, context(path.parent, currency))
