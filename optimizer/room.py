"""Fits wanted draws under the caps of a site without a solver: merit order down to the floors, and what is then left.

Why: the greedy, the shifted, the held and the safe plan all start from wishes and must end inside every limit. Caps,
floors and merit order are the same for all of them.
"""

from __future__ import annotations

import numpy as np

from optimizer.facts import Facts, Floats
from optimizer.poolfacts import PoolFacts

INF = float("inf")


def fixed_draw(facts: Facts) -> Floats:
    """Draw [pool, interval] that batch pools can't avoid: idle cards and jobs that may not be interrupted."""
    draw = np.array([pool.base_kw for pool in facts.pools]).reshape(len(facts.pools), facts.count)
    for pool in facts.pools:
        if pool.batch and facts.runs_fit(pool.index):
            for t in np.flatnonzero(facts.fixed_work[pool.index] > 1e-12).tolist():
                draw[pool.index, t] = pool.draw_for(t, float(facts.fixed_work[pool.index, t]))
    return draw


def wanted_draw(facts: Facts) -> Floats:
    """Draw [pool, interval] at which the next watt of an interactive or training pool would cost more than it is worth,
    at or above its floor; batch pools only what they can't avoid."""
    draw = fixed_draw(facts)
    for pool in facts.pools:
        if pool.batch:
            continue
        cost = facts.cost_per_kwh[pool.site] * facts.pue[pool.site]
        widths = np.zeros(facts.count)
        for segment in pool.hulls[0].segments:
            pays = pool.pool.value_per_gpu_h * segment.slope_per_w * 1000.0 >= cost
            widths += np.where(pays, segment.width_w, 0.0)
        draw[pool.index] = np.maximum(pool.base_kw + pool.working * widths / 1000.0, pool.least_kw)
    return draw


def fit(facts: Facts, draw_kw: Floats) -> Floats:
    """Draws with interactive and training pools shed in merit order until each site is under its caps.

    Down to the floors for events; below them, with every engine on, only where they may give: under an emergency for
    its cap, for training under the hard limit alone.
    """
    draw = draw_kw.copy()
    caps = facts.usable_cap_kw
    for s in range(len(facts.problem.sites)):
        pools = [pool for pool in facts.pools if pool.site == s and not pool.batch]
        mine = [pool.index for pool in facts.pools if pool.site == s]
        spent = draw[mine].sum(axis=0)
        budget = caps[s] / facts.pue[s] - facts.other_kw[s]
        hard = (facts.limit_kw[s] + facts.supply.must_take_kw[s]) / facts.pue[s] - facts.other_kw[s]
        dispatched = (facts.supply.most_output_kw[s] - facts.supply.must_take_kw[s]) / facts.pue[s]
        for t in np.flatnonzero(spent > budget + 1e-9).tolist():
            over = _shed(pools, draw, t, float(spent[t] - budget[t]), below_floor=False)
            past_hard = over - max(0.0, float(hard[t] - budget[t]))
            deeper = (over if _emergency(facts, s, t) else past_hard) - float(dispatched[t])
            if deeper > 1e-9:
                _shed(pools, draw, t, deeper, below_floor=True)
    return draw


def _emergency(facts: Facts, s: int, t: int) -> bool:
    """Whether an emergency event binds the site in the interval (its rebound limit afterwards is no emergency)."""
    start = facts.problem.grid.starts[t]
    return any(
        event.emergency and facts.event_kw[number, t] < INF and (start - event.end).total_seconds() < event.ramp_out_s
        for number, event in facts.events_of(s)
    )


def _shed(pools: list[PoolFacts], draw: Floats, t: int, over_kw: float, below_floor: bool) -> float:
    """Take `over_kw` from the pools in merit order; return what is left over."""
    steps = []
    for pool in pools:
        floor_kw = pool.base_kw[t] if below_floor and pool.may_break_floor[t] else pool.least_kw[t]
        at = float(pool.base_kw[t])
        for segment in pool.hulls[t].segments:
            end = at + float(pool.working[t]) * segment.width_w / 1000.0
            room = min(end, float(draw[pool.index, t])) - max(at, float(floor_kw))
            if room > 1e-12:
                steps.append((pool.pool.value_per_gpu_h * segment.slope_per_w, pool.index, room))
            at = end
    for _, index, room in sorted(steps):
        taken = min(room, over_kw)
        draw[index, t] -= taken
        over_kw -= taken
        if over_kw <= 1e-12:
            return 0.0
    return over_kw


def headroom_kw(facts: Facts, draw_kw: Floats) -> Floats:
    """IT power [site, interval] that is still free under every cap (inf: no cap)."""
    spent = facts.other_kw.copy()
    for pool in facts.pools:
        spent[pool.site] += draw_kw[pool.index]
    room: Floats = np.clip(facts.usable_cap_kw / facts.pue - spent, 0.0, None)
    return room


def kw_per_work(facts: Facts) -> Floats:
    """Most power above idle [pool, interval] that a GPU equivalent of batch work can take: at full speed."""
    rows = np.ones((len(facts.pools), facts.count))
    for pool in facts.pools:
        if pool.batch:
            ratios = {hull: (hull.top_w - hull.base_w) / hull.top_throughput / 1000.0 for hull in set(pool.hulls)}
            rows[pool.index] = [ratios[hull] for hull in pool.hulls]
    return rows
