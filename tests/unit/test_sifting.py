"""The optimum by a part of the columns is the optimum of all of them, whatever has changed since the last one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import optimizer.sifting
from benchmarks.support.reference import coarse_grid, reference_problem
from benchmarks.support.rolling import refreshed
from optimizer.basis import Remembered
from optimizer.classes import classes_of
from optimizer.domain import Problem
from optimizer.facts import facts_of
from optimizer.faults import SolveError, SolveFault
from optimizer.highs import Answer, Highs, solve_arrays
from optimizer.model.arrays import Arrays, write_arrays
from optimizer.model.build import declare
from optimizer.session import Session
from optimizer.sifting import Sifted


@pytest.fixture(autouse=True)
def _small_programs_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer.sifting, "LEAST_COLUMNS", 0)
    monkeypatch.setattr(optimizer.sifting, "LEAST_PER_ROW", 0)
    monkeypatch.setattr(optimizer.sifting, "MOST_ADDED", 20)  # several rounds, and the choice among too many


def day(seed: int) -> Problem:
    return reference_problem(seed, coarse_grid(8.0), 60, 4)


def dearer(problem: Problem) -> Problem:
    """Prices upside down: what waited runs, and what ran waits."""
    site = problem.sites[0]
    prices = tuple(90.0 - price for price in site.price_per_mwh)
    return replace(problem, sites=(replace(site, price_per_mwh=prices),))


def tighter(problem: Problem) -> Problem:
    """The same costs under a lower limit."""
    site = problem.sites[0]
    return replace(problem, sites=(replace(site, limit_kw=tuple(0.8 * kw for kw in site.limit_kw)),))


def remembered(problem: Problem, arrays: Arrays) -> Remembered:
    """The program, solved."""
    solver = Highs(arrays)
    return Remembered(arrays, classes_of(facts_of(problem)), *solver.basis(solver.run(10.0).point))


@pytest.mark.parametrize("change", [lambda p: refreshed(p, 7), dearer, tighter, lambda p: p])
def test_a_part_of_the_columns_finds_the_optimum_of_all(change) -> None:
    for seed in range(3):
        first = day(seed)
        before, after = write_arrays(declare(first)), write_arrays(declare(change(first)))
        sifted = Sifted(remembered(first, before), facts_of(first).hours)
        assert sifted.share < 0.9
        found, cold = sifted.run(after, 10.0), solve_arrays(after, 10.0)
        assert found.objective == pytest.approx(cold.objective, rel=1e-9)
        assert found.objective == pytest.approx(after.offset + float(after.cost @ found.point), rel=1e-9)
        at_low, at_high = found.point <= after.low + 1e-7, found.point >= after.high - 1e-7
        assert found.reduced[at_low & ~at_high].min() > -1e-6  # no column of all would pay
        assert found.reduced[at_high & ~at_low].max() < 1e-6
        columns, rows = sifted.basis(found)
        assert (columns == 1).sum() + (rows == 1).sum() == len(after.row_low)


def test_rates_that_are_held_up_are_in_the_part_whatever_they_cost() -> None:
    """A step that was decided while risk was weighed binds jobs that the optimum would let wait."""
    first = day(1)
    before = write_arrays(declare(first))
    sifted = Sifted(remembered(first, before), facts_of(first).hours)
    left_out = np.flatnonzero(sifted._out & (before.high > 0))[:3]
    low, high = before.low.copy(), before.high.copy()
    low[left_out] = high[left_out] = 0.5 * before.high[left_out]
    for after in (replace(before, low=low, high=high), before):
        found, cold = sifted.run(after, 10.0), solve_arrays(after, 10.0)
        assert found.objective == pytest.approx(cold.objective, rel=1e-9)
        assert (found.point >= after.low - 1e-7).all()
        assert (found.point <= after.high + 1e-7).all()


def test_a_session_goes_from_interval_to_interval_by_parts_and_says_what_a_cold_one_says() -> None:
    session, problem = Session(), day(4)
    session.plan(problem)
    for change in (lambda p: refreshed(p, 1), dearer, tighter, lambda p: refreshed(p, 2)):
        problem = change(problem)
        plan = session.plan(problem)
        assert session._sifted is not None
        assert plan.objective == pytest.approx(Session().plan(problem).objective, rel=1e-7)


def test_what_a_part_cannot_solve_is_solved_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    session, problem = Session(), day(5)
    session.plan(problem)
    other = refreshed(problem, 1)

    def refuse(*_: object) -> Answer:
        raise SolveError(SolveFault.FAILED, "HiGHS says: Unknown")

    monkeypatch.setattr(Sifted, "run", refuse)
    plan = session.plan(other)
    assert session._sifted is None
    assert plan.objective == pytest.approx(Session().plan(other).objective, rel=1e-7)


def test_a_part_that_runs_out_of_time_says_so() -> None:
    before, after = write_arrays(declare(day(6))), write_arrays(declare(dearer(day(6))))
    with pytest.raises(SolveError) as caught:
        Sifted(remembered(day(6), before), facts_of(day(6)).hours).run(after, 1e-9)
    assert caught.value.kind is SolveFault.TIMEOUT
