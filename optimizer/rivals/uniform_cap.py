"""Cap all alike: under a limit or an event every GPU of a site gets the same cap, down to its floor."""

from __future__ import annotations

from optimizer.curves import draw_at_cap, throughput_at_cap
from optimizer.domain import Plan, Problem
from optimizer.poolfacts import PoolFacts
from optimizer.rivals.asked import Asked, Given, between
from optimizer.rivals.walk import Policy, follow


def uniform_cap(problem: Problem, _last: Plan | None = None) -> Plan:
    """Full power, jobs as soon as they come; what limits and events ask for is taken by one cap for all."""
    return follow(Policy("uniform_cap", all_alike), problem)


def all_alike(asked: Asked, level: float) -> Given:
    """One cap for every GPU (one share of the cap range, where models differ); jobs slow down with theirs, and where
    the lowest cap is not enough they give way by equal shares."""
    capped, paused = min(1.0, 2.0 * level), max(0.0, 2.0 * level - 1.0)
    draw = {}
    for pool in asked.service:
        busy_w = min(draw_at_cap(pool.curve, _cap_w(pool, capped)), pool.hulls[asked.t].top_w)
        above_w = busy_w - pool.hulls[asked.t].base_w
        drawn = float(pool.base_kw[asked.t]) + float(pool.working[asked.t]) * above_w / 1000.0
        draw[pool.index] = between(pool, asked.t, drawn, asked.wants.draw_kw[pool.index])
    rates = {}
    for number, rate in asked.wants.rates.items():
        pool = asked.facts.pools[asked.homes[number]]
        speed = throughput_at_cap(pool.curve, _cap_w(pool, capped))
        rates[number] = rate * speed / throughput_at_cap(pool.curve, pool.pool.max_cap_w) * (1.0 - paused)
    return Given(draw, rates)


def _cap_w(pool: PoolFacts, level: float) -> float:
    """Cap in W at a level: from the highest (0) to the lowest (1) that may be ordered."""
    return pool.pool.max_cap_w - level * (pool.pool.max_cap_w - pool.pool.min_cap_w)
