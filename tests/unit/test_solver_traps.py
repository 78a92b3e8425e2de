"""What HiGHS does that nobody expects, each once: the wrapper and the session must not fall for it."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace

import highspy
import numpy as np
import pytest

from benchmarks.support.reference import coarse_grid, reference_problem
from optimizer.domain import Rung
from optimizer.faults import SolveError, SolveFault
from optimizer.highs import DUAL, PRIMAL, Answer, Highs, solve_arrays
from optimizer.model.arrays import Arrays, write_arrays
from optimizer.model.build import declare
from optimizer.reasons import Reason
from optimizer.session import Session
from tests.support.problems import random_problem


def arrays(jobs: int = 40, hours: float = 6.0) -> Arrays:
    """A linear program that takes milliseconds."""
    return write_arrays(declare(reference_problem(1, coarse_grid(hours), jobs, 4)))


def test_the_time_limit_of_one_object_is_a_new_one_in_each_of_a_thousand_runs() -> None:
    """HiGHS counts its limit over the object's life: with a fixed one, a daemon dies after some dozen steps."""
    solver = Highs(arrays(10, 2.0))
    objective = solver.run(10.0).objective
    for _ in range(1000):
        solver.forget()
        assert solver.run(10.0).objective == pytest.approx(objective, rel=1e-9)
    spent = float(solver._solver.getRunTime())
    solver.forget()
    assert solver.run(spent / 2).objective == pytest.approx(objective, rel=1e-9)


def test_a_linear_program_out_of_time_has_no_point() -> None:
    solver = Highs(arrays(300, 24.0))
    with pytest.raises(SolveError) as caught:
        solver.run(1e-9)
    assert caught.value.kind is SolveFault.TIMEOUT


def test_what_other_threads_say_while_it_solves_is_not_swallowed(capfd: pytest.CaptureFixture[str]) -> None:
    """Pyomo's interfaces to HiGHS take both standard streams of the process for themselves while they solve."""
    ended, said = threading.Event(), []

    def speak() -> None:
        while not ended.is_set():
            os.write(2, b"alive\n")
            said.append(1)
            time.sleep(0.002)

    speaker = threading.Thread(target=speak)
    speaker.start()
    try:
        Session().plan(reference_problem(1, coarse_grid(6.0), 40, 4), 60.0)
    finally:
        ended.set()
        speaker.join()
    heard = capfd.readouterr()
    assert said
    assert heard.err.count("alive\n") == len(said)
    assert "HiGHS" not in heard.out


def test_threads_are_one_and_not_set_is_loud(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two objects of a process that differ in their threads: the second says "Not Set", and an objective of 0."""
    solver = Highs(arrays())
    assert solver._solver.getOptionValue("threads")[1] == 1
    monkeypatch.setattr(solver, "_solver", _NotSet(solver._solver))
    with pytest.raises(SolveError, match="Not Set"):
        solver.run(10.0)


class _NotSet:
    """HiGHS that comes back from a run without having solved."""

    def __init__(self, inner: highspy.Highs) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def run(self) -> highspy.HighsStatus:
        """Do nothing and say so, as HiGHS does."""
        return highspy.HighsStatus.kError


@pytest.mark.parametrize(("name", "value"), [("mip_relgap", 0.1), ("solver", "hipo"), ("threads", -7)])
def test_an_option_that_is_refused_is_loud(name: str, value: object) -> None:
    with pytest.raises(SolveError, match=name):
        Highs(arrays(10, 2.0)).option(name, value)


def test_a_wrong_warm_answer_is_caught_by_a_solve_from_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """HiGHS 3194 and 3294: a hot start that ends at a wrong vertex and calls it optimal."""
    problem = reference_problem(1, coarse_grid(6.0), 40, 4)
    session = Session(verify_every=2)
    session.plan(problem, 60.0)
    honest = Highs.run

    def wrong(self: Highs, time_limit_s: float) -> Answer:
        answer = honest(self, time_limit_s)
        return replace(answer, objective=answer.objective * 1.01) if self is session._solver else answer

    monkeypatch.setattr(Highs, "run", wrong)
    plan = session.plan(problem, 60.0)
    assert plan.rung is Rung.OPTIMUM
    assert any(note.code is Reason.SOLVER_CRASH and "warm start" in note.text for note in plan.notes)
    cold = solve_arrays(write_arrays(declare(problem)), 60.0).objective
    assert -plan.objective == pytest.approx(cold, rel=1e-6, abs=1e-6)
    assert np.isfinite(plan.objective)


def test_between_plans_a_wrong_warm_answer_is_found_told_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, honest = reference_problem(1, coarse_grid(6.0), 40, 4), Highs.run
    session = Session(verify_every=2, apart=True)
    session.plan(problem, 60.0)

    def wrong(self: Highs, time_limit_s: float) -> Answer:
        answer = honest(self, time_limit_s)
        return replace(answer, objective=answer.objective * 1.01) if self is session._solver else answer

    monkeypatch.setattr(Highs, "run", wrong)
    told = session.plan(problem, 60.0).notes  # the second plan: its comparison is due, and nobody waits for it
    monkeypatch.setattr(Highs, "run", honest)
    assert not [note for note in told if "warm start" in note.text]
    asked: list[int] = []
    session.spare(lambda: bool(asked.append(1)) or True)
    assert asked == [1], "whoever asks for the next plan does not wait for a comparison"
    assert session._last is not None
    session.spare(lambda: False)
    assert session._last is None
    again = session.plan(problem, 60.0)
    assert [note.code for note in again.notes if "warm start" in note.text] == [Reason.SOLVER_CRASH]
    session.spare(lambda: pytest.fail("nothing is due"))
    assert not [note for note in session.plan(problem, 60.0).notes if "warm start" in note.text]


def test_between_plans_a_right_warm_answer_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, session = reference_problem(1, coarse_grid(6.0), 40, 4), Session(verify_every=1, apart=True)
    session.plan(problem, 60.0)
    kept = session._last
    session.spare(lambda: False)
    assert kept is not None
    assert session._last is kept
    monkeypatch.setattr(Highs, "run_unless", lambda *_: pytest.fail("compared twice"))
    session.spare(lambda: False)


def test_a_simplex_that_loses_its_way_from_a_basis_begins_once_more_from_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Seen on a year of prices: a basis carried over from the last interval, and HiGHS says "Unknown"."""
    solver = Highs(arrays(10, 2.0))
    objective = solver.run(10.0).objective
    real, lost = solver._solver.getModelStatus, [highspy.HighsModelStatus.kUnknown]
    monkeypatch.setattr(solver._solver, "getModelStatus", lambda: lost.pop() if lost else real())
    assert solver.run(10.0).objective == pytest.approx(objective, rel=1e-9)
    lost += [highspy.HighsModelStatus.kSolveError] * 3  # at once, from nothing, without a presolve
    assert solver.run(10.0).objective == pytest.approx(objective, rel=1e-9), "the primal method is the last to try"
    assert solver._solver.getOptionValue("simplex_strategy")[1] == DUAL, "and the next run is by the dual one again"
    lost += [highspy.HighsModelStatus.kUnknown] * 4
    with pytest.raises(SolveError, match="Unknown") as caught:
        solver.run(10.0)
    assert caught.value.kind is SolveFault.FAILED


def test_where_one_simplex_method_gives_up_the_other_one_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cards that hardly draw more at work: with prices so far apart the dual method ends with a solve error."""
    apart = write_arrays(declare(random_problem(16260)))
    best = Highs(apart, integers=False).run(60.0)
    between_plans = Highs(apart, integers=False).run_unless(lambda: False, 60.0)
    assert between_plans is not None
    assert between_plans.objective == pytest.approx(best.objective, rel=1e-9)
    solver, methods = Highs(arrays(10, 2.0)), []
    ran = solver._solver.run

    def run() -> object:
        methods.append(solver._solver.getOptionValue("simplex_strategy")[1])
        return ran()

    monkeypatch.setattr(solver._solver, "run", run)
    monkeypatch.setattr(solver._solver, "getModelStatus", lambda: highspy.HighsModelStatus.kSolveError)
    with pytest.raises(SolveError, match="Solve error"):
        solver.finish(60.0)
    assert methods == [PRIMAL] * 3 + [DUAL]


def test_all_tries_of_a_solve_share_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    solver, runs = Highs(arrays(10, 2.0)), [0]
    monkeypatch.setattr(solver._solver, "run", lambda: runs.append(len(runs)))
    monkeypatch.setattr(solver._solver, "getRunTime", lambda: 1.5 * runs[-1])
    monkeypatch.setattr(solver._solver, "getModelStatus", lambda: highspy.HighsModelStatus.kSolveError)
    with pytest.raises(SolveError, match="within 2 s") as caught:
        solver.solve(2.0)
    assert (caught.value.kind, caught.value.seconds) == (SolveFault.TIMEOUT, 3.0)
    assert runs == [0, 1, 2]


@pytest.mark.parametrize(
    ("fault", "said"), [(MemoryError(), "no memory"), (SolveError(SolveFault.TIMEOUT, "time ran out"), "time ran out")]
)
def test_between_plans_a_comparison_that_fails_is_told_and_nothing_is_lost(
    monkeypatch: pytest.MonkeyPatch, fault: Exception, said: str
) -> None:
    problem, session = reference_problem(1, coarse_grid(6.0), 40, 4), Session(verify_every=1, apart=True)
    session.plan(problem, 60.0)
    kept = session._last

    def fails(*_: object) -> Answer:
        raise fault

    monkeypatch.setattr(Highs, "run_unless", fails)
    session.spare(lambda: False)
    assert kept is not None
    assert session._last is kept
    assert [note.text for note in session.plan(problem, 60.0).notes if said in note.text]
