"""Turns pydantic's errors into sentences about the file: place, what is wrong, and what was probably meant.

Why not pydantic's own text: "Input should be 'observe', 'advise' or 'control'" at `mode` says neither what stands
there nor in which line, and a union of models names places that are in no file. Values are repeated only where they
are plain and no secret can stand.
"""

from __future__ import annotations

import re
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from adapters.fields import did_you_mean
from scheduler.config.document import Document, Place
from scheduler.config.errors import FieldError

_QUOTED = re.compile(r"'([^']*)'")
_NAMED = re.compile(r"^(?P<path>[a-z_]+(?:\[\d+\]|\.[a-z_]+)*): (?P<text>.+)$", re.DOTALL)
_SEVERAL = re.compile(r"; (?=[a-z_]+(?:\[\d+\]|\.[a-z_]+)*: )")
_HINT = re.compile(r'^(?P<text>.*?)(?: (?P<hint>Did you mean ".*"\?))?$', re.DOTALL)

_KINDS = {
    "bool": "true or false",
    "date": "a date, such as 2022-09-06",
    "datetime": "a time, such as 2022-09-06T14:00:00-07:00",
    "dict": "keys and values",
    "finite": "a finite number",
    "float": "a number",
    "int": "a whole number",
    "list": "a list",
    "model": "keys and values",
    "string": "text",
    "timezone": "a time with an offset, such as 2022-09-06T14:00:00-07:00 or ...Z",
    "tuple": "a list",
}
_BOUNDS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def note_errors(document: Document, error: ValidationError, model: type[BaseModel], prefix: Place = ()) -> None:
    """Report every error about `model`, which stands at `prefix`, in the document."""
    for item in error.errors(include_url=False):
        place = _place(document, prefix, tuple(item["loc"]))
        if item["type"] == "too_short" and document.value(place):
            continue  # not empty: its items are wrong, and each has a problem of its own
        for inner, text in _sentences(dict(item), model):
            found = _HINT.match(text)
            if found:
                document.report((*place, *inner), found["text"], found["hint"] or "")


def _place(document: Document, prefix: Place, loc: Place) -> Place:
    """Where the error stands in the file; parts that pydantic adds (branches of a union) are left out."""
    place = prefix
    for position, part in enumerate(loc):
        if document.value((*place, part)) is not None or (*place, part) in document.lines or position == len(loc) - 1:
            place = (*place, part)
    return place


def _sentences(item: dict[str, Any], model: type[BaseModel]) -> list[tuple[Place, str]]:
    """Places below the error's own, each with its sentence."""
    if item["type"] != "value_error":
        return [((), _sentence(item, model))]
    error, text = item.get("ctx", {}).get("error"), str(item["msg"]).removeprefix("Value error, ")
    if isinstance(error, FieldError):
        return [((error.field,), text)]
    return [_own_words(part) for part in _SEVERAL.split(text)]


def _sentence(item: dict[str, Any], model: type[BaseModel]) -> str:
    """What is wrong, in our words."""
    kind, loc, context = str(item["type"]), tuple(item["loc"]), item.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown key.{did_you_mean(str(loc[-1]), _keys(model, loc[:-1]))}"
    if kind == "missing":
        return "is missing"
    if kind in {"too_short", "string_too_short"}:
        return "must not be empty" if context.get("min_length") == 1 else f"needs {context['min_length']} values"
    return _about_value(kind, item["input"], context) or str(item["msg"])


def _about_value(kind: str, value: object, context: dict[str, Any]) -> str:
    """The sentence about a value that is not of its kind, not a choice, or out of bounds; empty for other errors."""
    if kind in {"literal_error", "enum"}:
        choices = _QUOTED.findall(str(context.get("expected", "")))
        return f"{_shown(value)} is not {_any_of(choices)}.{did_you_mean(str(value), choices)}"
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return f"{_shown(value)} must be {words} {context[name]:g}"
    expected = _KINDS.get(kind.partition("_")[0])
    return f"{_shown(value)} is not {expected}" if expected else ""


def _own_words(text: str) -> tuple[Place, str]:
    """A sentence of ours; a leading `field: ` or `field[0].key: ` is the place."""
    if named := _NAMED.match(text):
        parts = re.findall(r"[a-z_]+|\d+", named["path"])
        return tuple(int(part) if part.isdigit() else part for part in parts), named["text"]
    return (), text


def _shown(value: object) -> str:
    """A plain value as the operator wrote it; what holds others is only named."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{value:g}" if isinstance(value, float) else str(value)
    if value is None:
        return "nothing"
    return f'"{value}"' if isinstance(value, str) else "a list" if isinstance(value, list) else "this"


def _any_of(choices: list[str]) -> str:
    return f"one of {', '.join(choices)}" if len(choices) > 1 else "".join(choices)


def _keys(model: type[BaseModel], loc: Place) -> list[str]:
    """Keys that may stand where `loc` leads, from `model` down."""
    for part in loc:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        inner = _model_in(field.annotation) if field else None
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model inside `tuple[Model, ...]`, `Model | None` and the like."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := _model_in(part))), None)
