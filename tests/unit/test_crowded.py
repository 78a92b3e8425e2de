"""A pool with more work than fits before the deadlines: found in two solves, not in one for each job that is late."""

from dataclasses import replace

import pytest

from optimizer.check import check_plan
from optimizer.domain import Work
from optimizer.highs import Highs
from optimizer.model.arrays import write_arrays
from optimizer.model.build import declare
from optimizer.session import Session
from optimizer.solve import solve_arrays
from tests.support.problems import hourly, inputs, job, pool, problem, site


def crowded(count=24, hours=8):
    """Half as much work again as the pool can do until the deadlines, hour by hour; any of the jobs may be the late
    one. Another pool has time."""
    jobs = [
        job(f"j{n:02}", (0, 2 + n % 5), 8.0 + 0.1 * n, 8, value_per_gpu_h=1.0, late_penalty=1.0 + 0.01 * n)
        for n in range(count)
    ]
    calm = [job(f"calm{n}", (0, 4), 4.0 + n, 4, pools=("other",)) for n in range(3)]
    pools = [inputs(pool("batch", Work.BATCH, 28), hours), inputs(pool("other", Work.BATCH, 100), hours)]
    return problem(hourly(hours), [site(hours, price=[60, 20, 90, 30, 50, 40, 70, 10])], pools, [*jobs, *calm])


@pytest.fixture
def solves(monkeypatch):
    """Sizes of the models that HiGHS was asked for."""
    asked, plain = [], Highs.run
    monkeypatch.setattr(Highs, "run", lambda self, limit: asked.append(self.arrays) or plain(self, limit))
    return asked


def test_late_jobs_of_a_crowded_pool_are_found_in_two_solves(solves):
    made, session = crowded(), Session()
    plan = session.plan(made)
    late = [of.id for of in made.jobs if plan.jobs[of.id].late_gpu_h > 0.1]
    assert 5 < len(late) < 24
    assert len(solves) == 2
    ids = sorted(of.id for of in made.jobs)
    with_late = {ids[n] for n in set(solves[-1].families["late"].keys[0].tolist())}
    assert not any(name.startswith("calm") for name in with_late)
    assert check_plan(made, plan) == ()
    whole = solve_arrays(write_arrays(declare(made)), 20.0)
    assert -plan.objective == pytest.approx(whole.objective, rel=1e-6)

    solves.clear()
    session.plan(replace(made, sites=(replace(made.sites[0], price_per_mwh=(61.0, 21, 91, 31, 51, 41, 71, 11)),)))
    assert len(solves) == 1
