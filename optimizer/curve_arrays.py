"""The measured curves of many pools for whole arrays of draws: the rules of `curves.py` to the bit, without a call for
each.

Why apart: a plan asks for thousands of caps at once; a node agent for one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from optimizer.curves import EPS, monotone
from optimizer.domain import PowerCurve

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
CAP, DRAW, RATE = 0, 1, 2


@dataclass(frozen=True)
class _Between:
    """Draws between points of their curves, all [curve, draw] or [curve, draw, (cap, draw, throughput)]: what may be
    drawn, the points below and above, and whether the draw is below the first or not below the last point."""

    allowed: Floats
    left: Floats
    right: Floats
    below: Flags
    beyond: Flags

    def part_of(self, above_w: Floats, what: int) -> Floats:
        """What a draw has that is so much above the point below it."""
        rise_w = self.right[..., DRAW] - self.left[..., DRAW]
        share = above_w / np.where(rise_w > 0, rise_w, 1.0)
        found: Floats = self.left[..., what] + share * (self.right[..., what] - self.left[..., what])
        return found


@lru_cache(maxsize=1024)
def _points(curve: PowerCurve) -> Floats:
    """The monotone points [point, (cap, draw, throughput)]."""
    return np.array([(point.cap_w, point.draw_w, point.throughput) for point in monotone(curve)])


def _between(curves: Sequence[PowerCurve], draw_w: Floats) -> _Between:
    """Where draws [curve, draw] lie on their curves."""
    tables = [_points(curve) for curve in curves]
    table = np.full((len(tables), max(map(len, tables), default=1), 3), np.inf)
    for number, points in enumerate(tables):
        table[number, : len(points)] = points
    count = np.array([len(points) for points in tables], dtype=np.int64)[:, None]
    allowed = draw_w + EPS * np.maximum(1.0, draw_w)
    place = (table[:, None, :, DRAW] <= allowed[:, :, None]).sum(axis=2)
    row = np.arange(len(tables))[:, None]
    left, right = table[row, np.maximum(place - 1, 0)], table[row, np.minimum(place, count - 1)]
    return _Between(allowed, left, right, place == 0, place == count)


def throughputs_at_draws(curves: Sequence[PowerCurve], draw_w: Floats) -> Floats:
    """Throughput of busy GPUs that are capped to these draws in W, both [curve, draw] (see
    `curves.throughput_at_draw`)."""
    at = _between(curves, draw_w)
    inner = at.part_of(np.maximum(0.0, draw_w - at.left[..., DRAW]), RATE)
    found: Floats = np.where(at.below, 0.0, np.where(at.beyond, at.right[..., RATE], inner))
    return found


def caps_for_draws(curves: Sequence[PowerCurve], draw_w: Floats) -> Ints:
    """Highest whole-watt caps under which busy GPUs draw at most these watts, both [curve, draw] (see
    `curves.cap_for_draw`)."""
    at = _between(curves, draw_w)
    inner = np.floor(at.part_of(at.allowed - at.left[..., DRAW], CAP) + EPS)
    ends = np.floor(at.right[..., CAP])  # below the first point both are the first one, beyond the last the last one
    found: Ints = np.where(at.below | at.beyond, ends, inner).astype(np.int64)
    return found
