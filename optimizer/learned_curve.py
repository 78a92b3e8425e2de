"""From what was learned to a curve that the planner can take: monotone, inside the cards' range, never a jump.

Formulas: the logarithm of draw over the library's is a Gaussian process over the cap with the covariance
spread^2 * exp(-|difference of caps| / length), conditioned on the means at the caps that were held (Rasmussen and
Williams, Gaussian Processes for Machine Learning, 2006, equations 2.23 and 2.24). So few samples stay near the library,
caps between two that were held lie between them, and each cap has an error of its own. Where draws fall with the cap
they are pooled by weighted isotonic regression (scipy).

A cap that does not bind (draw far below it) says that every cap down to that draw changes nothing, and says nothing
about lower ones: the process is cut there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from math import log

import numpy as np
from numpy.typing import NDArray

from optimizer.curves import draw_at_cap, throughput_at_cap, throughput_at_draw
from optimizer.domain import CurvePoint, PowerCurve
from optimizer.learning import Learned, Prior, Track

Floats = NDArray[np.float64]

BINDING = 0.93
"""Share of a cap that a card draws at least while the cap binds: 0.95 to 0.98 in the A100 sweep of the library at and
below 350 W (ai-emerald/emerald-ai-demo-may-2025)."""

MOST_OVER = 1.3
"""A card may draw more than a low cap, 1.19 times it in an A40 sweep of the library; more is not believed."""

LENGTH_SHARE = 0.25
"""Length over which an error at one cap tells of another, as a share of the range of caps."""

FLOOR_SD = 0.005
"""What no number of samples takes away: the error of the sensors themselves."""

RISES = 0.03
"""Where a higher cap makes draw rise by more than this, the lower one binds, whatever part of it a card draws."""

UNBOUND_SD = 0.03
"""Added where a draw is only inferred from a higher cap that does not bind."""

LEAST_SAMPLES, DEADBAND, SIGNIFICANT, MOST_STEP = 20, 0.01, 3.0, 0.03
"""Samples before anything moves; relative difference that is not worth a new curve, and how many times the
samples' noise it must be; most by which draw (relative) and throughput (absolute) move at once."""

LEARNED = "learned"


@dataclass(frozen=True)
class _Posterior:
    """Logarithm of a ratio at every knot: mean, standard deviation, and how much of the mean is noise of samples."""

    mean: Floats
    sd: Floats
    noise: Floats


@dataclass(frozen=True)
class Fit:
    """At the prior's knots: draw in W, its standard error (relative), throughput; and the relative noise of both, which
    the next samples may undo."""

    draw_w: Floats
    draw_sd: Floats
    throughput: Floats
    draw_noise: Floats
    throughput_noise: Floats


@lru_cache(maxsize=256)
def fit(state: Learned, prior: Prior) -> Fit:
    """The curve that the observations tell, and how sure it is. A state of another start tells nothing."""
    knots = np.array(prior.knots_w)
    library = np.array([draw_at_cap(prior.curve, cap) for cap in prior.knots_w])
    data, cut_w = _draw_data(state.draw, knots, library)
    found = _conditioned(prior, knots, data, cut_w)
    idle_w = prior.curve.idle_w
    draws = _rising(library * np.exp(found.mean), found.sd**-2.0)
    draws = np.maximum(np.minimum(draws, np.maximum(MOST_OVER * knots, library)), idle_w + 1.0)
    works, noise = _throughputs(state.work, prior, knots, draws)
    return Fit(draws, found.sd, works, found.noise, noise)


@dataclass(frozen=True)
class _Data:
    """Per knot what was seen: mean (NaN: nothing), its variance, and the part of it that is the samples' noise."""

    mean: Floats
    variance: Floats
    noise: Floats


def _held(track: Track) -> _Data:
    weight = np.array(track.weight)
    noise = track.spread**2 / np.maximum(weight, 1.0)
    return _Data(np.where(weight >= 1.0, np.array(track.mean), np.nan), noise + FLOOR_SD**2, noise)


def _draw_data(track: Track, knots: Floats, library: Floats) -> tuple[_Data, float]:
    """What the draws tell at each knot, and the cap in W below which they tell nothing. Between a draw and a cap that
    does not bind it, the draw is the same."""
    data = _held(track)
    mean, variance, noise = data.mean.copy(), data.variance.copy(), data.noise.copy()
    real = ~np.isnan(mean)
    draws = library * np.exp(mean)
    share = _binding(draws[real], knots[real])
    for knot in np.flatnonzero(real & (draws < share * knots))[::-1]:
        same = ~real & (knots < knots[knot]) & (knots >= draws[knot] / share)
        mean[same] = np.log(draws[knot] / library[same])
        variance[same], noise[same] = variance[knot] + UNBOUND_SD**2, noise[knot]
    lowest = int(np.flatnonzero(real)[0]) if real.any() else 0
    unbound = real.any() and draws[lowest] < BINDING * knots[lowest]  # what others prove tells nothing of lower caps
    return _Data(mean, variance, noise), float(draws[lowest] / BINDING) if unbound else float(knots[0])


def _binding(draws: Floats, knots: Floats) -> float:
    """Share of a cap that these cards draw at least while it binds: BINDING, or less where they drew less of a cap
    under which they drew clearly less than under a higher one."""
    higher = np.append(np.maximum.accumulate(draws[::-1])[::-1][1:], 0.0)
    return float(np.min(draws / knots, initial=BINDING, where=higher > (1.0 + RISES) * draws))


def _conditioned(prior: Prior, knots: Floats, data: _Data, cut_w: float) -> _Posterior:
    """The process at every knot, given the data."""
    known = ~np.isnan(data.mean)
    if not known.any():
        return _Posterior(np.zeros(len(knots)), np.full(len(knots), prior.spread), np.zeros(len(knots)))
    length = LENGTH_SHARE * max(1.0, float(knots[-1] - knots[0]))
    covariance = prior.spread**2 * np.exp(-np.abs(knots[:, None] - knots[None, :]) / length)
    below = knots < cut_w - 1e-9
    covariance[below[:, None] != below[None, :]] = 0.0
    gain = np.linalg.solve(covariance[np.ix_(known, known)] + np.diag(data.variance[known]), covariance[known]).T
    left = np.diag(covariance) - np.einsum("ij,ji->i", gain, covariance[known])
    noise = np.sqrt((gain**2) @ data.noise[known])
    return _Posterior(gain @ data.mean[known], np.sqrt(np.maximum(left, FLOOR_SD**2)), noise)


def _throughputs(track: Track, prior: Prior, knots: Floats, draws: Floats) -> tuple[Floats, Floats]:
    """Throughput at the knots: what is metered, else the library's at the same share of the power above idle; and its
    noise."""
    curve, idle_w = prior.curve, prior.curve.idle_w
    top = curve.points[-1]
    top_w = draw_at_cap(curve, top.cap_w)
    most = throughput_at_cap(curve, top.cap_w)
    shares = (draws - idle_w) / (draws[-1] - idle_w)
    start = np.array([throughput_at_draw(curve, idle_w + share * (top_w - idle_w)) for share in shares])
    start = np.clip(start, 1e-4, None)
    data = _held(track)
    library = np.clip([throughput_at_cap(curve, cap) for cap in knots], 1e-4, None)
    moved = _conditioned(prior, knots, replace(data, mean=data.mean + np.log(library / start)), float(knots[0]))
    found: Floats = _rising(start * np.exp(moved.mean), moved.sd**-2.0)
    return found * (most / found[-1]), moved.noise


def advanced(state: Learned, prior: Prior) -> Learned:
    """The state with its curve in force brought nearer to what the observations tell, at most `MOST_STEP` at once; the
    same object where that is not worth it."""
    if state.samples < LEAST_SAMPLES or state.key != prior.key:
        return state
    told, now = fit(state, prior), in_force(state, prior)
    draws = np.array([draw_at_cap(now, cap) for cap in prior.knots_w])
    works = np.array([throughput_at_cap(now, cap) for cap in prior.knots_w])
    if not _differ(told.draw_w, draws, told.draw_noise) and not _differ(told.throughput, works, told.throughput_noise):
        return state
    draws = np.clip(told.draw_w, draws * (1.0 - MOST_STEP), draws * (1.0 + MOST_STEP))
    works = np.clip(told.throughput, works - MOST_STEP, works + MOST_STEP)
    points = zip(prior.knots_w, draws.tolist(), works.tolist(), strict=True)
    curve = PowerCurve(prior.library.name, prior.curve.idle_w, tuple(CurvePoint(*point) for point in points), LEARNED)
    return replace(state, curve=curve)


def _differ(told: Floats, held: Floats, noise: Floats) -> bool:
    """Whether what is told differs from what holds, at any knot, by more than noise and than is worth a change."""
    gaps = np.abs(np.log(np.maximum(told, 1e-6) / np.maximum(held, 1e-6)))
    return bool(np.any(gaps > np.maximum(DEADBAND, SIGNIFICANT * noise)))


def in_force(state: Learned, prior: Prior) -> PowerCurve:
    """The curve in force: the learned one, else the library's."""
    return state.curve if state.curve is not None and state.key == prior.key else prior.library


def error_at(state: Learned, prior: Prior, cap_w: float) -> float:
    """Standard error (relative) of the draw that the curve in force tells at a cap: what is not known, and what the
    curve still lacks of what is."""
    told, curve = fit(state, prior), in_force(state, prior)
    sd = float(np.interp(cap_w, prior.knots_w, told.draw_sd))
    lag = log(float(np.interp(cap_w, prior.knots_w, told.draw_w)) / draw_at_cap(curve, cap_w))
    return float(np.hypot(sd, lag))


def mean_error(state: Learned, prior: Prior) -> float:
    """Root mean square of the error over the caps that may be ordered."""
    return float(np.sqrt(np.mean([error_at(state, prior, cap) ** 2 for cap in prior.knots_w])))


def departure(state: Learned, prior: Prior) -> tuple[float, float]:
    """(cap in W, relative difference in draw) where the curve in force is farthest from the library's."""
    curve = in_force(state, prior)
    gaps = [(cap, draw_at_cap(curve, cap) / draw_at_cap(prior.library, cap) - 1.0) for cap in prior.knots_w]
    return max(gaps, key=lambda gap: abs(gap[1]))


def _rising(values: Floats, weights: Floats) -> Floats:
    """The nearest values that never fall, by weighted isotonic regression."""
    from scipy.optimize import isotonic_regression  # takes a second to import: the daemon is in charge by then

    found: Floats = isotonic_regression(values, weights=weights).x
    return found
