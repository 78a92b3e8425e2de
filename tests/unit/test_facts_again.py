"""What is taken over from the last problem's facts is what would have been found anew."""

import gc
import weakref
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.facts import facts_of
from optimizer.jobfacts import JobTable
from optimizer.model.arrays import write_arrays
from optimizer.model.build import declare
from optimizer.steps import steps_of
from optimizer.weights import job_weights, weights_of
from tests.support.problems import random_problem, with_parking, with_steps

seeds = st.integers(0, 10**6)


def moved(made, part):
    """The problem with other prices and loads, and one part that the last one's facts depend on changed."""
    sites = tuple(
        replace(of, price_per_mwh=tuple(1.1 * price + 1.0 for price in of.price_per_mwh)) for of in made.sites
    )
    pools = tuple(replace(item, load=tuple(0.9 * load for load in item.load)) for item in made.pools)
    made = replace(made, sites=sites, pools=pools)
    first, *others = made.pools
    changes = {
        "numbers": {},
        "jobs": {"jobs": tuple(replace(of, done_gpu_h=0.5 * of.work_gpu_h) for of in made.jobs)},
        "count": {
            "pools": tuple(replace(item, pool=replace(item.pool, count=item.pool.count + 3)) for item in made.pools)
        },
        "draw": {"pools": tuple(replace(item, draw_now_kw=12.0) for item in made.pools)},
        "order": {"pools": (*others, first)},
        "floors": {
            "pools": tuple(
                replace(item, floors=(min(1.0, item.pool.floor + 0.1),) * len(made.grid)) for item in made.pools
            )
        },
        "events": {"events": ()},
    }
    return replace(made, **changes[part])


PARTS = ("numbers", "jobs", "count", "draw", "order", "floors", "events")


@pytest.mark.parametrize("part", PARTS)
@given(seeds, seeds)
def test_facts_after_others_are_facts(part, seed, other):
    made = with_steps(with_parking(random_problem(seed), other), other) if other % 2 else random_problem(seed)
    before, then = facts_of(made), moved(made, part)
    written = write_arrays(declare(made, before))  # everything that is kept for later is there
    again, anew = facts_of(then, before), facts_of(then)
    for item in fields(JobTable):
        assert np.array_equal(getattr(again.table, item.name), getattr(anew.table, item.name)), item.name
    first, second = write_arrays(declare(then, again)), write_arrays(declare(then, anew))
    for name in ("cost", "low", "high", "row_low", "row_high", "starts", "index", "value"):
        assert np.array_equal(getattr(first, name), getattr(second, name)), name
    lent = write_arrays(declare(then, again), written)
    for name in ("starts", "index", "value"):
        assert np.array_equal(getattr(lent, name), getattr(second, name)), name
    if part == "numbers":
        assert again.jobs is before.jobs


def test_what_is_reckoned_from_facts_is_kept_with_them_and_goes_with_them():
    made = with_steps(random_problem(7), 7)
    facts = facts_of(made)
    assert job_weights(facts) is job_weights(facts)
    assert weights_of(facts, 0) is weights_of(facts, 0)
    assert steps_of(facts) is not steps_of(replace(facts))
    seen = weakref.ref(facts)
    write_arrays(declare(made, facts))
    del facts
    gc.collect()
    assert seen() is None
