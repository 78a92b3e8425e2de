"""Tanks of work on hours instead of minutes: a smaller program for the same plan, inside the same caps."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.support.reference import coarse_grid, reference_problem
from optimizer.assemble import Draft
from optimizer.assets import Battery, Parking
from optimizer.check import check_plan
from optimizer.domain import Rung, Work
from optimizer.facts import facts_of
from optimizer.faults import SolveError, SolveFault
from optimizer.session import Session
from optimizer.tankhours import LongTanks, in_hours
from optimizer.tanks import tanks_of
from optimizer.timegrid import uniform_grid
from tests.property.test_classes import repeated
from tests.support.problems import HOUR, START, event, inputs, job, pool, problem, random_problem, site

QUARTER = timedelta(minutes=15)


def planned(made, rows):
    late = SolveError(SolveFault.TIMEOUT, "no time")
    return Session(_compiled=True)._hastily(rows, Rung.EMERGENCY, late, 20.0)


@pytest.fixture
def always(monkeypatch):
    """However few the tanks are."""
    monkeypatch.setattr("optimizer.tankhours.LEAST_CELLS", 0)


def quarters(loads, limit=1e9, events=(), jobs=(), price=50.0, **more):
    """Two hours in quarters: a service pool of 100 GPUs with these loads (floor half of it) and ten GPUs of batch."""
    grid = uniform_grid(START, START + 2 * HOUR, QUARTER)
    pools = [inputs(pool("chat", count=100), 8, loads), inputs(pool("batch", Work.BATCH, 10), 8)]
    return problem(grid, [site(8, limit=limit, price=price, **more)], pools, jobs, events)


def some(**more):
    return [job(f"j{n}", (0, 4), 3.0, 2, value_per_gpu_h=1.0, **more) for n in range(4)]


def test_many_tanks_are_planned_in_hours_and_lose_next_to_nothing():
    made = reference_problem(3, coarse_grid(24.0), 600, 20)
    short = tanks_of(facts_of(made))
    long = in_hours(short)
    assert isinstance(long, LongTanks)
    assert long.facts.count <= 27 < short.facts.count == 76
    plan, fine = planned(made, long), planned(made, short)
    assert check_plan(made, plan) == check_plan(made, fine) == ()
    assert plan.objective >= fine.objective - 0.05 * abs(fine.objective)


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_every_plan_of_hours_keeps_every_promise(seed, other):
    bare = repeated(random_problem(seed, 14), other)
    sites = tuple(
        replace(of, batteries=(), generators=(), reserves=(), ramp_up_kw_per_min=np.inf, ramp_down_kw_per_min=np.inf)
        for of in bare.sites
    )
    some_jobs = tuple(of for of in bare.jobs if of.preemptible and len(of.pools) == 1)
    made = replace(bare, sites=sites, jobs=some_jobs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("optimizer.tankhours.LEAST_CELLS", 0)
        rows = in_hours(tanks_of(facts_of(made)))
    if len(rows.facts.table):
        assert isinstance(rows, LongTanks)
        assert check_plan(made, planned(made, rows)) == ()


@pytest.mark.parametrize("what", ["battery", "ramp", "parking", "answer", "rule"])
def test_what_joins_intervals_keeps_them_short(what, always):
    made = quarters((0.5,) * 8, jobs=some())
    assert isinstance(in_hours(tanks_of(facts_of(made))), LongTanks)
    of, (chat, batch) = made.sites[0], made.pools
    changed = {
        "battery": replace(made, sites=(replace(of, batteries=(Battery("b", 1.0, 0.0, 2.0, 1.0, 1.0, 0.9, 0.9),)),)),
        "ramp": replace(made, sites=(replace(of, ramp_up_kw_per_min=1.0),)),
        "parking": replace(
            made, pools=(chat, replace(batch, pool=replace(batch.pool, parking=Parking(10.0, 60.0, 0.0, 1))))
        ),
        "answer": replace(made, events=(event(voluntary=True),)),
        "rule": replace(made, jobs=(*some(), job("own", (0, 4), 3.0, 2, preemptible=False))),
    }[what]
    tanks = tanks_of(facts_of(changed))
    assert in_hours(tanks) is tanks


def test_an_hour_ends_where_a_limit_or_an_event_changes(always):
    """The present quarter alone; the limit falls at 00:30, an event binds from 01:15 to 01:30."""
    called = event("e", (1.25, 1.5), 40.0, 60.0)
    made = quarters((0.5,) * 8, [100.0] * 2 + [90.0] * 6, [called], some())
    assert in_hours(tanks_of(facts_of(made))).first.tolist() == [0, 1, 2, 4, 5, 6]


def test_a_quarter_with_more_users_than_its_hour_has_on_average_stays_under_the_limit(always):
    """100 GPUs at 400 W, ten idle ones of 1 kW: at loads of 20, 20 and 95 % the hour's mean of 45 % fits under 36 kW,
    the last quarter (10 + 95 * 0.3 + 1 = 39.5 kW) does not, and its users are throttled."""
    loads = (0.2, 0.2, 0.2, 0.95, 0.2, 0.2, 0.2, 0.2)
    made = quarters(loads, 36.0, jobs=some())
    plan = planned(made, in_hours(tanks_of(facts_of(made))))
    assert check_plan(made, plan) == ()
    kw = plan.sites["dc"].import_kw
    assert kw[3] == pytest.approx(36.0)
    assert max(kw) <= 36.0 + 1e-6
    assert plan.pools["chat"].draw_kw[1] == pytest.approx(10 + 20 * 0.3), "and nobody else is"


def test_the_work_of_an_hour_lies_where_its_jobs_may_work(always):
    """Both jobs may work in the second half of the first hour alone: the hour's work is done there."""
    jobs = [job(f"j{n}", (0.5, 1), 0.5, 1, value_per_gpu_h=1.0) for n in range(2)]
    made = quarters((0.5,) * 8, jobs=jobs)
    tanks = in_hours(tanks_of(facts_of(made)))
    assert tanks.first.tolist() == [0, 1, 4]
    draft = tanks._spread(Draft(np.zeros((2, 3)), np.array([[0.0, 4.0 / 3.0, 0.0]]), (1,)))
    assert draft.rates[0] == pytest.approx([0, 0, 2, 2, 0, 0, 0, 0])
