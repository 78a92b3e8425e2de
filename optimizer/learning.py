"""What a pool's meters teach about its power curve: robust statistics at a few caps, one observation at a time.

Why statistics and not a curve: a cap is held for hours and then another for minutes, readings are noisy, some are far
off, and loads drift. So each observation only moves the mean of the cap nearest to it; `optimizer/learned_curve.py`
makes a curve of all of them. Everything is relative to the measured curve that the pool started from, in logarithms:
a mean of zero means "as in the library". The same observations give the same state.

Robustness: an innovation moves its mean by at most Huber's bound (P. J. Huber, Robust Estimation of a Location
Parameter, Annals of Mathematical Statistics 35, 1964), so that one reading in twenty may be nonsense. When innovations
lean to one side for minutes it is the world that changed, and the old mean loses its weight.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from math import isfinite, log

from optimizer.curves import clipped, draw_at_cap, throughput_at_cap
from optimizer.domain import PowerCurve

SETTLE_S = 15.0
"""Seconds after a change of cap or load during which nothing is learned: the card settles in under one (GridPilot E2,
github.com/denisa-c/gridpilot), its sensor averages over one, a service's batches take some more."""

LEAST_BUSY = 0.3
"""Below this busy share the idle GPUs dominate what the pool draws, and their error the draw of a busy one."""

KNOTS = 9
"""Caps at which statistics are kept, at least: those of the library's curve, the largest gaps between them halved."""

MEMORY = 360.0
"""Observations that a mean remembers; at one every 10 s an hour."""

HALF_LIFE_S = 7 * 86400.0
"""After this time without an observation what was learned at a cap counts half."""

HUBER, SPREAD_BOUND, SPREAD_RATE = 1.5, 3.0, 0.02
"""Bounds of an innovation, in standard deviations, for the mean and for the deviation itself; weight of one
innovation in the latter."""

DRIFT_RATE, DRIFTED, LEAST_MEMORY = 0.05, 0.5, 10.0
"""Weight of one innovation (in bounds, cut at one) in their running mean; where that mean says that the world changed
(five of its own standard deviations under pure noise); and the memory that is left then."""

FIRST_SPREAD, LEAST_SPREAD, MOST_SPREAD = 0.05, 0.002, 0.5
"""Standard deviation of an observation: before anything is known of it, and its bounds."""

FARTHEST = log(3.0)
"""An observation that differs from the library by more than a factor of three is a broken meter, not a curve."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What the meters said of a pool over a few seconds.

    `cap_w` is the limit that its GPUs enforce, `draw_w` the mean draw of one busy GPU, `busy_share` the share of the
    pool that was busy (0..1), `settled_s` the seconds since cap or load last changed. `throughput` is that of one busy
    GPU in full-speed GPUs, None where nothing meters it.
    """

    at: datetime
    cap_w: float
    draw_w: float
    busy_share: float
    settled_s: float
    throughput: float | None = None


@dataclass(frozen=True)
class Prior:
    """Where learning starts: the library's curve, the caps that may be ordered, and how far (standard deviation,
    relative) a workload of this kind may be from that curve."""

    library: PowerCurve
    min_cap_w: float
    max_cap_w: float
    spread: float = 0.1

    @cached_property
    def curve(self) -> PowerCurve:
        """The library's curve between the caps that may be ordered."""
        return clipped(self.library, self.min_cap_w, self.max_cap_w)

    @cached_property
    def knots_w(self) -> tuple[float, ...]:
        """Caps in W at which statistics are kept, rising."""
        knots = [point.cap_w for point in self.curve.points]
        while 1 < len(knots) < KNOTS:
            gap = max(range(len(knots) - 1), key=lambda at: knots[at + 1] - knots[at])
            knots.insert(gap + 1, (knots[gap] + knots[gap + 1]) / 2.0)
        return tuple(knots)

    @cached_property
    def key(self) -> str:
        """Names this start: what was learned from another curve, range or idle draw does not apply."""
        points = ",".join(f"{p.cap_w:g}:{p.draw_w:g}:{p.throughput:g}" for p in self.curve.points)
        return f"{self.library.name}|{self.library.idle_w:g}|{points}"


@dataclass(frozen=True)
class Track:
    """One quantity at the knots, as the logarithm of its ratio to the library: mean, weight (observations that it
    stands for), and how far the last innovations leaned to one side (-1..1). `spread` is the standard deviation of one
    observation."""

    mean: tuple[float, ...]
    weight: tuple[float, ...]
    drift: tuple[float, ...]
    spread: float = FIRST_SPREAD


@dataclass(frozen=True)
class Learned:
    """All that is known of a pool's curve; kept in the books. `curve` is the one in force (None: the library's)."""

    key: str
    draw: Track
    work: Track
    samples: int = 0
    refused: int = 0
    at: datetime | None = None
    curve: PowerCurve | None = field(default=None)


def begin(prior: Prior) -> Learned:
    """Nothing learned yet."""
    count = len(prior.knots_w)
    empty = Track((0.0,) * count, (0.0,) * count, (0.0,) * count)
    return Learned(prior.key, empty, empty)


def learn(state: Learned, prior: Prior, seen: Observation) -> Learned:
    """The state after one observation. One that says nothing (too early, hardly busy) changes nothing; one that can't
    be true is counted in `refused`."""
    if not _finite(seen) or seen.settled_s < SETTLE_S or seen.busy_share < LEAST_BUSY:
        return state
    slack = 0.02 * prior.max_cap_w
    if not prior.min_cap_w - slack <= seen.cap_w <= prior.max_cap_w + slack:
        return state
    ratio = _log_ratio(seen.draw_w, draw_at_cap(prior.curve, seen.cap_w))
    if ratio is None:
        return replace(state, refused=state.refused + 1)
    at = seen.at if state.at is None else max(seen.at, state.at)
    faded = 1.0 if state.at is None else 0.5 ** ((at - state.at).total_seconds() / HALF_LIFE_S)
    knot = min(range(len(prior.knots_w)), key=lambda one: abs(prior.knots_w[one] - seen.cap_w))
    work = _log_ratio(seen.throughput, throughput_at_cap(prior.curve, seen.cap_w))
    return replace(
        state,
        draw=_moved(_faded(state.draw, faded), knot, ratio),
        work=_faded(state.work, faded) if work is None else _moved(_faded(state.work, faded), knot, work),
        samples=state.samples + 1,
        at=at,
    )


def _finite(seen: Observation) -> bool:
    return all(isfinite(number) for number in (seen.cap_w, seen.draw_w, seen.busy_share, seen.settled_s))


def _log_ratio(value: float | None, library: float) -> float | None:
    """Logarithm of value over library; None for what no curve can be."""
    if value is None or not isfinite(value) or value <= 0 or library <= 0:
        return None
    ratio = log(value) - log(library)
    return ratio if abs(ratio) <= FARTHEST else None


def _faded(track: Track, by: float) -> Track:
    if by > 1.0 - 1e-9:
        return track
    return replace(track, weight=tuple(weight * by for weight in track.weight))


def _moved(track: Track, knot: int, value: float) -> Track:
    """The track with one more value at a knot."""
    innovation = value - track.mean[knot]
    bound = HUBER * track.spread
    step = max(-bound, min(bound, innovation))
    drift = track.drift[knot] + DRIFT_RATE * (step / bound - track.drift[knot])
    held = track.weight[knot]
    if abs(drift) > DRIFTED:
        held = min(held, max(LEAST_MEMORY, held / 2.0))
    weight = min(MEMORY, held + 1.0)
    square = min(innovation * innovation, (SPREAD_BOUND * track.spread) ** 2)
    variance = track.spread**2 + SPREAD_RATE * (square - track.spread**2)
    return replace(
        track,
        mean=_put(track.mean, knot, track.mean[knot] + step / weight),
        weight=_put(track.weight, knot, weight),
        drift=_put(track.drift, knot, drift),
        spread=min(MOST_SPREAD, max(LEAST_SPREAD, variance**0.5)),
    )


def _put(values: tuple[float, ...], place: int, value: float) -> tuple[float, ...]:
    return (*values[:place], value, *values[place + 1 :])
