"""Solves a problem to its optimum with HiGHS, or says why not.

Why so strict: HiGHS ignores an unknown option, counts its time limit over the life of its object, and returns no usable
point when a linear program runs out of time. So every option's answer is checked, every solve gets a fresh object, and
anything but an optimum (or, with integers, an incumbent) is a `SolveError`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import highspy
import numpy as np

from optimizer.assemble import Draft, assemble
from optimizer.domain import Plan, Problem, Rung
from optimizer.facts import Facts, Floats, unbroken_run
from optimizer.faults import SolveError, SolveFault
from optimizer.model.build import build_model
from optimizer.model.compiled import Arrays, compile_model
from optimizer.reasons import Note, Reason, Severity
from optimizer.validate import validate

__all__ = ["Answer", "SolveError", "SolveFault", "solve_arrays", "solve_problem"]

GAP = 1e-4
"""Relative gap at which a mixed-integer solve may stop."""


@dataclass(frozen=True)
class Answer:
    """A point, the rows' duals (from the linear program with the integers fixed), and whether it is proven optimal."""

    point: Floats
    duals: Floats
    objective: float
    optimal: bool
    seconds: float


def solve_problem(problem: Problem, *, time_limit_s: float = 10.0) -> Plan:
    """The best plan for a problem. The same problem gives the same plan.

    Raises ProblemError for a broken problem, SolveError when HiGHS gives no usable point in `time_limit_s`.
    """
    validate(problem)
    build = build_model(problem)
    facts, arrays = build.facts, compile_model(build)
    del build
    answer = solve_arrays(arrays, time_limit_s)
    answer, homes = _settle(facts, arrays, answer, time_limit_s)
    rung, notes = (Rung.OPTIMUM, ()) if answer.optimal else (Rung.INCUMBENT, (_incumbent_note(time_limit_s),))
    return assemble(facts, _draft(facts, arrays, answer, homes), rung, notes, answer.seconds)


def _incumbent_note(time_limit_s: float) -> Note:
    text = f"the solver stopped after {time_limit_s:g} s with a plan that is good but not proven best"
    return Note(Reason.SOLVER_INCUMBENT, "plan", text, Severity.INFO)


# ---------------------------------------------------------------- HiGHS
def solve_arrays(arrays: Arrays, time_limit_s: float) -> Answer:
    """Solve compiled arrays; with integers, duals come from a second solve with those fixed."""
    solver = _run(arrays, time_limit_s, arrays.integer)
    status, info = solver.getModelStatus(), solver.getInfo()
    mixed = bool(arrays.integer.any())
    incumbent = mixed and info.primal_solution_status == 2
    if status != highspy.HighsModelStatus.kOptimal and not (
        incumbent and status == highspy.HighsModelStatus.kTimeLimit
    ):
        raise _failure(solver, status, time_limit_s)
    seconds = float(solver.getRunTime())
    point = np.array(solver.getSolution().col_value)
    optimal = status == highspy.HighsModelStatus.kOptimal
    if mixed:
        whole = arrays.integer > 0
        fixed = np.round(point)
        low, high = np.where(whole, fixed, arrays.low), np.where(whole, fixed, arrays.high)
        solver = _run(replace(arrays, low=low, high=high), max(1.0, time_limit_s), np.zeros_like(arrays.integer))
        if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            raise _failure(solver, solver.getModelStatus(), time_limit_s)
        point = np.array(solver.getSolution().col_value)
        seconds += float(solver.getRunTime())
    point = np.clip(point, arrays.low, arrays.high)
    duals = np.array(solver.getSolution().row_dual)
    return Answer(point, duals, float(solver.getInfo().objective_function_value), optimal, seconds)


def _failure(solver: Any, status: Any, time_limit_s: float) -> SolveError:
    """The typed error for a model status."""
    text = solver.modelStatusToString(status)
    if status == highspy.HighsModelStatus.kTimeLimit:
        return SolveError(SolveFault.TIMEOUT, f"no usable plan within {time_limit_s:g} s")
    bad = {highspy.HighsModelStatus.kInfeasible, highspy.HighsModelStatus.kUnboundedOrInfeasible}
    return SolveError(SolveFault.INFEASIBLE if status in bad else SolveFault.FAILED, f"HiGHS says: {text}")


def _run(arrays: Arrays, time_limit_s: float, integer: Any) -> Any:
    """A fresh HiGHS object that has run the arrays (its time limit would otherwise add up over solves)."""
    solver = _Silent()
    options = {
        "threads": 1,
        "random_seed": 0,
        "time_limit": float(time_limit_s),
        "mip_rel_gap": GAP,
        "mip_abs_gap": 1e-9,
    }
    for name, value in options.items():
        _must(solver.setOptionValue(name, value), f"option {name}")
    columns, rows = len(arrays.cost), len(arrays.row_low)
    _must(
        solver.passModel(
            columns, rows, len(arrays.value), int(highspy.MatrixFormat.kColwise), int(highspy.ObjSense.kMinimize),
            arrays.offset, arrays.cost, arrays.low, arrays.high, arrays.row_low, arrays.row_high,
            arrays.starts, arrays.index, arrays.value, integer,
        ),
        "model",
    )  # fmt: skip
    solver.run()
    return solver


class _Silent(highspy.Highs):  # type: ignore[misc]
    """HiGHS without its banner, which the class prints to stdout when it makes its callbacks: none are used here."""

    def __init__(self) -> None:
        super(highspy.Highs, self).__init__()
        _must(self.setOptionValue("output_flag", False), "option output_flag")


def _must(status: Any, what: str) -> None:
    """Raise SolveError when HiGHS refused something (it says so by status alone)."""
    if status == highspy.HighsStatus.kError:
        raise SolveError(SolveFault.FAILED, f"HiGHS refused the {what}")


# ---------------------------------------------------------------- from the point to a draft
def _rates(facts: Facts, arrays: Arrays, point: Floats) -> Floats:
    """Job rates in GPU equivalents [job, pool, interval]."""
    rates = np.zeros((len(facts.jobs), len(facts.pools), facts.count))
    for family in ("x", "late"):
        for (number, g, t), value in arrays.take(family, point).items():
            rates[number, g, t] += value
    for (number, g, t), value in arrays.take("start", point).items():
        if value > 0.5:
            rates[number, g] += unbroken_run(facts, facts.jobs[number], t)
    return rates


def _done(facts: Facts, arrays: Arrays, point: Floats) -> Floats:
    """Work in GPU-hours of each job in each pool."""
    done: Floats = (_rates(facts, arrays, point) * facts.hours).sum(axis=2)
    return done


def _homes(facts: Facts, done: Floats) -> tuple[int, ...]:
    """The one pool of each job: where most of its work is, else its first choice (-1: none)."""
    return tuple(
        max(job.pools, key=lambda g: (round(float(done[n, g]), 9), -job.pools.index(g)), default=-1)
        for n, job in enumerate(facts.jobs)
    )


def _settle(facts: Facts, arrays: Arrays, answer: Answer, time_limit_s: float) -> tuple[Answer, tuple[int, ...]]:
    """Give every job one pool. Jobs that the optimum splits go where most of their work is; those that then lose work
    may choose once more while all others stay."""
    done = _done(facts, arrays, answer.point)
    homes = _homes(facts, done)
    split = {n for n, job in enumerate(facts.jobs) if job.job.preemptible and np.count_nonzero(done[n] > 1e-6) > 1}
    if not split:
        return answer, homes
    first = _closed(arrays, answer, {n: homes[n] for n in split}, time_limit_s)
    now = _done(facts, arrays, first.point)
    losers = {n for n in split if now[n].sum() < done[n].sum() - 1e-6}
    if not losers:
        return first, homes
    kept = {n: home for n, home in enumerate(homes) if n not in losers}
    homes = _homes(facts, _done(facts, arrays, _closed(arrays, first, kept, time_limit_s).point))
    second = _closed(arrays, first, dict(enumerate(homes)), time_limit_s)
    return (second, homes) if second.objective < first.objective else (first, _homes(facts, now))


def _closed(arrays: Arrays, before: Answer, homes: dict[int, int], time_limit_s: float) -> Answer:
    """Solve again with the named jobs confined to one pool; the time spent adds up."""
    columns = [
        column
        for family in ("x", "late")
        for (n, g, _), column in arrays.place[family].items()
        if n in homes and g != homes[n] and column >= 0
    ]
    high = arrays.high.copy()
    high[np.array(columns, dtype=np.int64)] = 0.0
    answer = solve_arrays(replace(arrays, high=high), max(0.1, time_limit_s - before.seconds))
    return replace(answer, seconds=answer.seconds + before.seconds, optimal=answer.optimal and before.optimal)


def _draft(facts: Facts, arrays: Arrays, answer: Answer, homes: tuple[int, ...]) -> Draft:
    """What the point decides."""
    draw = np.array([pool.base_kw for pool in facts.pools]).reshape(len(facts.pools), facts.count)
    for (g, t, _), value in arrays.take("seg", answer.point).items():
        draw[g, t] += value
    rates = _rates(facts, arrays, answer.point)
    picked = np.array([rates[n, g] if g >= 0 else np.zeros(facts.count) for n, g in enumerate(homes)])
    picked = np.where(picked > 1e-9, picked, 0.0).reshape(len(facts.jobs), facts.count)
    marginal = answer.duals[arrays.balance].reshape(facts.other_kw.shape) / facts.hours * 1000.0
    return Draft(draw, picked, homes, marginal)
