"""Whatever the problem: what the duals say is what the plan's own money says, from either side."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from optimizer.solve import solve_problem
from tests.support.problems import random_problem


def without_whole_runs(seed):
    """Where the optimum is the whole truth at every step: no whole numbers, one pool a job, nothing to approximate."""
    made = random_problem(seed, exact=True)
    return replace(made, jobs=tuple(replace(job, preemptible=True, started_at=None) for job in made.jobs))


def with_load(made, s, t, kw):
    other = tuple(load + (kw if i == t else 0.0) for i, load in enumerate(made.sites[s].other_it_kw))
    sites = tuple(replace(site, other_it_kw=other) if i == s else site for i, site in enumerate(made.sites))
    return replace(made, sites=sites)


@given(st.integers(0, 10**6), st.integers(0, 100), st.integers(0, 100))
def test_one_more_kw_costs_at_least_its_marginal_value(seed, which, when):
    """The objective is convex in the load, so the dual lies between what one less saves and what one more costs."""
    made = without_whole_runs(seed)
    s, t = which % len(made.sites), when % len(made.grid)
    plan = solve_problem(made)
    site = plan.sites[made.sites[s].id]
    step = 1e-3 * (1.0 + abs(site.import_kw[t]))
    value = site.marginal_per_mwh[t] / 1000.0 * made.grid.hours[t] * made.sites[s].pue[t]
    more = (plan.objective - solve_problem(with_load(made, s, t, step)).objective) / step
    assert value <= more + 1e-5 * (1.0 + abs(more)) + 1e-9 * abs(plan.objective) / step
    if made.sites[s].other_it_kw[t] > step:
        less = (solve_problem(with_load(made, s, t, -step)).objective - plan.objective) / step
        assert value >= less - 1e-5 * (1.0 + abs(less)) - 1e-9 * abs(plan.objective) / step


@given(st.integers(0, 10**6))
def test_a_price_has_a_way_and_a_missing_one_has_a_reason(seed):
    made = random_problem(seed)
    plan = solve_problem(made)
    assert set(plan.quotes) == {item.pool.id for item in made.pools}
    for quote in plan.quotes.values():
        for price, reason in zip(quote.more_per_gpu_h, quote.reasons, strict=True):
            assert price is not None or reason is not None
            assert price is None or abs(price) < 1e7
    for orders in plan.jobs.values():
        assert orders.start is None or orders.start.extra_per_gpu_h is None or orders.start.extra_per_gpu_h >= 0.0
