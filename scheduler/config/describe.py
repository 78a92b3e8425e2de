"""Looks into the models for the generators: the model that a key holds, its default, and values written in YAML."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from adapters.fields import format_duration

_PLAIN = re.compile(r"^[A-Za-z_/.*~][A-Za-z0-9_/.*~ +-]*$")
_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "~"}


def model_of(annotation: Any) -> type[BaseModel] | None:
    """The model that a key holds, alone, optional or in a list; None for plain values and for adapters' entries."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return None if annotation is BaseModel else annotation
    return next((model for part in get_args(annotation) if (model := model_of(part))), None)


def is_list(annotation: Any) -> bool:
    """True for a list of models or of plain values."""
    return getattr(annotation, "__origin__", None) in {tuple, list} or any(
        is_list(part) for part in get_args(annotation)
    )


def default_of(field: FieldInfo) -> Any:
    """The default as plain values; PydanticUndefined when the key must be given."""
    if field.default_factory is not None:
        made = field.default_factory()  # type: ignore[call-arg]
        return plain(made)
    return PydanticUndefined if field.is_required() else plain(field.default)


def is_required(field: FieldInfo) -> bool:
    """True when the key has no default."""
    return field.is_required()


def plain(value: Any) -> Any:
    """A value as it stands in a file: durations as text, enums by value, models as mappings."""
    if isinstance(value, BaseModel):
        return {name: plain(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, timedelta):
        return format_duration(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return {key: plain(item) for key, item in value.items()} if isinstance(value, Mapping) else value


def yaml_value(value: Any) -> str:
    """A plain value on one line of YAML; text that another reader could take for something else is quoted."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list):
        return f"[{', '.join(yaml_value(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {yaml_value(item)}' for key, item in value.items())}}}"
    text = str(value)
    looks_plain = _PLAIN.match(text) and text.lower() not in _WORDS and text[0] not in "*~" and text == text.strip()
    is_duration = re.fullmatch(r"\d+(\.\d+)?[smhdw]", text)
    return text if looks_plain or is_duration else json.dumps(text, ensure_ascii=False)
