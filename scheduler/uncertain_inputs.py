"""How the problem may turn out otherwise: the paths behind its forecasts, gathered while it is built, as scenarios.

Why gathered on the way: each signal is forecast once, and its paths are what that forecast is made of.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import numpy as np

from optimizer.domain import Problem
from optimizer.forecast_errors import Floats
from optimizer.scenarios import BASE, LIMIT, scenarios_of
from optimizer.timegrid import TimeGrid
from optimizer.uncertain import Weighing
from scheduler.backoff import BaseLoadErrors
from scheduler.engine import Caution

PathBook = dict[tuple[str, str], Floats]
BASE_PATHS = 40


def keep_limit(
    paths: PathBook, site: str, limit: tuple[float, ...], orders: tuple[float, ...], lower: Floats | None
) -> None:
    """The site's limit as it may be, before any back-off: what scenarios hold the meter's errors against."""
    paths[LIMIT, site] = np.array([limit]) if lower is None else np.minimum(lower, np.array(orders))


def keep_base(paths: PathBook, site: str, grid: TimeGrid, errors: BaseLoadErrors, now: datetime) -> None:
    """What the meter may show above the model: quantiles of what it did, the same over the horizon, in an order that
    has nothing to do with the other signals."""
    seen = errors.quantiles_kw(site, BASE_PATHS)
    if seen is not None:
        mixed = np.random.default_rng(now.toordinal()).permutation(seen)
        paths[BASE, site] = np.repeat(mixed[:, None], len(grid), axis=1)


def with_scenarios(problem: Problem, paths: PathBook, caution: Caution) -> Problem:
    """The problem with as many scenarios as are asked for, and how they count."""
    weighing = Weighing(
        reserve_share=caution.reserve,
        peak_share=caution.peak,
        risk_weight=caution.risk_weight,
        risk_tail=caution.risk_tail,
        weigh_every_s=caution.weigh_every.total_seconds(),
        size_every_s=caution.size_every.total_seconds(),
    )
    made = replace(problem, weighing=weighing)
    return replace(made, scenarios=scenarios_of(made, paths, caution.scenarios)) if caution.scenarios else made
