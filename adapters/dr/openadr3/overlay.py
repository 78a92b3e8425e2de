"""Several orders at one time: which of them counts in each moment.

Why values are laid over and not cut out: an order with a hole in it would be left and entered again by its ramps, and
the cap would rise in between to where nobody allowed it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import pairwise

from adapters.dr.openadr3.payloads import Ask
from adapters.ports import EventTarget


def strictest(targets: Iterable[EventTarget]) -> list[EventTarget]:
    """Targets in the order of time without overlaps; where several hold, the strictest of them."""
    waiting = sorted(targets, key=lambda target: target.start, reverse=True)
    active: list[EventTarget] = []
    found: list[EventTarget] = []
    for left, right in pairwise(sorted({cut for target in waiting for cut in (target.start, target.end)})):
        while waiting and waiting[-1].start <= left:
            active.append(waiting.pop())
        active = [target for target in active if target.end > left]
        if active:
            found.append(replace(max(active, key=strictness), start=left, end=right))
    return found


def strictness(target: EventTarget) -> tuple[int, float]:
    """Order of strictness: caps before reductions, since these allow more the more is drawn."""
    if target.limit_kw is not None:
        return 1, -target.limit_kw
    return 0, target.reduce_kw if target.reduce_kw is not None else target.reduce_percent or 0.0


def overlaid(ask: Ask, covers: Sequence[EventTarget]) -> list[Ask]:
    """The ask in pieces, with the values of `covers` (in the order of time, without overlaps) where they hold."""
    span = ask.target
    index = max(0, bisect_right(covers, span.start, key=lambda cover: cover.start) - 1)
    pieces: list[EventTarget] = []
    at = span.start
    while index < len(covers) and covers[index].start < span.end:
        cover = covers[index]
        index += 1
        begin, stop = max(at, cover.start), min(span.end, cover.end)
        if begin >= stop:
            continue
        pieces += _piece(span, at, begin)
        pieces.append(replace(cover, start=begin, end=stop))
        at = stop
    pieces += _piece(span, at, span.end)
    return [replace(ask, target=piece) for piece in pieces]


def _piece(span: EventTarget, start: datetime, end: datetime) -> list[EventTarget]:
    return [replace(span, start=start, end=end)] if start < end else []
