"""Each promise that a plan can break, broken by the least that counts, in every interval: the checker refuses it.

The checker is asked about mutants of plans from every rung, on problems of any shape, so that no field of a plan goes
unread by accident.
"""

from dataclasses import replace

import pytest

from optimizer.check import check_plan
from optimizer.domain import Work
from optimizer.fallback import greedy_plan, safe_plan
from optimizer.solve import solve_problem
from tests.support.problems import random_problem

RUNGS = {"optimum": solve_problem, "greedy": greedy_plan, "safe": safe_plan}


def one(row, t, change):
    """The row with one value changed."""
    return tuple(change(value) if i == t else value for i, value in enumerate(row))


def pools(made, plan, field, change, kinds=tuple(Work)):
    """Mutants with one number of one pool changed."""
    for item in made.pools:
        if item.pool.work not in kinds or item.pool.count == 0:
            continue
        orders = plan.pools[item.pool.id]
        for t in range(len(made.grid)):
            spoiled = replace(orders, **{field: one(getattr(orders, field), t, lambda v, i=item: change(v, i.pool))})
            yield f"{item.pool.id}[{t}]", replace(plan, pools={**plan.pools, item.pool.id: spoiled})


def sites(made, plan, field, change):
    """Mutants with one number of one site changed."""
    for where in made.sites:
        orders = plan.sites[where.id]
        for t in range(len(made.grid)):
            spoiled = replace(orders, **{field: one(getattr(orders, field), t, change)})
            yield f"{where.id}[{t}]", replace(plan, sites={**plan.sites, where.id: spoiled})


def jobs(made, plan, change):
    """Mutants of one job's plan; `change` gives None where the job has nothing of the sort."""
    for name, orders in plan.jobs.items():
        spoiled = change(orders, next(job for job in made.jobs if job.id == name))
        if spoiled is not None:
            yield name, replace(plan, jobs={**plan.jobs, name: spoiled})


def idle_job(orders, job):
    """Its work is dropped without a word."""
    if not any(rate > 1e-3 for rate in orders.work_gpus) or orders.undone_gpu_h > 0:
        return None
    return replace(orders, work_gpus=(0.0,) * len(orders.work_gpus), undone_gpu_h=-1.0)


def silent(orders, _job):
    """What is never done, or late, is not said."""
    if orders.undone_gpu_h > 1e-2:
        return replace(orders, undone_gpu_h=0.0, late_gpu_h=0.0)
    return replace(orders, late_gpu_h=0.0) if orders.late_gpu_h > 1e-2 else None


def doubled(orders, _job):
    """More is done than there is."""
    if not any(rate > 1e-3 for rate in orders.work_gpus):
        return None
    return replace(orders, work_gpus=tuple(2 * rate for rate in orders.work_gpus))


def elsewhere(orders, _job):
    """It runs where it may not."""
    if not any(rate > 1e-3 for rate in orders.work_gpus):
        return None
    return replace(orders, pool="no such pool")


MUTANTS = {
    "1 import that is less than its draws": lambda m, p: sites(m, p, "import_kw", lambda v: v - 0.01 * (1 + abs(v))),
    "1 import that is more than its draws": lambda m, p: sites(m, p, "import_kw", lambda v: v + 0.01 * (1 + abs(v))),
    "1 a draw that no cap gives": lambda m, p: pools(m, p, "draw_kw", lambda v, of: v + of.count * 2.0),
    "1 less draw than idle cards": lambda m, p: pools(m, p, "draw_kw", lambda v, of: -0.01 * of.count),
    "2 work that the draw does not give": lambda m, p: pools(m, p, "work_gpus", lambda v, of: v + 0.1 * (1 + of.count)),
    "3 work dropped": lambda m, p: jobs(m, p, idle_job),
    "3 shortfall unsaid": lambda m, p: jobs(m, p, silent),
    "3 work done twice": lambda m, p: jobs(m, p, doubled),
    "3 a pool of no right": lambda m, p: jobs(m, p, elsewhere),
    "4 a cap below the cards": lambda m, p: pools(m, p, "cap_w", lambda v, of: int(of.min_cap_w) - 1),
    "4 a cap above the cards": lambda m, p: pools(m, p, "cap_w", lambda v, of: int(of.max_cap_w) + 1),
    "4 more GPUs than there are": lambda m, p: pools(m, p, "active_gpus", lambda v, of: of.count + 1),
    "4 fewer GPUs than none": lambda m, p: pools(m, p, "active_gpus", lambda v, of: -1),
    "7 no number": lambda m, p: sites(m, p, "import_kw", lambda v: float("nan")),
    "7 an infinite declaration": lambda m, p: sites(m, p, "over_limit_kw", lambda v: float("inf")),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_plan_that_breaks_a_promise_by_the_least_that_counts_is_refused(name):
    seen = 0
    for seed in range(24):
        made = random_problem(seed)
        for rung, make in RUNGS.items():
            for where, mutant in MUTANTS[name](made, make(made)):
                seen += 1
                assert check_plan(made, mutant), f"seed {seed}, {rung}, {where}"
    assert seen >= 8


def test_limit_floor_and_event_shortfalls_are_refused_when_they_are_not_declared():
    """Promise 1: what is over a limit or an event's cap is said, kW by kW."""
    seen = 0
    for seed in range(60):
        made = random_problem(seed)
        plan = greedy_plan(made)
        for field in ("over_limit_kw", "over_event_kw"):
            for where in made.sites:
                row = getattr(plan.sites[where.id], field)
                for t, value in enumerate(row):
                    if value > 1e-2 * (1 + abs(plan.sites[where.id].import_kw[t])):
                        seen += 1
                        spoiled = replace(plan.sites[where.id], **{field: one(row, t, lambda v: v * 0.5)})
                        assert check_plan(made, replace(plan, sites={**plan.sites, where.id: spoiled})), (
                            seed,
                            where.id,
                        )
    assert seen >= 20
