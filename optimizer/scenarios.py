"""A small set of weighted scenarios out of the many paths that forecasts say may come.

Why few: each scenario is a linear program of its own. Why these: the paths of all signals are residuals from the same
origins in the past, so that path n of the price and path n of a load happened together; of those joint paths the ones
are kept that stand for all others at the least distance, each with the probability of those it stands for. Their mean
is put back to that of all paths: a plan that weighs scenarios without minding risk must be the plan of the mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from optimizer.domain import Problem
from optimizer.facts import Floats
from optimizer.model.parts import Ints
from optimizer.uncertain import Scenario, Values

PRICE, LIMIT, BASE, LOAD = "price", "limit", "base", "load"
Paths = Mapping[tuple[str, str], Floats]
"""(what, id of the site or pool) -> values [path, interval]: PRICE in money per MWh, LIMIT in kW, BASE (what the meter
shows above the model) in kW of import, LOAD as a share of the pool's GPUs."""


def scenarios_of(problem: Problem, paths: Paths, count: int) -> tuple[Scenario, ...]:
    """At most `count` scenarios; none where nothing is uncertain. The same input gives the same scenarios.

    Prices keep the problem's own mean (money is linear in them), loads the mean of their paths; a limit is never above
    what the operator has set. Raises ValueError for paths that don't lie on the problem's grid.
    """
    moving = {key: found for key, found in paths.items() if (found != found[:1]).any()}
    if not moving or count < 2:
        return ()
    for key, found in paths.items():
        if found.shape[1:] != (len(problem.grid),):
            raise ValueError(f"paths of {'/'.join(key)} have shape {found.shape} for {len(problem.grid)} intervals")
    many = max(len(found) for found in moving.values())
    joint = {key: found[np.arange(many) * len(found) // many] for key, found in paths.items()}
    picked, probability = reduced(_features(problem, joint), count)
    kept = {key: _recentred(found, picked, probability) for key, found in joint.items()}
    return tuple(
        _scenario(problem, {key: found[n] for key, found in kept.items()}, float(share))
        for n, share in enumerate(probability)
    )


def reduced(points: Floats, count: int) -> tuple[Ints, Floats]:
    """Rows of `points` [path, feature], all equally likely, that stand for all at the least mean distance, and the
    probability that each stands for.

    Fast forward selection (Heitsch and Roemisch, Scenario reduction algorithms in stochastic programming, Comput.
    Optim. Appl. 24, 2003): each next row is the one that lowers the sum of distances to the nearest chosen row most.
    """
    squares = (points**2).sum(axis=1)
    away = np.sqrt(np.clip(squares[:, None] + squares[None, :] - 2.0 * points @ points.T, 0.0, None))
    nearest = np.full(len(points), np.inf)
    picked: list[int] = []
    for _ in range(min(count, len(points))):
        sums = np.minimum(away, nearest[None, :]).sum(axis=1)
        sums[picked] = np.inf
        best = int(np.argmin(sums))
        if picked and nearest.sum() - sums[best] <= 1e-9 * (1.0 + away.max()):
            break
        picked.append(best)
        nearest = np.minimum(nearest, away[best])
    rows = np.array(sorted(picked), dtype=np.int64)
    owner = np.argmin(away[:, rows], axis=1)
    return rows, np.bincount(owner, minlength=len(rows)) / len(points)


def fewer(problem: Problem, count: int) -> tuple[Scenario, ...]:
    """The problem's scenarios reduced to at most `count`, with the same mean."""
    old = problem.scenarios
    if len(old) <= count:
        return old
    weight = np.array([scenario.probability for scenario in old])
    values = {name: np.array([getattr(scenario, name) for scenario in old]) for name in FIELDS}
    flat = np.concatenate([_scaled(part.reshape(len(old), -1)) for part in values.values()], axis=1)
    rows, _ = reduced(flat, count)
    owner = np.argmin(np.linalg.norm(flat[:, None, :] - flat[None, rows, :], axis=2), axis=1)
    shares: Floats = np.bincount(owner, weight, minlength=len(rows)).astype(np.float64)
    kept = {name: _same_mean(part, rows, shares, weight) for name, part in values.items()}
    return tuple(
        Scenario(float(share), *(_tuples(np.maximum(kept[name][n], LEAST[name])) for name in FIELDS))
        for n, share in enumerate(shares)
    )


FIELDS = ("price_per_mwh", "limit_kw", "other_it_kw", "load")
LEAST = {"price_per_mwh": -np.inf, "limit_kw": 0.0, "other_it_kw": 0.0, "load": 0.0}


def in_scenario(problem: Problem, scenario: Scenario, from_interval: int = 0) -> Problem:
    """The problem as it is in one scenario, which counts from an interval on; before it the problem's own values
    hold."""
    first = from_interval

    def mixed(own: tuple[float, ...], other: tuple[float, ...]) -> tuple[float, ...]:
        return (*own[:first], *other[first:])

    sites = tuple(
        replace(
            site,
            price_per_mwh=mixed(site.price_per_mwh, scenario.price_per_mwh[s]),
            limit_kw=mixed(site.limit_kw, scenario.limit_kw[s]),
            other_it_kw=mixed(site.other_it_kw, scenario.other_it_kw[s]),
        )
        for s, site in enumerate(problem.sites)
    )
    pools = tuple(replace(inputs, load=mixed(inputs.load, scenario.load[g])) for g, inputs in enumerate(problem.pools))
    return replace(problem, sites=sites, pools=pools, scenarios=())


# ---------------------------------------------------------------- parts
def _features(problem: Problem, joint: Paths) -> Floats:
    """What makes two paths different [path, feature]: each signal on its own scale, longer intervals counting more."""
    length = np.sqrt(np.array(problem.grid.hours))
    return np.concatenate([_scaled(found) * length for found in joint.values()], axis=1)


def _scaled(values: Floats) -> Floats:
    """Values in units of their own spread. Unlimited limits are the same in all scenarios."""
    finite = np.where(np.isfinite(values), values, 0.0)
    spread = float(finite.std(axis=0).mean())
    scaled: Floats = finite / spread if spread > 1e-9 * (1.0 + float(np.abs(finite).max())) else np.zeros_like(finite)
    return scaled


def _recentred(found: Floats, picked: Ints, probability: Floats) -> Floats:
    """The picked rows, moved so that their mean is that of all."""
    return _same_mean(found, picked, probability, np.full(len(found), 1.0 / len(found)))


def _same_mean(values: Floats, rows: Ints, shares: Floats, weight: Floats) -> Floats:
    """Rows moved by what their mean under `shares` differs from that of all under `weight`."""
    kept = values[rows]
    with np.errstate(invalid="ignore"):
        moved = np.tensordot(weight, values, 1) - np.tensordot(shares, kept, 1)
    result: Floats = kept + np.where(np.isfinite(moved), moved, 0.0)
    return result


def _scenario(problem: Problem, values: Mapping[tuple[str, str], Floats], probability: float) -> Scenario:
    """One scenario; what has no path is as in the problem."""
    price, limit, other = [], [], []
    for site in problem.sites:
        price.append(_tuple(values.get((PRICE, site.id), np.array(site.price_per_mwh))))
        above = np.clip(values.get((BASE, site.id), np.zeros(len(problem.grid))) / np.array(site.pue), 0.0, None)
        other.append(_tuple(np.array(site.other_it_kw) + above))
        limit.append(_tuple(np.clip(values.get((LIMIT, site.id), np.array(site.limit_kw)), 0.0, None)))
    load = [
        _tuple(np.clip(values.get((LOAD, inputs.pool.id), np.array(inputs.load)), 0.0, 1.0)) for inputs in problem.pools
    ]
    return Scenario(probability, tuple(price), tuple(limit), tuple(other), tuple(load))


def _tuple(values: Floats) -> tuple[float, ...]:
    found: tuple[float, ...] = tuple(values.tolist())
    return found


def _tuples(values: Floats) -> Values:
    return tuple(_tuple(row) for row in values)
