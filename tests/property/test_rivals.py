"""Whatever the problem: every rule of thumb keeps every promise, and none is worth more than the optimum."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from optimizer.check import check_plan
from optimizer.domain import Rung
from optimizer.evaluate import evaluate
from optimizer.facts import facts_of
from optimizer.highs import solve_arrays
from optimizer.jobplans import job_rows
from optimizer.model.arrays import write_arrays
from optimizer.model.build import declare
from optimizer.model.pauses import NO_COLUMNS, NO_ROWS
from optimizer.reasons import Reason
from optimizer.rivals import RIVALS
from optimizer.solve import solve_problem
from optimizer.steps import pauses, steps_of
from tests.support.examples import many
from tests.support.problems import random_problem, with_options, with_parking, with_starts, with_steps

seeds = st.integers(0, 10**6)
OUT_OF_REACH = {Reason.LIMIT_UNREACHABLE, Reason.EVENT_UNREACHABLE}


def later_pauses(made, plan):
    """What a plan's bill has for pauses of jobs that neither run nor begin now: the model has them in parts, and they
    are decided again, as a whole, before they happen."""
    facts, rows, later = begun_later(made, plan)
    steps, carried = steps_of(facts), facts.table.left - rows.rates @ facts.hours - rows.undone_gpu_h
    return float((steps.pause_cost * pauses(facts, steps, rows.rates, carried))[later].sum())


def cut_in_parts(made, plan):
    """What the model has, beyond a plan's bill, for runs that begin hours from now: one that falls below its least rate
    rests in part, which cuts it and pauses it; the bill counts none that goes on, at however little, nor its cut."""
    facts, rows, later = begun_later(made, plan)
    arrays = write_arrays(declare(made, facts, np.ones(len(later), dtype=np.bool_)))
    cost, low, high = np.zeros_like(arrays.cost), arrays.low.copy(), arrays.high.copy()
    kept = np.zeros(len(arrays.row_low), dtype=np.bool_)  # all other rows a plan keeps that may be obeyed
    for name in NO_ROWS.keys() - {"goes_on"}:
        arrays.of_rows(name, kept)[:] = True
    arrays.of_rows("rise", kept)[:] = arrays.row_families["rise"].keys[1] > 0  # nor is what begins now a later run
    for name in NO_COLUMNS:
        arrays.of(name, cost)[:] = arrays.of(name, arrays.cost)
    arrays.of("first", cost)[~later[arrays.families["first"].keys[0]]] = 0.0  # theirs is that of now
    carried, undone = facts.table.left - rows.rates @ facts.hours - rows.undone_gpu_h, rows.undone_gpu_h
    timely = np.minimum(rows.rates, facts.table.rate[:, None] * facts.table.on_time_h / facts.hours)
    for name, asked in (("x", timely), ("late", rows.rates - timely), ("undone", undone), ("carried", carried)):
        at = arrays.families[name].keys[::2] if asked.ndim == 2 else arrays.families[name].keys
        taken = np.clip(asked[at], 0.0, arrays.of(name, high))
        arrays.of(name, low)[:], arrays.of(name, high)[:] = taken, taken
    fixed = replace(
        arrays, cost=cost, offset=0.0, low=low, high=high,
        row_low=np.where(kept, arrays.row_low, -np.inf), row_high=np.where(kept, arrays.row_high, np.inf),
    )  # fmt: skip
    return solve_arrays(fixed, 10.0).objective - evaluate(made, plan).pauses


def begun_later(made, plan):
    """A problem's facts, a plan's jobs, and which of them neither run nor begin now."""
    facts = facts_of(made)
    rows = job_rows(plan.jobs, facts.table.ids, facts.count)
    return facts, rows, ~steps_of(facts).runs & (rows.rates[:, 0] <= 1e-9)


@pytest.mark.parametrize("name", RIVALS)
@given(seeds)
def test_every_rule_may_be_obeyed(name, seed):
    made = with_parking(with_options(random_problem(seed), seed), seed) if seed % 2 else random_problem(seed)
    made = with_steps(made, seed) if seed % 3 else made
    plan = RIVALS[name](made, None)
    assert (plan.rung, check_plan(made, plan)) == (Rung.RULE, ())


@many
@example(3520)  # rules ran a part of a card that the model did not
@example(7976)  # a rule stopped a run that must go on, and the bill did not count it
@example(13292)  # two parts of a job hours from now, with a pause between that is next to nothing to the model
@example(13980)  # the model had a run whose work ends inside of an interval go on at its least rate until its end
@example(762268)  # a run that begins later falls below its least rate: to the model that cuts it, in part
@given(seeds)
def test_no_rule_is_worth_more_than_the_optimum(seed):
    made = random_problem(seed, exact=True)
    made = with_starts(with_parking(with_options(made, seed), seed), seed) if seed % 2 else made
    made = with_steps(made, seed) if seed % 4 == 0 else made
    best = solve_problem(made)
    if seed % 4 == 0 and OUT_OF_REACH & {note.code for note in best.notes}:
        return  # where a run is cut by a cap that nobody keeps, what it loses is a bound and no figure
    total = evaluate(made, best).total + later_pauses(made, best)
    for name, rule in RIVALS.items():
        plan = rule(made, best)
        assert check_plan(made, plan) == (), name
        over = evaluate(made, plan).total - total - 2e-4 * (1.0 + abs(total))
        assert over <= 0.0 or over <= cut_in_parts(made, plan), name
