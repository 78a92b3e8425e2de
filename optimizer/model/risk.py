"""The extensive form: every scenario's model in one, with a common first step and a price on the worst that may come.

Why on top of `build.py`: a scenario is the same problem with other numbers, so its model is the same families again,
and only what ties scenarios together is new here.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from optimizer.classes import classes_of
from optimizer.domain import Problem
from optimizer.facts import Floats, facts_of
from optimizer.model.build import declare
from optimizer.model.parts import Columns, Flags, Ints, Model
from optimizer.scenarios import in_scenario
from optimizer.uncertain import Weighing

STEPPED = ("seg", "x", "late", "start", "charge", "discharge", "output", "offer")
"""Families of what is decided in an interval: common to all scenarios in the first step."""
ANSWERED = ("on_now", "take")
"""Families of what is answered now, whatever interval it concerns."""


def declare_weighed(problem: Problem, common: int, late: Flags | None = None) -> Model:
    """The extensive form of a problem with scenarios; its first `common` intervals are one plan in all of them. The
    present interval is as the problem says, in every scenario. Families are named `family@scenario`."""
    plain = replace(problem, scenarios=())
    facts = facts_of(plain)
    parts = []
    for scenario in problem.scenarios:
        other = in_scenario(plain, scenario, 1)
        parts.append(declare(other, classes_of(facts_of(other)).facts, late))
    model = Model(facts, parts[0].weights, parts[0].job_weights, parts[0].late)
    share = np.array([scenario.probability for scenario in problem.scenarios])
    add_scenarios(model, parts, share * (1.0 - problem.weighing.risk_weight))
    add_common(model, parts, common)
    if problem.weighing.risk_weight > 0:
        add_risk(model, parts, share, problem.weighing)
    return model


def add_scenarios(model: Model, parts: list[Model], weight: Floats) -> None:
    """Columns and rows of every scenario s. Objective: + weight_s * cost_s, where cost_s is that of the scenario's own
    model and weight_s its probability times (1 - risk weight)."""
    for s, part in enumerate(parts):
        made = {
            name: model.columns(
                f"{name}@{s}", "".join(family.axes), family.keys, low=family.low, high=family.high,
                cost=family.cost * weight[s], whole=family.whole,
            )
            for name, family in part.families.items()
        }  # fmt: skip
        for name, rows in part.row_families.items():
            copy = model.rows(f"{name}@{s}", "".join(rows.axes), rows.keys, low=rows.low, high=rows.high)
            for at, of, members, values in rows.blocks:
                copy.add(at, made[of.name], members, values)
        model.constant += float(weight[s]) * part.constant


def add_common(model: Model, parts: list[Model], common: int) -> None:
    """x_s - r_s * x_0 = 0 for what is decided in the first `common` intervals, and for what is answered now, in every
    scenario s > 0 (non-anticipativity). r_s is 1; for the draw of GPUs that serve users it is their busy GPUs in s over
    those in scenario 0, because what is ordered is a cap, and not how many are busy."""
    for name in (*STEPPED, *ANSWERED):
        first = parts[0].families.get(name)
        if first is None or not len(first):
            continue
        tied = _first_step(first, common) if name in STEPPED else first.all
        for s, part in enumerate(parts[1:], start=1):
            _tie(model, name, s, tied, _ratios(parts[0], part, first, tied) if name == "seg" else np.ones(len(tied)))


def _first_step(family: Columns, common: int) -> Ints:
    found: Ints = np.flatnonzero(family.keys[family.axes.index("t")] < common)
    return found


def _ratios(base: Model, part: Model, seg: Columns, tied: Ints) -> Floats:
    """Busy GPUs of a scenario over those of the first one, of each tied segment."""
    busy = [np.array([pool.working for pool in one.facts.pools]) for one in (part, base)]
    g, t = seg.keys[0][tied], seg.keys[1][tied]
    ratio: Floats = busy[0][g, t] / busy[1][g, t]
    return ratio


def _tie(model: Model, name: str, s: int, tied: Ints, ratio: Floats) -> None:
    """Tie the columns that both scenarios have: a pool without a busy GPU has no segments."""
    mine, other = model.get(f"{name}@0"), model.get(f"{name}@{s}")
    shape = tuple(int(max(a.max(initial=0), b.max(initial=0))) + 1 for a, b in zip(mine.keys, other.keys, strict=True))
    there = other.find(shape)[tuple(key[tied] for key in mine.keys)]
    here = there >= 0
    keys = tuple(key[tied[here]] for key in mine.keys)
    rows = model.rows(f"common_{name}@{s}", "".join(mine.axes), keys, low=0.0, high=0.0)
    rows.add(rows.all, other, there[here], 1.0)
    rows.add(rows.all, mine, tied[here], -ratio[here])


def add_risk(model: Model, parts: list[Model], share: Floats, weighing: Weighing) -> None:
    """worst_s + level - cost_s >= 0, worst_s >= 0 (money), level free. Objective: + risk weight * (level + sum_s
    share_s * worst_s / tail): at the optimum the mean cost of the worst `tail` of probability, CVaR (Rockafellar and
    Uryasev, Optimization of conditional value-at-risk, J. Risk 2, 2000, eq. 17, with 1 - beta = tail)."""
    level = model.columns("level", "r", ([0],), low=-np.inf, cost=weighing.risk_weight)
    scenario = np.arange(len(parts))
    worst = model.columns("worst", "z", (scenario,), cost=weighing.risk_weight * share / weighing.risk_tail)
    rows = model.rows("risk", "z", (scenario,), low=[part.constant for part in parts])
    rows.add(rows.all, worst, worst.all, 1.0)
    rows.add(rows.all, level, np.zeros(len(rows), dtype=np.int64), 1.0)
    for s, part in enumerate(parts):
        for name, family in part.families.items():
            priced = np.flatnonzero(family.cost)
            rows.add(np.full(len(priced), s), model.get(f"{name}@{s}"), priced, -family.cost[priced])
