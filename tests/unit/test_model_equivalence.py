"""The arrays that are solved are the Pyomo model that is read, and the bill of a plan is the model's objective."""

import pickle

import numpy as np
import pyomo.environ as pyo
import pytest

from optimizer.evaluate import evaluate
from optimizer.model.arrays import write_arrays
from optimizer.model.build import JOB_FAMILIES, declare
from optimizer.model.pyomo_model import compile_model, pyomo_model
from optimizer.solve import SolveError, SolveFault, solve_arrays, solve_problem
from tests.support.problems import (
    random_problem,
    typical_problem,
    with_floors,
    with_options,
    with_paces,
    with_parking,
    with_starts,
    with_steps,
)


@pytest.mark.parametrize("seed", range(12))
def test_pyomo_and_the_compiled_arrays_agree(seed):
    model = declare(random_problem(seed))
    compiled, made = solve_arrays(compile_model(model), 20.0), pyomo_model(model)
    solver = pyo.SolverFactory("appsi_highs")
    solver.highs_options = {"mip_rel_gap": 0.0, "threads": 1}
    solver.solve(made)
    assert compiled.objective == pytest.approx(pyo.value(made.cost), rel=1e-9 if _linear(model) else 1e-4, abs=1e-6)


def _linear(model):
    return not len(model.families["start"])


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("skip", [frozenset(), JOB_FAMILIES])
def test_what_is_written_is_what_pyomo_compiles_to_the_last_bit(seed, skip):
    made = random_problem(seed)
    made = with_steps(made, seed) if seed % 2 else made
    made = with_parking(with_options(made, seed), seed) if seed % 3 == 0 else made
    model = declare(with_floors(with_starts(made, seed), seed))
    written, compiled = write_arrays(model), compile_model(model, skip)
    for name in ("starts", "index", "value", "cost", "low", "high", "row_low", "row_high", "integer"):
        assert np.array_equal(getattr(written, name), getattr(compiled, name)), name


@pytest.mark.parametrize("seed", range(200, 210))
def test_ramps_of_programs_are_written_as_compiled_and_priced_as_solved(seed):
    made = with_paces(with_starts(random_problem(seed, exact=True), seed), seed)
    model = declare(made)
    written, compiled = write_arrays(model), compile_model(model, frozenset())
    for name in ("starts", "index", "value", "cost", "low", "high", "row_low", "row_high", "integer"):
        assert np.array_equal(getattr(written, name), getattr(compiled, name)), name
    answer, plan = solve_arrays(written, 20.0), solve_problem(made)
    assert plan.objective == pytest.approx(-answer.objective, rel=1e-8 if _linear(model) else 1e-5, abs=1e-5)
    assert evaluate(made, plan).total == plan.objective


@pytest.mark.parametrize("seed", range(100, 130))
def test_the_objective_is_the_bill(seed):
    """Where the linear model is the whole truth, its optimum and the separate pricing of the plan are one number."""
    made = with_starts(random_problem(seed, exact=True), seed)
    model = declare(made)
    answer = solve_arrays(write_arrays(model), 20.0)
    plan = solve_problem(made)
    assert plan.objective == pytest.approx(-answer.objective, rel=1e-8 if _linear(model) else 1e-5, abs=1e-5)
    assert evaluate(made, plan).total == plan.objective


def test_the_same_problem_gives_the_same_plan_to_the_last_bit():
    made = typical_problem(20)
    first = solve_problem(made)
    again = solve_problem(pickle.loads(pickle.dumps(made)))
    assert (first.pools, first.jobs, first.sites, first.objective) == (
        again.pools,
        again.jobs,
        again.sites,
        again.objective,
    )


def test_no_time_is_a_typed_failure_and_never_half_a_plan():
    with pytest.raises(SolveError) as caught:
        solve_problem(typical_problem(60), time_limit_s=0.0005)
    assert caught.value.kind is SolveFault.TIMEOUT
    assert pickle.loads(pickle.dumps(caught.value)).kind is SolveFault.TIMEOUT


def test_solving_says_nothing_on_standard_output(capfd):
    solve_problem(random_problem(3))
    assert capfd.readouterr().out == ""


def test_every_row_of_the_model_has_finite_numbers():
    arrays = write_arrays(declare(random_problem(7)))
    assert np.isfinite(arrays.value).all()
    assert np.isfinite(arrays.cost).all()
