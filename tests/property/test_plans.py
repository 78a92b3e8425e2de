"""Whatever the problem: there is a plan, it keeps every promise, and no rule beats the optimum."""

from dataclasses import replace

from hypothesis import example, given
from hypothesis import strategies as st

from optimizer.check import check_plan
from optimizer.curves import clipped, draw_at_cap
from optimizer.domain import Plan, Rung, Work
from optimizer.evaluate import evaluate
from optimizer.fallback import greedy_plan, hold_plan, safe_plan, shift_plan
from optimizer.ladder import answer
from optimizer.reasons import Reason
from optimizer.solve import SolveError, SolveFault, solve_problem
from optimizer.validate import problems_of
from tests.support.examples import many
from tests.support.problems import (
    random_problem,
    under_one_cap,
    with_floors,
    with_options,
    with_parking,
    with_promises,
    with_starts,
    with_steps,
)

seeds = st.integers(0, 10**6)
NO_PLAN = {
    Reason.PLAN_REFUSED, Reason.RUNG_FAILED, Reason.SOLVER_CRASH, Reason.SOLVER_INFEASIBLE, Reason.SOLVER_TIMEOUT,
}  # fmt: skip


def told(plan):
    """What a plan's notes say about rungs that gave none: the reason, where another one answers."""
    return [note.text for note in plan.notes if note.code in NO_PLAN]


def fail(_problem) -> Plan:
    raise SolveError(SolveFault.TIMEOUT, "no time")


@given(seeds)
def test_the_optimum_keeps_every_promise_and_beats_every_rule(seed):
    made = random_problem(seed, exact=True)
    assert list(problems_of(made)) == []
    best, rules = solve_problem(made), greedy_plan(made)
    assert check_plan(made, best) == ()
    assert check_plan(made, rules) == ()
    assert evaluate(made, best).total >= evaluate(made, rules).total - 2e-4 * (1.0 + abs(best.objective))


@many
@example(16260, 16259)  # cards that hardly draw more at work: prices so far apart that only the primal simplex ends
@given(seeds, seeds)
def test_the_ladder_answers_with_a_plan_that_may_be_obeyed(seed, other):
    made = random_problem(seed)
    first = answer(made, None, solve_problem)
    assert (first.rung, check_plan(made, first)) == (Rung.OPTIMUM, ()), told(first)
    without = answer(made, None, fail)
    assert (without.rung, check_plan(made, without)) == (Rung.GREEDY, ())
    stranger = solve_problem(random_problem(other))
    for last in (first, stranger):
        followed = answer(made, last, fail)
        assert check_plan(made, followed) == ()
    assert check_plan(made, safe_plan(made)) == ()


@given(seeds, seeds)
def test_gangs_least_runs_pauses_and_order_are_kept_on_every_rung(seed, other):
    made = with_steps(random_problem(seed), other)
    best = answer(made, None, solve_problem)
    assert (best.rung, check_plan(made, best)) == (Rung.OPTIMUM, ()), told(best)
    for plan in (greedy_plan(made), safe_plan(made), shift_plan(best, made), hold_plan(made, best)):
        assert check_plan(made, plan) == ()


@given(seeds, seeds)
def test_what_cards_do_under_the_one_cap_of_their_pool_is_kept_on_every_rung(seed, other):
    made = under_one_cap(with_steps(random_problem(seed), other))
    best = answer(made, None, solve_problem)
    assert best.rung in {Rung.OPTIMUM, Rung.INCUMBENT}, told(best)
    assert check_plan(made, best) == ()
    for plan in (greedy_plan(made), safe_plan(made), shift_plan(best, made), hold_plan(made, best)):
        assert check_plan(made, plan) == ()


@example(13584, 13585)  # rules left the power of an engine that must run to nobody, beside a promise that they broke
@example(14524, 14525)  # a run that was to end at its least rate took power from a firm event that it had no need of
@given(seeds, seeds)
def test_promised_deadlines_are_kept_on_every_rung_while_there_is_room(seed, other):
    made = with_promises(with_steps(random_problem(seed), other), other)
    assert list(problems_of(made)) == []
    best = answer(made, None, solve_problem)
    assert (best.rung, check_plan(made, best)) == (Rung.OPTIMUM, ()), told(best)
    for plan in (greedy_plan(made), safe_plan(made), shift_plan(best, made), hold_plan(made, best)):
        assert check_plan(made, plan) == ()


@given(seeds, seeds)
def test_parked_gpus_are_counted_and_woken_on_every_rung(seed, other):
    made = with_starts(with_parking(random_problem(seed), other), other)
    best = answer(made, None, solve_problem)
    assert (best.rung, check_plan(made, best)) == (Rung.OPTIMUM, ()), told(best)
    for plan in (greedy_plan(made), safe_plan(made), shift_plan(best, made), hold_plan(made, best)):
        assert check_plan(made, plan) == ()


@given(seeds, seeds)
def test_floors_that_differ_from_interval_to_interval_are_kept_on_every_rung(seed, other):
    made = with_floors(random_problem(seed), other)
    assert list(problems_of(made)) == []
    best = answer(made, None, solve_problem)
    assert check_plan(made, best) == ()
    for plan in (greedy_plan(made), safe_plan(made), shift_plan(best, made), hold_plan(made, best)):
        assert check_plan(made, plan) == ()


@given(seeds, seeds)
def test_answers_to_voluntary_events_are_kept_on_every_rung(seed, other):
    made = with_options(random_problem(seed), other)
    best = answer(made, None, solve_problem)
    assert (best.rung, check_plan(made, best)) == (Rung.OPTIMUM, ()), told(best)
    for plan in (greedy_plan(made), safe_plan(made), shift_plan(best, made), hold_plan(made, best)):
        assert check_plan(made, plan) == ()


@given(seeds)
def test_a_surprise_event_is_met_by_the_shifted_plan(seed):
    made = random_problem(seed)
    last = solve_problem(replace(made, events=()))
    assert check_plan(made, shift_plan(last, made)) == ()


@given(seeds)
def test_caps_never_draw_more_than_the_plan_says(seed):
    """Interactive and training pools: their load under the ordered cap, against the planned draw."""
    made = random_problem(seed)
    plan = solve_problem(made)
    for item in made.pools:
        of, orders = item.pool, plan.pools[item.pool.id]
        if of.work is Work.BATCH:
            continue
        curve = clipped(of.curve, of.min_cap_w, of.max_cap_w)
        for t, cap in enumerate(orders.cap_w):
            busy = item.load[t] * of.count
            drawn = (busy * draw_at_cap(curve, cap) + (of.count - busy) * of.curve.idle_w) / 1000.0
            assert drawn <= orders.draw_kw[t] * (1 + 1e-6) + 1e-6
