"""The cost of change: caps that move every interval wear on trust and hardware for nothing."""

from __future__ import annotations

import numpy as np

from optimizer.facts import Floats
from optimizer.model.parts import Model
from optimizer.poolfacts import PoolFacts


def add_changes(model: Model) -> None:
    """up - down = throttle[g,t] - throttle[g,t-1] (kW); objective: + change price * (up + down).

    Throttle is full draw less draw for interactive and training pools, so that a load that comes and goes costs
    nothing; for batch pools it is the draw itself. The first step counts from the present draw, where it is known.
    """
    facts, price = model.facts, model.facts.problem.prices.change_per_kw
    if price <= 0:
        return
    shape = (len(facts.pools), facts.count)
    counts = np.ones(shape, dtype=np.bool_)
    counts[:, 0] = [pool.draw_now_kw is not None for pool in facts.pools]
    g, t = np.nonzero(counts)
    level = np.array([still_level_kw(pool) for pool in facts.pools]).reshape(shape)
    now = np.array([now_level_kw(pool) for pool in facts.pools])
    rise = level - np.concatenate((now[:, None], level[:, :-1]), axis=1)
    up = model.columns("change_up", "gt", (g, t), cost=price)
    down = model.columns("change_down", "gt", (g, t), cost=price)
    change = model.rows("change", "gt", (g, t), low=rise[g, t], high=rise[g, t])
    change.add(change.all, up, up.all, 1.0)
    change.add(change.all, down, down.all, -1.0)
    seg, at = model.get("seg"), change.find(shape)
    here = at[seg.keys[0], seg.keys[1]]
    change.add(here[here >= 0], seg, seg.all[here >= 0], 1.0)
    inner = seg.keys[1] < facts.count - 1
    change.add(at[seg.keys[0][inner], seg.keys[1][inner] + 1], seg, seg.all[inner], -1.0)


def still_level_kw(pool: PoolFacts) -> Floats:
    """Throttle of a pool whose segments are all empty: draw above base for the others, minus base draw for batch."""
    return -pool.base_kw if pool.batch else np.asarray(pool.top_kw - pool.base_kw)


def now_level_kw(pool: PoolFacts) -> float:
    """Throttle of a pool now, from its measured draw."""
    draw = pool.draw_now_kw or 0.0
    return -draw if pool.batch else max(0.0, float(pool.top_kw[0]) - draw)
