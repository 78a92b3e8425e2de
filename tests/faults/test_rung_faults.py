"""Faults injected into the model, the solver, the warm session and every rung: which plan answers, and what it says."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.support.reference import coarse_grid, reference_problem
from optimizer import ladder, session
from optimizer.check import check_plan
from optimizer.domain import Rung
from optimizer.fallback import greedy_plan
from optimizer.faults import SolveError, SolveFault
from optimizer.highs import Highs, solve_arrays
from optimizer.ladder import NoPlan, answer
from optimizer.reasons import Reason
from optimizer.session import Session
from optimizer.solve import solve_problem
from scheduler.planner import InlinePlanner
from tests.faults.test_planner_ladder import made
from tests.support.problems import event, typical_problem

CODES = (Reason.SOLVER_TIMEOUT, Reason.SOLVER_INFEASIBLE, Reason.SOLVER_CRASH, Reason.PLAN_REFUSED, Reason.RUNG_FAILED)


def said(plan):
    """The faults that the plan tells, in order: rung and code."""
    return [(note.subject, note.code) for note in plan.notes if note.code in CODES]


# ---------------------------------------------------------------- the model
def contradiction(model):
    model.rows("never", "st", ([0], [0]), low=1.0).add([0], model.columns("nil", "st", ([0], [0]), high=0.0), [0], 1.0)


def endless_gift(model):
    model.columns("gift", "st", ([0], [0]), cost=-1.0)


def no_number(model):
    balance = model.row_families["balance"]
    at, columns, members, coefficients = balance.blocks[-1]
    spoiled = coefficients.copy()
    spoiled[0] = np.nan
    balance.blocks[-1] = (at, columns, members, spoiled)


def no_cost(model):
    model.get("import").cost[0] = np.nan


@pytest.mark.parametrize(
    ("spoil", "codes"),
    [
        (contradiction, {Reason.SOLVER_INFEASIBLE}),
        (endless_gift, {Reason.SOLVER_CRASH, Reason.SOLVER_INFEASIBLE}),
        (no_number, {Reason.SOLVER_CRASH}),
        (no_cost, {Reason.SOLVER_CRASH}),
    ],
)
@pytest.mark.parametrize("warm", [False, True])
def test_a_model_that_is_broken_costs_a_rung_and_says_how(monkeypatch, spoil, codes, warm):
    planner, asked = InlinePlanner(), made()
    if warm:
        assert planner.plan(asked).rung is Rung.OPTIMUM
    whole = session.declare

    def spoiled(*args):
        model = whole(*args)
        spoil(model)
        return model

    monkeypatch.setattr(session, "declare", spoiled)
    plan = planner.plan(asked)
    assert plan.rung is Rung.GREEDY
    [(rung, code)] = said(plan)
    assert (rung, code in codes) == ("optimum", True), code
    assert check_plan(asked, plan) == ()
    monkeypatch.setattr(session, "declare", whole)
    assert planner.plan(asked).rung is Rung.OPTIMUM  # what was broken is not remembered


def test_a_deadline_without_any_plan_is_a_timeout_and_the_last_plan_is_followed():
    asked = typical_problem(40)
    last = solve_problem(asked)
    plan = InlinePlanner(1e-6).plan(asked, last)
    assert (plan.rung, said(plan)) == (Rung.SHIFTED, [("optimum", Reason.SOLVER_TIMEOUT)])
    assert check_plan(asked, plan) == ()


def test_a_config_that_cannot_be_met_is_a_shortfall_said_aloud_and_not_an_infeasible_model():
    asked = made()
    tight = replace(asked, sites=(replace(asked.sites[0], limit_kw=(1.0,) * 3),), events=(event("e", (0, 2), 0.0),))
    plan = InlinePlanner().plan(tight)
    assert plan.rung is Rung.OPTIMUM
    assert {Reason.LIMIT_UNREACHABLE, Reason.EVENT_UNREACHABLE} <= {note.code for note in plan.notes}
    assert min(plan.sites["dc"].over_limit_kw) > 0


# ---------------------------------------------------------------- the warm session
def wrong_matrix(kept):
    """The solver's own matrix is another one than the session believes."""
    arrays = kept._solver.arrays
    seg = arrays.families["seg"]
    for column in range(seg.start, seg.start + len(seg)):
        kept._solver._solver.changeCoeff(arrays.row_families["balance"].start, column, 0.0)


def wrong_basis(kept):
    """Every column basic: no basis at all."""
    kept._last = replace(kept._last, columns=np.ones_like(kept._last.columns))
    kept._solver = None


def shuffled_basis(kept):
    order = np.random.default_rng(7)
    kept._last = replace(kept._last, columns=order.permutation(kept._last.columns))
    kept._solver = None


@pytest.mark.parametrize("spoil", [wrong_matrix, wrong_basis, shuffled_basis])
def test_a_warm_session_in_a_wrong_state_gives_a_right_plan_or_is_caught(spoil):
    asked = made()
    kept = Session(verify_every=1)
    first = kept.plan(asked)
    spoil(kept)
    plan = answer(asked, first, kept.plan)
    assert check_plan(asked, plan) == ()
    assert plan.rung is Rung.OPTIMUM
    assert plan.objective == pytest.approx(first.objective, rel=1e-6)
    doubts = [note.text for note in plan.notes if "a warm start ended" in note.text]
    assert bool(doubts) == (spoil is wrong_matrix)


def test_when_time_is_short_for_every_job_a_plan_of_few_classes_answers_before_the_rules(monkeypatch):
    asked, kept, run, tried = reference_problem(1, coarse_grid(10.0), 200, 4), Session(), Highs.run, []

    def slow(self, time_limit_s):
        """A solver that needs more than its time for every job singly."""
        tried.append(len(self.arrays.cost))
        if len(self.arrays.cost) == tried[0]:
            raise SolveError(SolveFault.TIMEOUT, "no usable plan within 7 s")
        return run(self, time_limit_s)

    monkeypatch.setattr(Highs, "run", slow)
    plan = answer(asked, None, kept.plan)
    assert (plan.rung, check_plan(asked, plan)) == (Rung.COARSE, ())
    assert tried[1] < 0.8 * tried[0]
    assert {Reason.SOLVER_TIMEOUT, Reason.JOBS_GROUPED} <= {note.code for note in plan.notes}
    assert plan.objective > greedy_plan(asked).objective
    monkeypatch.undo()
    best = answer(asked, plan, kept.plan)
    assert best.rung is Rung.OPTIMUM
    assert best.objective == pytest.approx(solve_problem(asked).objective, rel=1e-7)


# ---------------------------------------------------------------- the rungs
RUNGS = ("optimum", "shifted", "greedy", "hold", "safe")
REACHED = {"shifted": Rung.SHIFTED, "greedy": Rung.GREEDY, "hold": Rung.HOLD, "safe": Rung.SAFE}


def fails(*_):
    raise ArithmeticError("a bug")


def lies(problem, *_):
    """A plan that says it draws nothing."""
    plan = solve_problem(problem)
    sites = {name: replace(orders, import_kw=(0.0,) * len(plan.grid)) for name, orders in plan.sites.items()}
    return replace(plan, sites=sites)


def half(problem, *_):
    return replace(solve_problem(problem), jobs={})


@pytest.mark.parametrize(
    ("how", "code"), [(fails, Reason.RUNG_FAILED), (lies, Reason.PLAN_REFUSED), (half, Reason.PLAN_REFUSED)]
)
@pytest.mark.parametrize("reached", list(REACHED))
def test_every_rung_that_fails_or_lies_is_named_and_the_next_one_answers(monkeypatch, how, code, reached):
    asked = made()
    last = solve_problem(asked)
    broken = RUNGS[: RUNGS.index(reached)]
    for name in broken[1:]:
        whole = "shift" if name == "shifted" else name
        monkeypatch.setattr(ladder, f"{whole}_plan", (lambda _, p: how(p)) if name == "shifted" else how)
    plan = answer(asked, last, how)
    assert plan.rung is REACHED[reached]
    first = Reason.SOLVER_CRASH if how is fails else code
    assert said(plan) == [("optimum", first), *((name, code) for name in broken[1:])]
    assert check_plan(asked, plan) == ()


def test_when_every_rung_fails_it_is_an_error_that_says_what_each_one_met(monkeypatch):
    asked = made()
    last = solve_problem(asked)
    for name in ("shift", "greedy", "hold", "safe"):
        monkeypatch.setattr(ladder, f"{name}_plan", fails)
    with pytest.raises(NoPlan, match=r"optimum: no one.*shifted: .*greedy: .*hold: .*safe: .*a bug"):
        answer(asked, last, lambda _: (_ for _ in ()).throw(SolveError(SolveFault.TIMEOUT, "no one")))


def test_a_solver_that_meets_no_number_says_so_and_never_calls_it_optimal():
    kept = Session()
    kept.plan(made())
    arrays = kept._solver.arrays
    for name in ("cost", "low", "row_low", "value"):
        spoiled = getattr(arrays, name).copy()
        spoiled[len(spoiled) // 2] = np.nan
        with pytest.raises(SolveError):
            solve_arrays(replace(arrays, **{name: spoiled}), 5.0)
