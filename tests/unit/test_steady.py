"""The optimum from the last basis by costs that favour what is as it was: the optimum at the true costs, in far fewer
steps."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

import optimizer.steady
from benchmarks.support.reference import coarse_grid, reference_problem
from benchmarks.support.rolling import refreshed, stepped
from optimizer.domain import Problem, Rung
from optimizer.facts import facts_of
from optimizer.faults import SolveError, SolveFault
from optimizer.highs import Highs, solve_arrays
from optimizer.model.arrays import Arrays, write_arrays
from optimizer.model.build import declare
from optimizer.session import Session
from optimizer.sifting import Sifted
from optimizer.steady import least, tried


@pytest.fixture(autouse=True)
def _small_programs_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer.steady, "LEAST_COLUMNS", 0)


def day(seed: int, step: int = 0) -> Problem:
    return stepped(seed, step, 60, 4, 8.0)


def dearer(problem: Problem) -> Problem:
    """Prices upside down: what waited runs, and what ran waits."""
    site = problem.sites[0]
    prices = tuple(90.0 - price for price in site.price_per_mwh)
    return replace(problem, sites=(replace(site, price_per_mwh=prices),))


def tighter(problem: Problem) -> Problem:
    """The same costs under a lower limit."""
    site = problem.sites[0]
    return replace(problem, sites=(replace(site, limit_kw=tuple(0.8 * kw for kw in site.limit_kw)),))


def solved(problem: Problem) -> tuple[Arrays, Highs]:
    solver = Highs(write_arrays(declare(problem)))
    solver.run(10.0)
    return solver.arrays, solver


@pytest.mark.parametrize("way", ["proven", "finished"])
@pytest.mark.parametrize("change", [lambda p: refreshed(p, 7), dearer, tighter, lambda p: p])
def test_what_is_found_is_the_optimum_at_the_true_costs(change, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer.steady, "PROVEN", {"proven": 1e-6, "finished": -1.0}[way])
    for seed in range(3):
        first = day(seed)
        _, solver = solved(first)
        codes = solver.basis(solver.answer(0.0).point)
        after = write_arrays(declare(change(first)))
        for held in (None, solver):
            found, cold = tried(after, facts_of(first).hours, codes, held, 10.0).answer, solve_arrays(after, 10.0)
            assert found is not None
            assert found.optimal
            assert found.objective == pytest.approx(cold.objective, rel=1e-7 if way == "proven" else 1e-9)
            assert found.objective == pytest.approx(after.offset + float(after.cost @ found.point), rel=1e-9)
            assert least(after, found.duals) == pytest.approx(cold.objective, rel=1e-6)


def test_a_session_follows_a_window_that_moves_and_says_what_a_cold_one_says(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("optimizer.session.tried", lambda *given: asked.append(tried(*given)) or asked[-1])
    session = Session()
    session.plan(day(3))
    for problem in (day(3, 1), refreshed(day(3, 1), 1), day(3, 2), tighter(day(3, 5)), dearer(day(3, 13))):
        plan = session.plan(problem)
        assert asked[-1].answer is not None
        assert plan.objective == pytest.approx(Session().plan(problem).objective, rel=1e-7)
    assert len(asked) >= 5


def test_the_same_again_takes_no_step_and_the_next_one_few() -> None:
    """What the disturbance is for: of many plans at one price the last one stays."""
    problem = reference_problem(1, coarse_grid(24.0), 200, 8)
    arrays, solver = solved(problem)
    codes, hours = solver.basis(solver.answer(0.0).point), facts_of(problem).hours
    again = tried(arrays, hours, codes, None, 10.0).answer
    assert again is not None
    assert again.iterations == 0
    plain, other = Highs(arrays, integers=False), refreshed(problem, 3)
    plain.start_from(*codes)
    plain.write(write_arrays(declare(other)))
    leaning = tried(plain.arrays, hours, codes, None, 10.0).answer
    assert leaning is not None
    assert leaning.iterations < 0.5 * plain.run(10.0).iterations


def test_the_next_plan_is_the_work_of_one_thread() -> None:
    """OpenBLAS makes a product of two vectors of more than 10,000 numbers with several, which then wait in a loop for
    more: 40,000 took 8 ms of CPU time, and half of the next plan's was theirs."""
    session, problem = Session(), reference_problem(1, coarse_grid(24.0), 300, 8)
    session.plan(problem)
    session.plan(refreshed(problem, 1))
    all_s, mine_s = time.process_time(), time.thread_time()
    for seed in (2, 3, 4):
        session.plan(refreshed(problem, seed))
    all_s, mine_s = time.process_time() - all_s, time.thread_time() - mine_s
    assert all_s < 1.05 * mine_s


def test_too_many_steps_are_given_up_and_the_seconds_count(monkeypatch: pytest.MonkeyPatch) -> None:
    session, problem = Session(), dearer(day(5))
    session.plan(day(5))
    monkeypatch.setattr(optimizer.steady, "STEPS_PER_ROW", 0)
    given = []
    monkeypatch.setattr("optimizer.session.tried", lambda *a: replace(tried(*a), seconds=3.0))
    plain = Highs.run
    monkeypatch.setattr(Highs, "run", lambda self, limit: given.append(limit) or plain(self, limit))
    plan = session.plan(problem, 10.0)
    assert given[0] < 7.0
    assert plan.solve_s > 3.0
    assert plan.objective == pytest.approx(Session().plan(problem).objective, rel=1e-7)


def test_seconds_of_a_part_that_found_nothing_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sifting that fails has used up time of the plan."""
    monkeypatch.setattr(optimizer.steady, "LEAST_COLUMNS", 10**9)
    monkeypatch.setattr(optimizer.sifting, "LEAST_COLUMNS", 0)
    monkeypatch.setattr(optimizer.sifting, "LEAST_PER_ROW", 0)
    session, problem = Session(), day(5)
    session.plan(problem)

    def refuse(self: Sifted, *_: object) -> None:
        self._before_s = self._solver.clock_s() - 4.0
        raise SolveError(SolveFault.FAILED, "HiGHS says: Unknown")

    monkeypatch.setattr(Sifted, "run", refuse)
    given, plain = [], Highs.run
    monkeypatch.setattr(Highs, "run", lambda self, limit: given.append(limit) or plain(self, limit))
    plan = session.plan(refreshed(problem, 1), 10.0)
    assert given[0] < 6.0
    assert plan.solve_s > 4.0


def test_an_attempt_that_takes_too_long_leaves_time_for_the_other_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    session, problem, found = Session(), dearer(day(5)), []
    session.plan(day(5))
    plain = Highs.attempt

    def from_nothing(solver: Highs, most: int, limit_s: float) -> tuple[float, int | None]:
        solver.forget()
        found.append(plain(solver, most, limit_s))
        return found[-1]

    monkeypatch.setattr(optimizer.steady, "MOST_TIME", 0.0)
    monkeypatch.setattr(Highs, "attempt", from_nothing)
    plan = session.plan(problem, 10.0)
    assert found[0][1] is None
    assert plan.rung is Rung.OPTIMUM
    assert plan.objective == pytest.approx(Session().plan(problem).objective, rel=1e-7)


def test_time_that_runs_out_is_said() -> None:
    session = Session()
    session.plan(day(6))
    with pytest.raises(SolveError) as caught:
        session._solve(facts_of(day(6)), write_arrays(declare(dearer(day(6)))), -1.0)
    assert caught.value.kind is SolveFault.TIMEOUT


def test_duals_prove_what_every_point_costs_at_least() -> None:
    """2 x + y with x + y >= 3, x in [0, 2], y in [0, 2]: x = 1, y = 2 cost 4, at a dual of 2; others prove less."""
    arrays, _ = solved(day(2))
    one = replace(
        arrays, cost=np.array([2.0, 1.0]), offset=0.0, low=np.zeros(2), high=np.full(2, 2.0), row_low=np.array([3.0]),
        row_high=np.array([np.inf]), starts=np.array([0, 1, 2], dtype=np.int32), index=np.zeros(2, dtype=np.int32),
        value=np.ones(2), integer=np.zeros(2, dtype=np.int32), families={}, row_families={},
    )  # fmt: skip
    assert least(one, np.array([2.0])) == pytest.approx(4.0)
    assert least(one, np.array([1.0])) == pytest.approx(3.0)
    assert least(one, np.array([3.0])) == pytest.approx(3.0)
    assert least(one, np.array([-1.0])) == -np.inf
    endless = replace(one, high=np.array([2.0, np.inf]))
    assert least(endless, np.array([1.0])) == pytest.approx(3.0)
    assert least(endless, np.array([2.0])) == -np.inf
