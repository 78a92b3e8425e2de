"""A plan's solver time stays within its limit, however many solves it is made of: by a clock that each solve moves."""

from dataclasses import replace
from math import inf

import pytest

import optimizer.session
from optimizer.faults import SolveError, SolveFault
from optimizer.purse import LAST_S, Purse
from optimizer.session import Session
from tests.support.problems import event, hourly, inputs, job, pool, problem, site


class Slow:
    """A solver of which each run takes so many seconds, or all that it may."""

    def __init__(self, monkeypatch, seconds):
        self.spent_s, self.granted = 0.0, []
        honest = optimizer.session.Highs.run

        def run(solver, time_limit_s):
            self.granted.append(time_limit_s)
            self.spent_s += min(seconds, time_limit_s)
            if time_limit_s < seconds:
                raise SolveError(SolveFault.TIMEOUT, "late")
            return replace(honest(solver, 60.0), seconds=seconds)

        monkeypatch.setattr(optimizer.session.Highs, "run", run)


def offered(count):
    """So many voluntary events, each to be answered."""
    terms = {"voluntary": True, "credit_per_kwh": 5.0, "penalty_per_kwh": 0.0, "rebound_s": 0.0}
    events = [event(f"v{n}", (1 + n % 6, 2 + n % 6), 250.0, 400.0, **terms) for n in range(count)]
    jobs = [job(f"j{n}", (0, 8), 20.0, 10) for n in range(3)]
    pools = [inputs(pool(floor=0.5), 8), inputs(pool("batch", count=100), 8)]
    return problem(hourly(8), [site(8, limit=900.0)], pools, jobs, events)


@pytest.mark.parametrize(("events", "seconds"), [(2, 0.05), (20, 0.05), (20, 0.3), (40, 0.2)])
def test_the_answers_to_many_events_stay_within_the_time_of_the_plan(monkeypatch, events, seconds):
    slow, made = Slow(monkeypatch, seconds), offered(events)
    plan = Session(improve_s=0.0).plan(made, 4.0)
    assert slow.spent_s <= 4.0 + LAST_S + 1e-6
    assert max(slow.granted) <= 4.0
    assert set(plan.events) == {one.id for one in made.events}
    assert any(answer.take_part for answer in plan.events.values())
    known = [answer.costs is not None for answer in plan.events.values()]
    assert all(known) is (seconds == 0.05)


def test_a_purse_counts_what_failed_and_ends():
    purse, asked = Purse(1.0), []

    def late(limit_s):
        asked.append(limit_s)
        raise SolveError(SolveFault.TIMEOUT, "late")

    def impossible(limit_s):
        asked.append(limit_s)
        raise SolveError(SolveFault.INFEASIBLE, "no", 0.25)

    for solve, limit_s in ((impossible, inf), (late, 0.75), (late, 9.0), (late, 9.0)):
        with pytest.raises(SolveError):
            purse.paid(limit_s, solve)
    assert asked == [1.0 + LAST_S, 0.75, LAST_S]
    assert purse.left_s == 0.0
