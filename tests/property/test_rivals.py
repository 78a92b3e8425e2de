"""Whatever the problem: every rule of thumb keeps every promise, and none is worth more than the optimum."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from optimizer.check import check_plan
from optimizer.domain import Rung
from optimizer.evaluate import evaluate
from optimizer.facts import facts_of
from optimizer.jobplans import job_rows
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
    facts = facts_of(made)
    steps, rows = steps_of(facts), job_rows(plan.jobs, facts.table.ids, facts.count)
    carried = facts.table.left - rows.rates @ facts.hours - rows.undone_gpu_h
    later = ~steps.runs & (rows.rates[:, 0] <= 1e-9)
    return float((steps.pause_cost * pauses(facts, steps, rows.rates, carried))[later].sum())


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
        assert total >= evaluate(made, plan).total - 2e-4 * (1.0 + abs(total)), name
