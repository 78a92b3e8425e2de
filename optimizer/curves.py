"""From a power cap to what a busy GPU draws and how much work it does, and back.

Why so careful: a cap is not a reduction. Measured curves draw above a cap, ignore caps that do not bind, and are not
monotone by a per cent or two. Here they are made monotone on the safe side (a lower cap never counts as drawing more)
and, for the linear model, replaced by the concave hull above them. Between measured points everything is linear.
"""

from __future__ import annotations

import csv
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import ceil, floor

from optimizer.domain import CurvePoint, PowerCurve

EPS = 1e-9

IDLE_W = {"A100-400W": 55.0}
"""Draw in W of a card without work. A100 class: what the hourly records of an H100 server show at under 1 % of
utilisation (BioHPC, github.com/charlottegressel/dc_workload_pipeline)."""

IDLE_SHARE = 0.14
"""Idle draw over the highest cap where nothing better is known: 55 W of 400 W. Give the measured one in the config."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A straight piece of the hull: `width_w` watts of one GPU, each worth `slope_per_w` of full throughput."""

    width_w: float
    slope_per_w: float


@dataclass(frozen=True)
class Hull:
    """Concave throughput of one busy GPU over its draw: from (`base_w`, `base_throughput`) along `segments`."""

    base_w: float
    base_throughput: float
    segments: tuple[Segment, ...]

    @property
    def top_w(self) -> float:
        """Draw in W at the best throughput; more power than this buys nothing."""
        return self.base_w + sum(segment.width_w for segment in self.segments)

    @property
    def top_throughput(self) -> float:
        """Best throughput."""
        return self.base_throughput + sum(part.width_w * part.slope_per_w for part in self.segments)

    def throughput(self, draw_w: float) -> float:
        """Throughput at a draw in W; the ends of the hull hold beyond them."""
        total, left = self.base_throughput, draw_w - self.base_w
        for segment in self.segments:
            total += max(0.0, min(left, segment.width_w)) * segment.slope_per_w
            left -= segment.width_w
        return total

    def draw_w(self, throughput: float) -> float:
        """Least draw in W that does `throughput` (clamped to what the hull spans)."""
        total, left = self.base_w, throughput - self.base_throughput
        for segment in self.segments:
            step = max(0.0, min(left, segment.width_w * segment.slope_per_w))
            total += step / segment.slope_per_w
            left -= step
        return total


@lru_cache(maxsize=1024)
def monotone(curve: PowerCurve) -> tuple[CurvePoint, ...]:
    """The points by cap, with draw and throughput never falling, from the idle point on.

    Raises ValueError when no point draws more than the idle card: such a curve says nothing.
    """
    points = [CurvePoint(curve.idle_w, curve.idle_w, 0.0)]
    for point in sorted(curve.points, key=lambda p: p.cap_w):
        last = points[-1]
        if point.cap_w > last.cap_w:
            points.append(
                CurvePoint(point.cap_w, max(point.draw_w, last.draw_w), max(point.throughput, last.throughput))
            )
    if points[-1].draw_w <= curve.idle_w or points[-1].throughput <= 0:
        raise ValueError(f"power curve {curve.name!r}: no point draws more than idle ({curve.idle_w} W) and works")
    return tuple(points)


def _between(curve: PowerCurve, cap_w: float) -> CurvePoint:
    """The point of the monotone curve at any cap; held at both ends."""
    points = monotone(curve)
    position = bisect_left(points, cap_w, key=lambda point: point.cap_w)
    if position == 0:
        return points[0]
    if position == len(points):
        return points[-1]
    left, right = points[position - 1], points[position]
    share = (cap_w - left.cap_w) / (right.cap_w - left.cap_w)
    return CurvePoint(
        cap_w,
        left.draw_w + share * (right.draw_w - left.draw_w),
        left.throughput + share * (right.throughput - left.throughput),
    )


def draw_at_cap(curve: PowerCurve, cap_w: float) -> float:
    """Mean draw in W of one busy GPU under a cap in W."""
    return _between(curve, cap_w).draw_w


def throughput_at_cap(curve: PowerCurve, cap_w: float) -> float:
    """Throughput under a cap in W, relative to full speed."""
    return _between(curve, cap_w).throughput


def throughput_at_draw(curve: PowerCurve, draw_w: float) -> float:
    """Throughput of a busy GPU that is capped to a draw of `draw_w`, along the measured points."""
    points = monotone(curve)
    position = bisect_right(points, draw_w + EPS * max(1.0, draw_w), key=lambda point: point.draw_w)
    if position == 0:
        return 0.0
    if position == len(points):
        return points[-1].throughput
    left, right = points[position - 1], points[position]
    share = max(0.0, draw_w - left.draw_w) / (right.draw_w - left.draw_w)
    return left.throughput + share * (right.throughput - left.throughput)


def cap_for_draw(curve: PowerCurve, draw_w: float) -> int:
    """Highest whole-watt cap under which a busy GPU draws at most `draw_w`; the highest measured cap when all do."""
    points = monotone(curve)
    allowed = draw_w + EPS * max(1.0, draw_w)
    if points[-1].draw_w <= allowed:
        return floor(points[-1].cap_w)
    for left, right in zip(reversed(points[:-1]), reversed(points[1:]), strict=True):
        if left.draw_w <= allowed:
            share = (allowed - left.draw_w) / (right.draw_w - left.draw_w)
            return floor(left.cap_w + share * (right.cap_w - left.cap_w) + EPS)
    return floor(points[0].cap_w)


def cap_for_throughput(curve: PowerCurve, throughput: float) -> int:
    """Lowest whole-watt cap that keeps `throughput`; the highest measured cap when none does."""
    points = monotone(curve)
    for left, right in pairwise(points):
        if right.throughput >= throughput - EPS:
            rise = right.throughput - left.throughput
            share = max(0.0, throughput - left.throughput) / rise if rise > 0 else 0.0
            return ceil(left.cap_w + share * (right.cap_w - left.cap_w) - EPS)
    return ceil(points[-1].cap_w)


@lru_cache(maxsize=1024)
def clipped(curve: PowerCurve, min_cap_w: float, max_cap_w: float) -> PowerCurve:
    """The curve between the lowest and the highest cap that may be ordered."""
    inner = (point for point in monotone(curve)[1:] if min_cap_w < point.cap_w < max_cap_w)
    ends = (_between(curve, cap) for cap in sorted({min_cap_w, max_cap_w}))
    points = sorted((*inner, *ends), key=lambda point: point.cap_w)
    return PowerCurve(curve.name, curve.idle_w, tuple(points), curve.source)


def _upper_hull(points: list[tuple[float, float]]) -> tuple[Segment, ...]:
    """Concave hull of (draw, throughput) points given by rising draw, as segments of falling, positive slope."""
    kept: list[tuple[float, float]] = []
    for point in points:
        while kept and (point[0] - kept[-1][0] < EPS or _left_turn(kept, point)):
            if point[0] - kept[-1][0] < EPS and point[1] <= kept[-1][1]:
                break
            kept.pop()
        else:
            kept.append(point)
    pairs = pairwise(kept)
    parts = [Segment(b[0] - a[0], (b[1] - a[1]) / (b[0] - a[0])) for a, b in pairs]
    return tuple(part for part in parts if part.slope_per_w > EPS)


def _left_turn(kept: list[tuple[float, float]], point: tuple[float, float]) -> bool:
    """Whether the last kept point lies on or below the line from the one before it to `point`."""
    if len(kept) < 2:
        return False
    (x0, y0), (x1, y1) = kept[-2], kept[-1]
    return (x1 - x0) * (point[1] - y0) >= (point[0] - x0) * (y1 - y0)


@lru_cache(maxsize=1024)
def hull_from_idle(curve: PowerCurve, least_throughput: float = 0.0) -> Hull:
    """Hull of GPUs that may also idle: from (idle, 0) through the points that do at least `least_throughput`.

    The first segment mixes idle GPUs with GPUs at its far end; no GPU runs slower than that end.
    """
    points = [(p.draw_w, p.throughput) for p in monotone(curve)[1:] if p.draw_w > curve.idle_w]
    if least_throughput > 0:
        cap = float(cap_for_throughput(curve, min(least_throughput, points[-1][1])))
        draw_w = draw_at_cap(curve, cap)
        best = max([throughput_at_cap(curve, cap), *(done for drawn, done in points if drawn <= draw_w + EPS)])
        points = [(draw_w, best), *(point for point in points if point[0] > draw_w + EPS)]
    return Hull(curve.idle_w, 0.0, _upper_hull([(curve.idle_w, 0.0), *points]))


@lru_cache(maxsize=1024)
def hull_of_caps(curve: PowerCurve) -> Hull:
    """Hull of busy GPUs that are only capped, never idled: from the lowest cap's point upwards."""
    points = [(p.draw_w, p.throughput) for p in monotone(curve)[1:]]
    base_w = points[0][0]
    base = max(throughput for draw_w, throughput in points if draw_w <= base_w + EPS)
    return Hull(base_w, base, _upper_hull(points))


def envelope(curve: PowerCurve) -> tuple[Segment, ...]:
    """Concave hull of throughput over draw, from the idle card up: widths in W, slopes per W, falling."""
    return hull_from_idle(curve).segments


def knee_w(curve: PowerCurve) -> float:
    """Draw in W with the most throughput per watt above idle: below it, idling some GPUs beats slowing all."""
    return curve.idle_w + envelope(curve)[0].width_w


def throughput_of_knee(curve: PowerCurve) -> float:
    """Throughput at the knee of a curve."""
    first = hull_from_idle(curve).segments[0]
    return first.width_w * first.slope_per_w


@lru_cache(maxsize=1024)
def is_concave(curve: PowerCurve) -> bool:
    """Whether cards do at every cap from the knee up what the concave hull says they do."""
    hull, knee = hull_from_idle(curve), knee_w(curve)
    above = (point for point in monotone(curve)[1:] if point.draw_w >= knee - EPS)
    return all(point.throughput >= hull.throughput(point.draw_w) - EPS for point in above)


def parse_curves(text: str, idle_w: Mapping[str, float] | None = None, place: str = "curves") -> dict[str, PowerCurve]:
    """Read measured curves from CSV text, keyed "gpu/workload" ("@batch" added where a workload has several).

    Columns used: source, gpu, workload, batch, cap_w, power_w, rel_throughput. `idle_w` gives the idle draw in W by gpu
    and goes before IDLE_W. Raises ValueError with `place` and the line.
    """
    rows: dict[tuple[str, str, str, str], list[CurvePoint]] = {}
    reader = csv.DictReader(text.splitlines())
    for row in reader:
        try:
            key = (row["gpu"], row["workload"], row["batch"] or "", row["source"])
            point = CurvePoint(float(row["cap_w"]), float(row["power_w"]), float(row["rel_throughput"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{place}:{reader.line_num}: not a row of a power curve: {error!r}") from error
        if not (0 < point.cap_w < 1e5 and 0 < point.draw_w < 1e5 and 0 <= point.throughput < 1e3):
            raise ValueError(f"{place}:{reader.line_num}: cap, draw or throughput out of range: {point}")
        rows.setdefault(key, []).append(point)
    return _named(rows, {**IDLE_W, **(idle_w or {})})


def _named(
    rows: Mapping[tuple[str, str, str, str], list[CurvePoint]], idle_w: Mapping[str, float]
) -> dict[str, PowerCurve]:
    """Curves by their shortest unambiguous name."""
    batches: dict[tuple[str, str], int] = {}
    for gpu, workload, _, _ in rows:
        batches[gpu, workload] = batches.get((gpu, workload), 0) + 1
    curves = {}
    for (gpu, workload, batch, source), points in rows.items():
        name = f"{gpu}/{workload}" + (f"@{batch}" if batches[gpu, workload] > 1 else "")
        points.sort(key=lambda point: point.cap_w)
        curves[name] = PowerCurve(name, idle_w.get(gpu, IDLE_SHARE * points[-1].cap_w), tuple(points), source)
    return curves
