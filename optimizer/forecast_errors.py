"""How wrong a forecast has been tells what to expect next: the error model behind forecasts, bands and scenarios.

Why so: a day-ahead price (or the profile of a week) is a good first guess of the price in real time, and its latest
errors say most of what else can be known. How fast they fade is learned from the signal's own past, for each number of
hours ahead by itself, not guessed. Prices have spikes of a hundred times their usual size, so all of this happens on
the scale of asinh(value / scale), which is linear near 0, logarithmic far out and fit for negative prices (Uniejewski,
Weron, Ziel: Variance stabilizing transformations for electricity spot price forecasting, IEEE Trans. Power Syst. 2018).

What was never seen before is not to be trusted to end soon: while the latest errors move more violently than in all of
the history, they are taken to stay (the dearer of both views counts).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Floats = NDArray[np.float64]

AHEAD_H = 26.0
"""Hours ahead for which the fading of errors is learned; beyond, that of the last hour holds."""
MEANS_H = (4.0, 24.0)
"""Beside the last error, its means over so many hours say what to expect."""
VIOLENCE_HALF_LIFE_H = 6.0
PATHS = 200
RIDGE = 20.0
"""Weight of believing that errors say nothing, in samples: keeps a short history from being taken literally."""
LEAST_DAYS = 14.0
"""Days of history from which on the errors are learned."""


@dataclass(frozen=True)
class Present:
    """What the latest errors say: regressors [1, last, means], the highest violence of their moves since the day began
    (log of a mean step), and the furthest value of late, on the asinh scale."""

    regressors: Floats
    last: float
    violence: float
    furthest: float


@dataclass(frozen=True)
class ErrorModel:
    """Errors on the asinh scale, learned at one step length. `weights` [steps ahead, regressor]; `paths` [origin, steps
    ahead] are what was left unexplained from origins all over the history; `calm` is the highest violence in it."""

    scale: float
    step_h: float
    weights: Floats
    paths: Floats
    calm: float
    ceiling: float

    def ahead(self, present: Present, base: Floats, lead: int) -> Floats:
        """Values [path, interval] that may come, never beyond twice what has been seen. `base`, on the asinh scale,
        begins `lead` >= 1 steps after the last known sample."""
        step = np.minimum(np.arange(lead, lead + len(base)), len(self.weights)) - 1
        expected = self.weights[step] @ present.regressors
        if present.violence > self.calm:
            expected = np.maximum(expected, present.last)
        ceiling = max(self.ceiling, float(np.arcsinh(2.0 * np.sinh(present.furthest))))
        size = np.clip(base + expected + self.paths[:, step], -ceiling, ceiling)
        values: Floats = self.scale * np.sinh(size)
        return values


def size_of(values: Floats, scale: float) -> Floats:
    """asinh(value / scale)."""
    sizes: Floats = np.arcsinh(values / scale)
    return sizes


def scale_of(values: Floats) -> float:
    """Half the median size of what is known: below it the asinh scale is about linear."""
    known = np.abs(values[np.isfinite(values)])
    middle = float(np.median(known)) if len(known) else 0.0
    return middle / 2.0 if middle > 0 else 1.0


def learn(values: Floats, base: Floats, scale: float, step_h: float) -> ErrorModel | None:
    """The error model of a signal. `values` are samples `step_h` hours apart (NaN: a gap), `base` is what was expected
    of each, on the asinh scale. None where fewer than three weeks are known of both."""
    errors = size_of(values, scale) - base
    ahead = round(AHEAD_H / step_h)
    if np.isfinite(errors).sum() * step_h < LEAST_DAYS * 24.0:
        return None
    regressors = latest_and_means(errors, step_h)
    last = len(errors) - ahead
    future = sliding_window_view(errors, ahead + 1)[:last, 1:]
    whole = np.isfinite(regressors[:last]).all(axis=1) & np.isfinite(future).all(axis=1)
    origins = np.flatnonzero(whole)
    if len(origins) * step_h < LEAST_DAYS * 12.0:
        return None
    known, then = regressors[origins], future[origins]
    penalty = RIDGE * np.diag([0.0] + [1.0] * (known.shape[1] - 1))
    weights: Floats = np.linalg.solve(known.T @ known + penalty, known.T @ then).astype(np.float64)
    picked = np.linspace(0, len(origins) - 1, min(PATHS, len(origins))).astype(np.int64)
    unexplained: Floats = then[picked] - known[picked] @ weights
    paths: Floats = unexplained - unexplained.mean(axis=0)
    ceiling = float(np.arcsinh(2.0 * np.nanmax(np.abs(values)) / scale))
    return ErrorModel(scale, step_h, weights.T, paths, float(np.max(_violence(errors, step_h))), ceiling)


def present(values: Floats, base: Floats, scale: float, step_h: float, today: int) -> Present | None:
    """What the end of `values` says; `today` is how many of the last samples lie in the present day. None where the
    last sample is a gap."""
    errors = size_of(values, scale) - base
    if not len(errors) or not np.isfinite(errors[-1]):
        return None
    violence = _violence(errors, step_h)
    since = float(violence[-max(1, today) :].max())
    return Present(_latest(errors, step_h), float(errors[-1]), since, float(np.nanmax(np.abs(errors + base))))


def _windows(step_h: float) -> list[int]:
    return [max(1, round(hours / step_h)) for hours in MEANS_H]


def _latest(errors: Floats, step_h: float) -> Floats:
    """Regressors at the end."""
    return np.array([1.0, errors[-1], *(float(np.nanmean(errors[-count:])) for count in _windows(step_h))])


def latest_and_means(errors: Floats, step_h: float) -> Floats:
    """1, the last error, its means over the last hours [sample, regressor]; NaN where the last one is a gap."""
    known = np.isfinite(errors)
    sums = np.concatenate(([0.0], np.cumsum(np.where(known, errors, 0.0))))
    counts = np.concatenate(([0], np.cumsum(known)))
    end = np.arange(1, len(errors) + 1)
    columns = [np.ones(len(errors)), errors]
    for count in _windows(step_h):
        begin = np.maximum(0, end - count)
        columns.append((sums[end] - sums[begin]) / np.maximum(1, counts[end] - counts[begin]))
    return np.stack(columns, axis=1)


def _violence(errors: Floats, step_h: float) -> Floats:
    """Log of the mean size of the errors' steps, later ones counting more (half-life 6 h)."""
    steps = np.diff(errors, prepend=errors[:1])
    squares = np.where(np.isfinite(steps), steps, 0.0) ** 2
    keep = 0.5 ** (step_h / VIOLENCE_HALF_LIFE_H)
    first = float(squares[: max(1, round(24.0 / step_h))].mean())
    from scipy.signal import lfilter  # takes seconds to import: the daemon is in charge by then

    smooth, _ = lfilter([1.0 - keep], [1.0, -keep], squares, zi=[keep * first])
    logs: Floats = 0.5 * np.log(smooth + 1e-4)
    return logs
