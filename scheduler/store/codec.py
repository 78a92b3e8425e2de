"""How values become rows and come back the same: times as ISO UTC text, bodies with a checksum, plans compressed.

Why a checksum on each body: SQLite notices a torn page, not a flipped bit inside a text. A first-found limit that
reads 188 W instead of 700 W must show as damage, never as a number.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from pydantic import TypeAdapter

from optimizer.domain import Plan
from optimizer.timegrid import require_utc

T = TypeVar("T")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Damaged(ValueError):
    """A row's body does not have the checksum that it was written with."""


def time_text(moment: datetime) -> str:
    """ISO text in UTC with microseconds, of constant width, so that text order is time order."""
    return require_utc(moment).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def text_time(text: str) -> datetime:
    """The aware UTC time of `time_text`."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def floor_minute(moment: datetime) -> datetime:
    """Start of the minute that holds `moment`."""
    return _EPOCH + timedelta(minutes=(require_utc(moment) - _EPOCH) // timedelta(minutes=1))


def json_text(value: Mapping[str, Any]) -> str:
    """Compact JSON with sorted keys; times as ISO text. TypeError for what JSON can't hold."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain)


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return time_text(value)
    raise TypeError(f"{type(value).__name__} cannot be kept in the store")


def checksum(*parts: str) -> int:
    """CRC-32 of a row's key and body: finds flipped bits, guards against nothing else."""
    return zlib.crc32("\0".join(parts).encode())


def read_body(body: object, crc: int, *key: str) -> dict[str, Any]:
    """The mapping that `body` holds; Damaged when its checksum is wrong."""
    if not isinstance(body, str) or checksum(*key, body) != crc:
        raise Damaged("/".join(key))
    loaded: dict[str, Any] = json.loads(body)
    return loaded


_ADAPTERS: dict[Any, TypeAdapter[Any]] = {}


def _adapter(kind: Any) -> TypeAdapter[Any]:
    """Made once for each type: building one takes longer than using it."""
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def plain_values(value: object) -> dict[str, Any]:
    """A frozen dataclass as plain JSON values (floats exact, infinities kept)."""
    dumped: dict[str, Any] = _adapter(type(value)).dump_python(value, mode="json")
    return dumped


def typed_value(kind: type[T], plain: Mapping[str, Any]) -> T:
    """The dataclass that `plain_values` made plain; ValueError when it isn't one."""
    made: T = _adapter(kind).validate_python(dict(plain))
    return made


def pack(value: object) -> bytes:
    """A frozen dataclass as compressed JSON."""
    if isinstance(value, Plan):
        value = replace(value, jobs=dict(value.jobs))
    return zlib.compress(json.dumps(plain_values(value), separators=(",", ":")).encode(), 1)


def unpack(kind: type[T], packed: bytes) -> T:
    """The dataclass that `pack` packed; ValueError when the bytes are damaged or of another version."""
    try:
        return typed_value(kind, json.loads(zlib.decompress(packed)))
    except zlib.error as error:
        raise ValueError(f"a packed {kind.__name__} is damaged") from error
