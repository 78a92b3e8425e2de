"""Prices and carbon that an OpenADR 3 program tells, as a signal's series.

Why here: the same intervals, loops and sub-intervals give caps and prices, and must not be read in two ways. Nothing is
converted by guess: an unknown unit or another currency is an error that names the event.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, tzinfo

from adapters.dr.openadr3.intervals import shared, timeline
from adapters.dr.openadr3.objects import Descriptor, described
from adapters.dr.openadr3.orders import LOWEST, Known
from adapters.dr.openadr3.payloads import Refused3, kind_of, number
from adapters.ports import SourceError
from optimizer.domain import Series, Span

PER_MWH = {"KWH": 1000.0, "MWH": 1.0, "WH": 1e6}
"""Energy unit of a price -> how much of it is in a MWh."""
GRAMS_PER_KWH = {"GHG": 1.0, "G/KWH": 1.0, "KG/MWH": 1.0, "KG/KWH": 1000.0}
CARBON = "GHG"


def told_series(
    name: str,
    known: Iterable[Known],
    kind: str,
    window: tuple[datetime, datetime],
    *,
    currency: str,
    descriptors: Sequence[Descriptor] = (),
    zone: tzinfo = UTC,
) -> Series:
    """What the events of a program say of `kind` (PRICE, EXPORT_PRICE, PRICE_ALTERNATE or GHG) inside `window`, in
    `currency`/MWh or g/kWh. Where events overlap, the one of higher priority counts, and of equal ones the one that
    begins last. `known` and `descriptors` come from `OpenAdr3.known()`; `descriptors` are the program's own.

    Raises SourceError for a unit that is not known, another currency, and values that are no numbers.
    """
    spans: list[tuple[int, datetime, Span]] = []
    for one in known:
        try:
            spans += _of_event(one, kind, window, currency, descriptors, zone)
        except ValueError as error:
            raise SourceError(f"{name}: event {one.event.id}: {kind}: {error}") from None
    unit = "g/kWh" if kind == CARBON else f"{currency}/MWh"
    return Series(name, unit, _layered(spans))


def _of_event(
    known: Known,
    kind: str,
    window: tuple[datetime, datetime],
    currency: str,
    descriptors: Sequence[Descriptor],
    zone: tzinfo,
) -> list[tuple[int, datetime, Span]]:
    """Spans of one event with its priority and its start."""
    event = known.event
    if not any(kind_of(payload.type) == kind for interval in event.intervals for payload in interval.payloads):
        return []
    line = timeline(event, known.seen_at, "", zone, randomized=False)
    scale = _scale(described(kind, event.payload_descriptors, descriptors), kind, currency)
    priority = LOWEST if event.priority is None else event.priority
    return [
        (priority, line.start, Span(start, end, number(value) * scale))
        for slot in line.between(*window)
        for payload in slot.payloads
        if kind_of(payload.type) == kind
        for start, end, value in shared(slot, payload.values)
    ]


def _scale(descriptor: Descriptor, kind: str, currency: str) -> float:
    unit = (descriptor.units or "").strip().upper()
    if kind == CARBON:
        if unit and unit not in GRAMS_PER_KWH:
            raise Refused3(f'"{descriptor.units}" is not a unit of carbon intensity')
        return GRAMS_PER_KWH[unit or CARBON]
    if not unit:
        raise Refused3("no unit is declared")
    if unit not in PER_MWH:
        raise Refused3(f'"{descriptor.units}" is not a unit of energy')
    if descriptor.currency is not None and descriptor.currency.upper() != currency:
        raise Refused3(f"it is in {descriptor.currency}, but the config is in {currency}; no conversion is made")
    return PER_MWH[unit]


def _layered(spans: Sequence[tuple[int, datetime, Span]]) -> tuple[Span, ...]:
    """Spans without overlaps: the more important stay whole, the others fill what is left."""
    found: list[Span] = []
    for _, _, span in sorted(spans, key=lambda one: (one[0], -one[1].timestamp(), one[2].start)):
        pieces = [span]
        for held in found:
            pieces = [left for piece in pieces for left in _outside(piece, held)]
        found += pieces
    return tuple(sorted(found, key=lambda span: span.start))


def _outside(span: Span, held: Span) -> list[Span]:
    if held.end <= span.start or held.start >= span.end:
        return [span]
    edges = [(span.start, held.start), (held.end, span.end)]
    return [Span(start, end, span.value) for start, end in edges if start < end]
