"""A forecast by a library's model: scikit-learn's gradient-boosted trees over what the built-in looks at, and more.

Why beside the built-in: trees find what a straight line can't (errors that fade at another pace at night), and need
more days to be sure of it. They learn the same thing, the error of what is expected (`forecast_errors`). Half of the
weeks teach one model and half the other; each is judged on the weeks that it hasn't seen, which gives the paths an
honest width, and the mean of both is the forecast. One thread: the control loop runs beside it.

Histogram-based gradient boosting: Ke et al., LightGBM: A highly efficient gradient boosting decision tree, NIPS 2017.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from optimizer.domain import Series
from optimizer.forecast_base import samples, slots
from optimizer.forecast_errors import AHEAD_H, LEAST_DAYS, PATHS, Floats, latest_and_means, size_of
from optimizer.forecast_kept import Pasts
from optimizer.forecast_learned import Fan, Past, Recall
from optimizer.model.parts import Ints

HOUR = timedelta(hours=1)
LEADS = 6
"""How many steps ahead each moment of the past teaches of; which ones takes turns from moment to moment."""
TREES, LEAVES, LEAST_SAMPLES, RATE, L2 = 80, 15, 100, 0.08, 10.0
DAY_H, WEEK_H = 24.0, 168.0


@dataclass(frozen=True)
class Clues:
    """What may tell an error ahead, for every step of a signal's past and future: regressors [known step, regressor]
    and errors [known step] of what is known; of all steps what is expected, and their place in the week."""

    regressors: Floats
    errors: Floats
    base: Floats
    place: Floats
    weekend: Floats
    step_h: float

    def of(self, origins: Ints, leads: Ints) -> Floats:
        """Features [pair, feature] of steps `leads` after `origins`. The error at the same time of the last day that is
        known at the origin is one of them; NaN (trees take it) where there is none."""
        targets, day = origins + leads, round(DAY_H / self.step_h)
        before = targets - day * ((leads - 1) // day + 1)
        alike = np.where(before >= 0, self.errors[np.maximum(before, 0)], np.nan)
        about = (leads * self.step_h, self.base[targets], self.place[targets], self.weekend[targets], alike)
        return np.column_stack((self.regressors[origins, 1:], *about))


@dataclass(frozen=True)
class Trees:
    """Two models, each taught by half of the weeks. `paths` [origin, steps ahead] are what they left unexplained of
    weeks that they had not seen; no value is believed beyond `ceiling`, on the asinh scale."""

    models: tuple[Any, Any]
    paths: Floats
    ceiling: float

    def ahead(self, clues: Clues, known: int, until: int) -> Floats:
        """Sizes [path, step] of steps `known` up to `until`, on the asinh scale."""
        leads = np.arange(1, until - known + 1)
        features = clues.of(np.full(len(leads), known - 1), leads)
        expected = (self.models[0].predict(features) + self.models[1].predict(features)) / 2.0
        paths = self.paths[:, np.minimum(leads, self.paths.shape[1]) - 1]
        sizes: Floats = np.clip(clues.base[known:until] + expected + paths, -self.ceiling, self.ceiling)
        return sizes


@dataclass
class Boosted:
    """See `forecasters.Forecaster`. Keeps the model of each signal through the day: the same past teaches the same."""

    _pasts: Pasts = field(default_factory=Pasts)
    _taught: dict[str, tuple[Past, Trees | None]] = field(default_factory=dict)

    def __call__(
        self, series: Series, reference: Series | None, start: datetime, until: datetime, recall: Recall
    ) -> Fan | None:
        """See `forecasters.Forecaster`. ModuleNotFoundError without scikit-learn."""
        past = self._pasts.past(series, reference, start, until, recall)
        if past is None:
            return None
        with _one_thread():
            return self._fan(series, past, start, until, recall)

    def _fan(self, series: Series, past: Past, start: datetime, until: datetime, recall: Recall) -> Fan | None:
        known, total = (start - past.start) // past.step, -((past.start - until) // past.step)
        values = samples(series, past.start, past.step, known)
        clues = _clues(values, past, total, recall)
        trees = self._trees(series.name, past, clues)
        if trees is None or not known or not np.isfinite(clues.errors[-1]) or total <= known:
            return None
        paths: Floats = past.scale * np.sinh(trees.ahead(clues, known, total))
        return Fan(past.start + known * past.step, past.step, paths, past.scale)

    def _trees(self, name: str, past: Past, clues: Clues) -> Trees | None:
        """What the days before midnight teach."""
        kept = self._taught.get(name)
        if kept is None or kept[0] is not past:
            kept = self._taught[name] = (past, _teach(clues, past))
        return kept[1]


def _one_thread() -> AbstractContextManager[object]:
    """Keeps OpenMP from one thread a core, which on busy cores wait for one another."""
    import sklearn.ensemble  # noqa: F401 - what is not loaded yet can't be limited
    from threadpoolctl import threadpool_limits

    limits: AbstractContextManager[object] = threadpool_limits(limits=1, user_api="openmp")
    return limits


def _clues(values: Floats, past: Past, total: int, recall: Recall) -> Clues:
    _, place, weekend = slots(past.start, past.step, total, recall.zone)
    step_h = past.step / HOUR
    errors: Floats = size_of(values, past.scale) - past.base[: len(values)]
    return Clues(latest_and_means(errors, step_h), errors, past.base[:total], place, weekend, step_h)


def _teach(clues: Clues, past: Past) -> Trees | None:
    """None where fewer than two weeks are known, or one half of the weeks teaches nothing."""
    from sklearn.ensemble import HistGradientBoostingRegressor  # takes a second to import; only who asked for it waits

    errors, step_h = clues.errors[: len(past.values)], clues.step_h
    ahead = round(AHEAD_H / step_h)
    if np.isfinite(errors).sum() * step_h < LEAST_DAYS * DAY_H:
        return None
    week = (np.arange(len(errors)) * step_h // WEEK_H % 2).astype(np.int64)
    known = np.flatnonzero(np.isfinite(clues.regressors[: len(errors)]).all(axis=1))
    origins = np.repeat(known, LEADS)
    leads = 1 + (np.tile(np.arange(LEADS) * (ahead // LEADS), len(known)) + origins) % ahead
    inside = origins + leads < len(errors)
    origins, leads = origins[inside], leads[inside]
    taught = np.isfinite(errors[origins + leads])
    origins, leads = origins[taught], leads[taught]
    features, then = clues.of(origins, leads), errors[origins + leads]
    models = []
    for half in (0, 1):
        # The week of what is learned decides, so that no model has seen a value on which it is judged.
        chosen = week[origins + leads] == half
        if chosen.sum() < 2 * LEAST_SAMPLES:
            return None
        model = HistGradientBoostingRegressor(
            max_iter=TREES, max_leaf_nodes=LEAVES, min_samples_leaf=LEAST_SAMPLES, learning_rate=RATE,
            l2_regularization=L2, early_stopping=False, random_state=0,
        )  # fmt: skip
        models.append(model.fit(features[chosen], then[chosen]))
    ceiling = float(np.arcsinh(2.0 * np.nanmax(np.abs(past.values)) / past.scale))
    pair = (models[0], models[1])
    paths = _unexplained(clues, errors, week, pair, ahead)
    return None if paths is None else Trees(pair, paths, ceiling)


def _unexplained(clues: Clues, errors: Floats, week: Ints, models: tuple[Any, Any], ahead: int) -> Floats | None:
    """Errors less what the model of the other half of the weeks made of them [origin, steps ahead], their mean 0."""
    steps = np.arange(1, ahead + 1)
    last = len(errors) - ahead
    moments = np.arange(max(0, last))
    future = moments[:, None] + steps
    whole = np.isfinite(errors[future]).all(axis=1) & np.isfinite(clues.regressors[moments]).all(axis=1)
    found = moments[whole]
    if not len(found):
        return None
    picked = found[np.linspace(0, len(found) - 1, min(PATHS, len(found))).astype(np.int64)]
    origins, leads = np.repeat(picked, ahead), np.tile(steps, len(picked))
    features, targets = clues.of(origins, leads), origins + leads
    guesses = np.stack([model.predict(features) for model in models])
    unseen = guesses[1 - week[targets], np.arange(len(targets))]
    paths: Floats = (errors[targets] - unseen).reshape(len(picked), ahead)
    paths -= paths.mean(axis=0)
    return paths
