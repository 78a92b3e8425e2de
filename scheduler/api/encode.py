"""Plain JSON out of frozen dataclasses: times in ISO UTC, no NaN or infinity, text that cannot break a log.

Why our own few lines: `inf` ("no limit") is honest inside Gridpace and illegal in JSON, and the service hands out
nested dataclasses and mappings that the standard encoder does not know.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, date, datetime
from functools import singledispatch
from types import NoneType
from typing import Any

from starlette.responses import JSONResponse


@singledispatch
def plain(value: Any) -> Any:
    """`value` as JSON types only: infinities and NaN become None, aware times end in Z."""
    if is_dataclass(value):
        return {item.name: plain(getattr(value, item.name)) for item in fields(value)}
    if hasattr(value, "tolist"):  # a numpy number or array
        return plain(value.tolist())
    return str(value)


@plain.register(str)
@plain.register(int)
@plain.register(NoneType)
def _same(value: str | int | None) -> str | int | None:
    return value


@plain.register
def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


@plain.register(Mapping)
def _mapping(value: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(key): plain(item) for key, item in value.items()}


@plain.register(list)
@plain.register(tuple)
@plain.register(set)
@plain.register(frozenset)
def _listed(value: Iterable[Any]) -> list[Any]:
    return [plain(item) for item in value]


@plain.register(date)
def utc_text(moment: date) -> str:
    """ISO 8601 in UTC with a Z; a plain date stays a date."""
    if not isinstance(moment, datetime):
        return moment.isoformat()
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def clean(text: str, longest: int = 200) -> str:
    """`text` on one line for a log: control and escape characters are written out, and the end cut off."""
    shown = text if len(text) <= longest else text[:longest] + "..."
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in shown)


class Json(JSONResponse):
    """A JSON answer made by `plain`; never raises on odd text (lone surrogates are escaped)."""

    def render(self, content: Any) -> bytes:
        """Bytes of the body."""
        text = json.dumps(plain(content), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode("utf-8", "backslashreplace")
