"""What it costs a plan to weigh scenarios: the reference problem with the fan and without, in turn.

Why on the warm plan: the daemon's plans are warm, and the fan is in each of them.
"""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.support.pieces import code_digest
from benchmarks.support.plans import Planned
from benchmarks.support.report import say, spread
from benchmarks.support.rolling import refreshed, stepped
from optimizer.domain import Problem
from optimizer.facts import Floats
from optimizer.reasons import Reason
from optimizer.scenarios import LOAD, PRICE, scenarios_of

PATHS, FADE_PER_H, PRICE_ERROR, LOAD_ERROR = 200, 0.9, 0.3, 0.08
"""Errors of price (log) and load (relative) and what is left of them an hour later, as on recorded markets."""


def scenario_ratio(jobs: int, pools: int, repeats: int, seed: int, count: int = 20, keep: Path | None = None) -> float:
    """CPU time of a warm plan that weighs `count` scenarios over that of one that doesn't, the median of interleaved
    repeats. In `keep` every repeat is kept that is done, for who asks the same of the same code again.
    RuntimeError where scenarios were left out, because that would be fast and prove nothing."""
    place = keep / f"weighed-{_mark(jobs, pools, seed, count)}.json" if keep else None
    ratios: list[float] = json.loads(place.read_text(encoding="utf-8")) if place and place.exists() else []
    if len(ratios) < repeats:
        first = stepped(seed, 0, jobs, pools)
        plain, weighing = Planned(), Planned()
        plain.plan(first)
        weighing.plan(with_scenarios(first, count, seed))
    for number in range(len(ratios), repeats):
        made = refreshed(first, seed + number)
        asked = with_scenarios(made, count, seed + number)
        took = weighing.timed(asked).total_s
        if any(note.code is Reason.SCENARIOS_DROPPED for note in weighing.notes):
            raise RuntimeError("the scenarios were left out")
        ratios.append(took / plain.timed(made).total_s)
        if place:
            place.parent.mkdir(parents=True, exist_ok=True)
            part = place.with_suffix(".part")
            part.write_text(json.dumps(ratios), encoding="utf-8")
            part.rename(place)
    ratios = ratios[:repeats]
    say(f"plan that weighs {count} scenarios / plan that doesn't, {jobs} jobs, warm: {spread(ratios)}")
    return median(ratios)


def _mark(*asked: int) -> str:
    """A digest of the question and of the code that answers."""
    return sha256(repr((code_digest(), asked)).encode()).hexdigest()[:16]


def with_scenarios(problem: Problem, count: int, seed: int) -> Problem:
    """The problem with so many scenarios of its price and of the loads of its serving pools."""
    rng, site = np.random.default_rng(seed), problem.sites[0]
    paths = {(PRICE, site.id): np.array(site.price_per_mwh) * np.exp(_errors(problem, rng, PRICE_ERROR))}
    for inputs in problem.pools[::2]:
        paths[LOAD, inputs.pool.id] = np.clip(np.array(inputs.load) * (1 + _errors(problem, rng, LOAD_ERROR)), 0.0, 1.0)
    return replace(problem, scenarios=scenarios_of(problem, paths, count))


def _errors(problem: Problem, rng: np.random.Generator, size: float) -> Floats:
    """Errors that fade [path, interval], none in the present interval."""
    found, error = np.zeros((PATHS, len(problem.grid))), np.zeros(PATHS)
    for t in range(1, len(problem.grid)):
        keep = FADE_PER_H ** problem.grid.hours[t - 1]
        error = keep * error + np.sqrt(1.0 - keep**2) * rng.normal(0.0, size, PATHS)
        found[:, t] = error
    return found
