"""The measured curve for whole arrays of draws: the same rules as `curves.py`, to the bit, without a call for each.

Why apart: a plan asks for thousands of caps at once; a node agent for one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from optimizer.curves import EPS, monotone
from optimizer.domain import PowerCurve

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def _points(curve: PowerCurve, draw_w: Floats) -> tuple[Floats, Floats, Ints]:
    """The monotone points [point, (cap, draw, throughput)], the allowed draws, and how many points draw no more."""
    table = np.array([(point.cap_w, point.draw_w, point.throughput) for point in monotone(curve)])
    allowed = draw_w + EPS * np.maximum(1.0, draw_w)
    return table, allowed, np.searchsorted(table[:, 1], allowed, side="right")


def throughputs_at_draws(curve: PowerCurve, draw_w: Floats) -> Floats:
    """Throughput of busy GPUs that are capped to these draws in W (see `curves.throughput_at_draw`)."""
    table, _, place = _points(curve, draw_w)
    left, right = table[np.maximum(place - 1, 0)], table[np.minimum(place, len(table) - 1)]
    rise_w = right[:, 1] - left[:, 1]
    share = np.maximum(0.0, draw_w - left[:, 1]) / np.where(rise_w > 0, rise_w, 1.0)
    inner = left[:, 2] + share * (right[:, 2] - left[:, 2])
    found: Floats = np.where(place == 0, 0.0, np.where(place == len(table), table[-1, 2], inner))
    return found


def caps_for_draws(curve: PowerCurve, draw_w: Floats) -> Ints:
    """Highest whole-watt caps under which busy GPUs draw at most these watts (see `curves.cap_for_draw`)."""
    table, allowed, place = _points(curve, draw_w)
    left, right = table[np.maximum(place - 1, 0)], table[np.minimum(place, len(table) - 1)]
    rise_w = right[:, 1] - left[:, 1]
    share = (allowed - left[:, 1]) / np.where(rise_w > 0, rise_w, 1.0)
    inner = np.floor(left[:, 0] + share * (right[:, 0] - left[:, 0]) + EPS)
    ends = np.where(place == 0, np.floor(table[0, 0]), np.floor(table[-1, 0]))
    found: Ints = np.where((place == 0) | (place == len(table)), ends, inner).astype(np.int64)
    return found
