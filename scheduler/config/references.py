"""Names that refer to something else in the config, checked on the raw values.

Why raw: a config with a typing error in one place has no models yet, and its wrong references should be shown in the
same run. So this reads the parsed file, and passes over what is not in its form; the models complain about that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from adapters.fields import did_you_mean
from adapters.signals.base import SignalKind
from optimizer.domain import Work
from scheduler.config.builtin import BUILTIN
from scheduler.config.document import Document, Place
from scheduler.config.entries import EntryError, entry_model

LISTS_WITH_IDS = ("sites", "curves", "pools", "signals", "jobs.initial", "jobs.recurring", "programs")


@dataclass(frozen=True, slots=True)
class Reference:
    """A key whose value is the id of an item of the list `to`; `where` says what that item's keys must hold."""

    pattern: str
    to: str
    what: str
    where: tuple[str, str] | None = None


REFERENCES = (
    Reference("sites.*.price", "signals", "a signal", ("kind", "price")),
    Reference("sites.*.price_forecast", "signals", "a signal", ("kind", "price")),
    Reference("sites.*.carbon", "signals", "a signal", ("kind", "carbon")),
    Reference("sites.*.weather", "signals", "a signal", ("kind", "weather")),
    Reference("sites.*.limit_signal", "signals", "a signal", ("kind", "limit")),
    Reference("sites.*.coincident_peaks.*.probability", "signals", "a signal", ("kind", "probability")),
    Reference("sites.*.coincident_peaks.*.system_load", "signals", "a signal", ("kind", "system_load")),
    Reference("sites.*.generators.*.output", "signals", "a signal", ("kind", "generation")),
    Reference("sites.*.reserves.*.price", "signals", "a signal", ("kind", "price")),
    Reference("pools.*.site", "sites", "a site"),
    Reference("pools.*.load", "signals", "a signal", ("kind", "load")),
    Reference("jobs.initial.*.pool", "pools", "a pool", ("work", "batch")),
    Reference("jobs.recurring.*.pool", "pools", "a pool", ("work", "batch")),
    Reference("programs.*.site", "sites", "a site"),
    Reference("meters.*.site", "sites", "a site"),
)
MEANINGS = frozenset({*SignalKind, *Work})
"""Values that `where` compares; another one is a problem of its own."""


def check_references(document: Document, curves: Collection[str]) -> None:
    """Report ids that are there twice, and references to nothing or to the wrong kind of thing."""
    for name in (*LISTS_WITH_IDS, "api.tokens"):
        _check_unique(document, name, "name" if name == "api.tokens" else "id")
    for reference in REFERENCES:
        for place, value in places(document, reference.pattern):
            if isinstance(value, str):
                _check(document, reference, place, value)
    own = {item.get("id") for _, item in places(document, "curves.*") if isinstance(item, dict)}
    named = [*places(document, "pools.*.curve"), *_true_curves(document)]
    for place, value in named:
        if isinstance(value, str) and value not in curves and value not in own:
            known = [*curves, *(str(name) for name in own)]
            document.report(place, f'"{value}" is not a known power curve.', _hint(value, known))


def _true_curves(document: Document) -> Iterator[tuple[Place, Any]]:
    """The curves of the simulated hall; a pool that is none is reported here."""
    pools = [str(item.get("id")) for _, item in places(document, "pools.*") if isinstance(item, dict)]
    for place, value in places(document, "power.true_curves"):
        for pool, curve in value.items() if isinstance(value, dict) else ():
            if pool not in pools:
                document.report((*place, pool), f'"{pool}" is not a pool of this config.', _hint(str(pool), pools))
            yield (*place, pool), curve


def places(document: Document, pattern: str) -> Iterator[tuple[Place, Any]]:
    """Every place that `pattern` (`pools.*.site`) names and that the file holds, with its value."""
    found: list[tuple[Place, Any]] = [((), document.data)]
    for part in pattern.split("."):
        step: list[tuple[Place, Any]] = []
        for place, value in found:
            if part == "*" and isinstance(value, list):
                step += [((*place, index), item) for index, item in enumerate(value)]
            elif isinstance(value, dict) and part in value:
                step.append(((*place, part), value[part]))
        found = step
    yield from found


def _check(document: Document, reference: Reference, place: Place, value: str) -> None:
    items = {item.get("id"): item for _, item in places(document, f"{reference.to}.*") if isinstance(item, dict)}
    known = [str(name) for name in items if name is not None]
    if value not in items:
        document.report(place, f'"{value}" is not {reference.what} of this config.', _hint(value, known))
        return
    if reference.where is None:
        return
    key, wanted = reference.where
    got = items[value].get(key, _default(reference.to, items[value], key))
    if got != wanted and got in MEANINGS:
        document.report(place, f'"{value}" has {key} "{got}"; here it must be "{wanted}"')


def _default(kind: str, item: dict[str, Any], key: str) -> Any:
    """What an absent key means; None where there is no model that could say."""
    if kind not in BUILTIN:
        return None
    try:
        field = entry_model(kind, item).model_fields.get(key)
    except EntryError:
        return None
    return None if field is None else field.default


def _check_unique(document: Document, name: str, key: str) -> None:
    first: dict[str, int] = {}
    for place, value in places(document, f"{name}.*.{key}"):
        if isinstance(value, str) and value in first:
            document.report(place, f'"{value}" is there already, in line {first[value]}')
        elif isinstance(value, str):
            first[value] = document.line(place)


def _hint(value: str, known: list[str]) -> str:
    return did_you_mean(value, known).strip()
