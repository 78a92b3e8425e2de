"""Answers every problem with a plan: the optimum if it can be had, else the next best thing, and says which.

Why a ladder and not an exception: the site keeps drawing power while a solver hangs. Each rung is checked before it is
taken, and each fall to a lower one leaves a note that a person sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from optimizer.check import check_plan
from optimizer.domain import Plan, Problem, Rung
from optimizer.fallback import greedy_plan, hold_plan, safe_plan, shift_plan
from optimizer.faults import SolveError, SolveFault
from optimizer.reasons import Note, Reason, Severity
from optimizer.validate import mended, problems_of

Solver = Callable[[Problem], Plan]

MOST_COMPARED = 20_000
"""Jobs up to which a plan of tanks is compared with what rules make (6 s of them, seen at that many)."""

FAULTS = {
    SolveFault.TIMEOUT: Reason.SOLVER_TIMEOUT,
    SolveFault.INFEASIBLE: Reason.SOLVER_INFEASIBLE,
    SolveFault.FAILED: Reason.SOLVER_CRASH,
}


def answer(problem: Problem, last_plan: Plan | None, solver: Solver) -> Plan:
    """The best plan that can be had and breaks no promise: optimum, incumbent or coarse from `solver`, the last
    plan shifted, greedy, held, safe.

    Signals that are no numbers are replaced by cautious ones first, with a note. Raises ProblemError only for a problem
    that is wrong in its build (lengths, unknown sites), which no plan could answer, and NoPlan when every rung fails. A
    plan that breaks a promise comes out only when all do; whoever publishes checks again.
    """
    if next(problems_of(problem), None) is not None:
        problem = mended(problem)
        for error in problems_of(problem):
            raise error
    notes: list[Note] = []
    plan = None
    for name, make in _rungs(problem, last_plan, solver):
        made = _attempt(name, make, notes)
        if made is None:
            continue
        broken = check_plan(problem, made)
        if not broken:
            best = _worth_most(problem, last_plan, made)
            return replace(best, notes=(*notes, *best.notes))
        plan = made
        first = broken[0]
        where = f"{first.subject}[{first.index}]" if first.index is not None else first.subject
        text = f"{name} plan refused: {where}: {first.text}" + (f" and {len(broken) - 1} more" if broken[1:] else "")
        notes.append(Note(Reason.PLAN_REFUSED, name, text, Severity.ALERT))
    if plan is None:  # not even a safe one could be made
        raise NoPlan("; ".join(f"{note.subject}: {note.text}" for note in notes))
    return replace(plan, notes=(*notes, *plan.notes))


def _worth_most(problem: Problem, last: Plan | None, made: Plan) -> Plan:
    """The plan, or where it is one of tanks the best of it and those that need no solver: tanks promise work that
    single jobs can't do, and where deadlines press, following the last plan or plain rules is worth more. Not with more
    than MOST_COMPARED jobs: rules take longer than an emergency has."""
    if made.rung is not Rung.EMERGENCY or len(problem.jobs) > MOST_COMPARED:
        return made
    best, failed = made, list[Note]()
    for name, make in _without_solver(problem, last):
        other = _attempt(name, make, failed)
        if other is not None and other.objective > best.objective and not check_plan(problem, other):
            best = other
    if best is made:
        return replace(made, notes=(*failed, *made.notes))
    text = f"worth {best.objective:,.0f} {problem.currency}, the plan of tanks {made.objective:,.0f}"
    late = tuple(note for note in made.notes if note.code is Reason.SOLVER_TIMEOUT)
    return replace(best, notes=(*failed, *late, *best.notes, Note(Reason.SOLVER_TIMEOUT, "plan", text, Severity.INFO)))


class NoPlan(Exception):
    """No rung made any plan, be it a bad one; the text has what each of them met. The plan before stays in force."""


def _rungs(problem: Problem, last: Plan | None, solver: Solver) -> Iterator[tuple[str, Callable[[], Plan]]]:
    """The rungs, best first."""
    yield "optimum", lambda: solver(problem)
    yield from _without_solver(problem, last)
    if last is not None:
        yield "hold", lambda: hold_plan(problem, last)
    yield "safe", lambda: safe_plan(problem)


def _without_solver(problem: Problem, last: Plan | None) -> Iterator[tuple[str, Callable[[], Plan]]]:
    """The rungs that follow a plan or rules."""
    if last is not None and last.grid.end > problem.grid.start:
        yield "shifted", lambda: shift_plan(last, problem)
    yield "greedy", lambda: greedy_plan(problem)


def _attempt(name: str, make: Callable[[], Plan], notes: list[Note]) -> Plan | None:
    """Make the plan of the rung called `name`; a failure becomes a note."""
    try:
        return make()
    except SolveError as error:
        notes.append(Note(FAULTS[error.kind], name, str(error), Severity.WARNING))
    except Exception as error:  # noqa: BLE001 - whatever a rung does, the next one answers; the note says what it did
        code = Reason.SOLVER_CRASH if name == "optimum" else Reason.RUNG_FAILED
        notes.append(Note(code, name, f"no {name} plan: {type(error).__name__}: {error}", Severity.ALERT))
    return None
