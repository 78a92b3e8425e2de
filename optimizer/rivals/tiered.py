"""The two heuristics of the first field trials: tiers say how much each work may lose, and nobody optimises.

Fair: everybody gives the same share of what its tier allows. Greedy: the work of the lowest tier and value is paused
first, then the next. Tiers are the service floors; jobs that may wait are the lowest. After Emerald Conductor's
policies "DVFS + Job Pausing, Fair" and "Job Pausing, Greedy" (Colangelo et al., arXiv 2507.00909).
"""

from __future__ import annotations

from optimizer.curves import draw_at_cap
from optimizer.domain import Plan, Problem
from optimizer.rivals.asked import Asked, Given, between
from optimizer.rivals.walk import Policy, follow


def fair_tiered(problem: Problem, _last: Plan | None = None) -> Plan:
    """Full power, jobs as soon as they come; under a cap all give the same share of what their tier allows."""
    return follow(Policy("fair_tiered", _fair), problem)


def greedy_tiered(problem: Problem, _last: Plan | None = None) -> Plan:
    """Full power, jobs as soon as they come; under a cap the least valuable give all that they may, one by one."""
    return follow(Policy("greedy_tiered", _least_valuable_first), problem)


def _fair(asked: Asked, level: float) -> Given:
    """Caps between the highest and the floor's, the same share of the way for all; jobs slow down to a stop."""
    draw = {}
    for pool in asked.service:
        cap_w = pool.pool.max_cap_w - level * (pool.pool.max_cap_w - float(pool.floor_caps_w[asked.t]))
        above_w = min(draw_at_cap(pool.curve, cap_w), pool.hulls[asked.t].top_w) - pool.hulls[asked.t].base_w
        drawn = float(pool.base_kw[asked.t]) + float(pool.working[asked.t]) * above_w / 1000.0
        draw[pool.index] = between(pool, asked.t, drawn, asked.wants.draw_kw[pool.index])
    return Given(draw, {number: rate * (1.0 - level) for number, rate in asked.wants.rates.items()})


def _least_valuable_first(asked: Asked, level: float) -> Given:
    """Job by job, then pool by pool from the lowest tier and value up; the last one in part."""
    jobs, pools = asked.facts.jobs, asked.facts.pools
    turns: list[tuple[tuple[float, ...], bool, int]] = [
        ((0.0, float(jobs[number].job.priority), jobs[number].job.value_per_gpu_h), True, number)
        for number in asked.wants.rates
    ]
    turns += [((1.0, pools[g].pool.floor, pools[g].pool.value_per_gpu_h), False, g) for g in asked.wants.draw_kw]
    draw, rates = dict(asked.wants.draw_kw), dict(asked.wants.rates)
    for place, (_, is_job, which) in enumerate(sorted(turns)):
        share = min(1.0, max(0.0, level * len(turns) - place))
        if is_job:
            rates[which] *= 1.0 - share
        else:
            least = min(float(pools[which].least_kw[asked.t]), draw[which])
            draw[which] -= share * (draw[which] - least)
    return Given(draw, rates)
