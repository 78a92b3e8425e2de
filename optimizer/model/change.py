"""The cost of change: caps that move every interval wear on trust and hardware for nothing."""

from __future__ import annotations

import numpy as np

from optimizer.facts import Floats, PoolFacts
from optimizer.model.parts import Build, Row, Term, row, rows, variables
from optimizer.model.pools import segments


def add_changes(build: Build) -> None:
    """up - down = throttle[g,t] - throttle[g,t-1] (kW); objective: + change price * (up + down).

    Throttle is full draw less draw for interactive and training pools, so that a load that comes and goes costs
    nothing; for batch pools it is the draw itself. The first step counts from the present draw, where it is known.
    """
    price = build.facts.problem.prices.change_per_kw
    if price <= 0:
        return
    keys = [
        (pool.index, t)
        for pool in build.facts.pools
        for t in range(0 if pool.draw_now_kw is not None else 1, build.facts.count)
    ]
    up, down = variables(build, "change_up", keys), variables(build, "change_down", keys)
    members: list[Row] = []
    for g, t in keys:
        pool = build.facts.pools[g]
        terms: list[Term] = [(1.0, up[g, t]), (-1.0, down[g, t])]
        level = still_level_kw(pool)
        before = level[t - 1] if t else now_level_kw(pool)
        terms.extend((1.0, seg) for seg, _ in segments(build, pool, t))
        if t:
            terms.extend((-1.0, seg) for seg, _ in segments(build, pool, t - 1))
        members.append(row(float(level[t] - before), terms, float(level[t] - before)))
        build.cost.extend(((price, up[g, t]), (price, down[g, t])))
    rows(build, "changes", members)


def still_level_kw(pool: PoolFacts) -> Floats:
    """Throttle of a pool whose segments are all empty: draw above base for the others, minus base draw for batch."""
    return -pool.base_kw if pool.batch else np.asarray(pool.top_kw - pool.base_kw)


def now_level_kw(pool: PoolFacts) -> float:
    """Throttle of a pool now, from its measured draw."""
    draw = pool.draw_now_kw or 0.0
    return -draw if pool.batch else max(0.0, float(pool.top_kw[0]) - draw)
