"""Voluntary events, solved by hand: taken where they pay, declined where they don't, and a word for either."""

from dataclasses import replace

import pytest

from optimizer.answers import EventPlan
from optimizer.check import check_plan
from optimizer.evaluate import evaluate
from optimizer.explain import explain_event, explain_pool
from optimizer.fallback import greedy_plan, safe_plan, shift_plan
from optimizer.model.arrays import write_arrays
from optimizer.model.build import declare
from optimizer.reasons import Reason
from optimizer.rivals import RIVALS
from optimizer.solve import solve_arrays, solve_problem
from optimizer.validate import problems_of
from tests.support.problems import event, hourly, inputs, pool, problem, site

CHAT = pool(floor=0.5)
"""1,000 GPUs: 400 kW at full power. Down to 250 kW they lose 0.002 * 100 + 0.003 * 50 = 0.35 of their throughput, 350
USD an hour, and save 150 kWh at 50 USD/MWh, 7.50: a reduction by 150 kW costs 342.50."""


def offer(name="v", hours=(1, 2), target=250.0, credit=5.0, **more):
    terms = {"voluntary": True, "credit_per_kwh": credit, "penalty_per_kwh": 0.0, "rebound_s": 0.0}
    return event(name, hours, target, 400.0, **(terms | more))


def asked(*events, hours=4, where=None):
    return problem(hourly(hours), [where or site(hours)], [inputs(CHAT, hours)], events=events)


@pytest.mark.parametrize(("credit", "taken"), [(0.1, False), (2.28, False), (2.29, True), (5.0, True)])
def test_an_event_is_taken_where_its_credit_is_more_than_it_costs(credit, taken):
    """150 kWh pay 342.00 at 2.28 and 343.50 at 2.29."""
    made = asked(offer(credit=credit))
    plan = solve_problem(made)
    assert plan.events == {"v": EventPlan(taken, pytest.approx(150 * credit), pytest.approx(342.5, abs=1e-6))}
    assert plan.sites["dc"].import_kw == pytest.approx((400, 250, 400, 400) if taken else (400,) * 4)
    assert plan.pools["chat"].reasons[1] is (Reason.DR_EVENT if taken else Reason.FULL_POWER)
    assert check_plan(made, plan) == ()
    assert evaluate(made, plan).participation == (pytest.approx(0.01 - 150 * credit) if taken else 0.0)
    model = solve_arrays(write_arrays(declare(made)), 20.0)
    assert plan.objective == pytest.approx(-model.objective, abs=1e-5)


def test_why_is_said_in_money():
    made = asked(offer())
    plan = solve_problem(made)
    assert explain_event(made, plan, "v") == "opted in: pays 750.00 USD, costs 342.50 USD"
    assert "event v limits the site to 250.0 kW" in explain_pool(made, plan, "chat", 1)
    made = asked(offer(credit=1.0))
    assert explain_event(made, solve_problem(made), "v") == "opted out: would pay 150.00 USD and cost 342.50 USD"
    made = asked(offer(target=150.0))
    assert explain_event(made, solve_problem(made), "v") == "opted out: 50 kW of what it asks can't be shed"
    assert explain_event(made, greedy_plan(made), "v") == "opted out: no solver weighed it"


def test_best_effort_is_taken_with_what_it_misses_and_pays_for_that():
    """The floor leaves 200 kW: of 300 kW asked, 200 are delivered for 5 a kWh and 100 missed for 1 (and no credit).
    They pay 5 * 300 - 6 * 100 = 900; what they cost is 0.5 of the throughput less 200 kWh, 490."""
    made = asked(offer(target=100.0, firm=False, penalty_per_kwh=1.0))
    plan = solve_problem(made)
    assert plan.events["v"] == EventPlan(True, pytest.approx(900), pytest.approx(490), pytest.approx(100))
    assert plan.sites["dc"].over_event_kw == pytest.approx((0, 100, 0, 0))
    dear = asked(offer(target=100.0, firm=False, penalty_per_kwh=6.0))
    assert not solve_problem(dear).taken


def test_what_is_answered_already_binds_without_being_weighed_again():
    made = asked(offer(credit=0.0, opted=True))
    plan = solve_problem(made)
    assert plan.events == {}
    assert plan.sites["dc"].import_kw == pytest.approx((400, 250, 400, 400))


def test_two_events_are_weighed_together():
    """Each alone pays 240 for 342.50; at once, in the same hour, one reduction serves both."""
    both = [offer("a", credit=1.6), offer("b", credit=1.6)]
    assert solve_problem(asked(*both)).taken == {"a", "b"}
    apart = [offer("a", credit=1.6), offer("b", (2, 3), credit=1.6)]
    assert solve_problem(asked(*apart)).taken == frozenset()


def test_a_ramp_lets_the_site_follow_an_event_that_it_takes():
    """A ramp of 0.5 kW a minute would cost 2 USD for each of the 120 kW beyond it, if the event's own didn't count."""
    made = asked(offer(credit=3.0), where=site(4, ramp_down_kw_per_min=0.5))
    plan = solve_problem(made)
    assert plan.taken == {"v"}
    assert plan.events["v"].costs == pytest.approx(342.5)
    assert evaluate(made, plan).ramp == 0.0


def test_rungs_without_a_solver_say_no_or_keep_what_the_plan_before_said():
    made = asked(offer())
    best = solve_problem(made)
    for plan in (greedy_plan(made), safe_plan(made), shift_plan(replace(best, events={}), made)):
        assert plan.events == {"v": EventPlan(False)}
        assert check_plan(made, plan) == ()
    kept = shift_plan(best, made)
    assert (kept.events, kept.sites["dc"].import_kw[1]) == (best.events, pytest.approx(250))
    assert check_plan(made, kept) == ()


def test_rules_take_what_they_can_keep_or_nothing():
    made = asked(offer(credit=0.0), offer("deep", target=100.0))
    assert RIVALS["fair_tiered"](made, None).taken == {"v"}
    assert RIVALS["cheapest_remaining"](made, None).taken == frozenset()


def test_the_checker_wants_an_answer_and_holds_the_plan_to_it():
    made = asked(offer())
    plan = solve_problem(made)
    silent = check_plan(made, replace(plan, events={}))
    assert "does not say whether the site takes part" in silent[0].text
    promised = replace(solve_problem(asked(offer(credit=0.0))), events={"v": EventPlan(True)})
    assert [fault.text for fault in check_plan(made, promised)] == [
        "import over the event's cap is not declared",
        "import 400.000 kW is over the event's cap 250.000 kW",
    ]


def test_nobody_may_choose_whether_to_obey_an_emergency():
    (fault,) = problems_of(asked(offer(emergency=True)))
    assert "events[v].voluntary" in str(fault)
