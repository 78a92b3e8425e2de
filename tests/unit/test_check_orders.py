"""Orders that are not the plan: caps and GPUs are what goes to the cards, and the checker holds them to it."""

from dataclasses import replace

import pytest

from optimizer.check import check_plan
from optimizer.curves import clipped, draw_at_cap
from optimizer.domain import Work
from optimizer.fallback import greedy_plan, safe_plan
from optimizer.solve import solve_problem
from tests.support.problems import event, hourly, inputs, job, pool, problem, random_problem, site

BATCH = replace(pool("batch", Work.BATCH, 100), one_cap=True)
"""SIMPLE: a GPU draws its cap, does half of its work for 200 W and all of it for 400 W, and idles at 100 W."""


def users(limit, floor, **more):
    """A thousand busy GPUs of users under a limit."""
    return problem(hourly(2), [site(2, limit=limit)], [inputs(pool("chat", floor=floor, value=5.0), 2)], **more)


def queue(jobs, limit=float("inf"), of=BATCH, **more):
    """A hundred GPUs for jobs under a limit."""
    return problem(hourly(2), [site(2, limit=limit)], [inputs(of, 2)], jobs, **more)


def told(made, plan, name, **orders):
    """What the checker says where only the orders of the first interval are others."""
    of = plan.pools[name]
    rows = {field: (value, *getattr(of, field)[1:]) for field, value in orders.items()}
    return [
        (broken.subject, broken.index, broken.text)
        for broken in check_plan(made, replace(plan, pools={**plan.pools, name: replace(of, **rows)}))
    ]


THIRDS = [job(name, (0, 1), 33.0, 100) for name in "abc"]
ONE = [job("a", (0, 9), 33.0, 100)]
SPOILS = {
    "more power for users than the limit has": (
        users(250.0, 0.4), "chat", {"cap_w": 400}, "orders of 400 W allow 400.000 kW, planned 250.000"
    ),
    "a cap below the floor of users": (
        users(260.0, 0.65), "chat", {"cap_w": 200}, "orders of 200 W do 503.000 of the planned work 680.000"
    ),
    "a cap under which jobs do half of what is planned": (
        queue(THIRDS), "batch", {"cap_w": 200}, "orders of 200 W on 100 GPUs do 50.300 of the planned work 99.000"
    ),
    "full power for jobs under a limit": (
        queue(ONE, 16.0), "batch", {"cap_w": 400, "active_gpus": 100},
        "orders of 400 W on 100 GPUs allow 40.000 kW, planned 16.000",
    ),
    "a cap for users that is two watts too high": (
        users(250.0, 0.4), "chat", {"cap_w": 252}, "orders of 252 W allow 252.000 kW, planned 250.000"
    ),
    "two GPUs too few": (
        queue(ONE, 16.0), "batch", {"active_gpus": 58},
        "orders of 200 W on 58 GPUs do 29.677 of the planned work 30.000",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SPOILS)
def test_orders_that_are_not_the_plan_are_refused(name):
    made, where, orders, text = SPOILS[name]
    plan = solve_problem(made)
    assert check_plan(made, plan) == ()
    assert told(made, plan, where, **orders) == [(where, 0, text)]


def test_what_was_lived_under_the_orders_of_other_plans_is_judged_without_orders():
    made, name, orders, _ = SPOILS["more power for users than the limit has"]
    plan = solve_problem(made)
    of = plan.pools[name]
    spoilt = replace(plan, pools={name: replace(of, cap_w=(orders["cap_w"], *of.cap_w[1:]))})
    assert check_plan(made, spoilt) != ()
    assert check_plan(made, spoilt, lived=True) == ()
    drawn = replace(plan, pools={name: replace(of, draw_kw=(3.0, *of.draw_kw[1:]))})
    assert check_plan(made, drawn, lived=True) != ()


def test_a_whole_gpu_more_is_ordered_only_where_limit_and_events_have_room():
    """Jobs get 10.5 GPUs at half speed, 1.05 kW above the idle cards' 10: the eleventh takes 50 W more."""
    asks = [job("a", (0, 1), 5.25, 100)]
    for limit, target, room in ((11.11, 99.0, True), (11.06, 99.0, False), (99.0, 11.11, True), (99.0, 11.06, False)):
        made = queue(asks, limit, events=[event("e", (0, 1), target, 99.0)])
        plan = solve_problem(made)
        assert plan.pools["batch"].draw_kw[0] == pytest.approx(11.05)
        assert plan.pools["batch"].active_gpus[0] == (11 if room else 10)
        assert check_plan(made, plan) == ()
        found = told(made, plan, "batch", active_gpus=11)
        text = "orders of 200 W on 11 GPUs allow 11.100 kW, planned 11.050, and the site has 0.010 kW left"
        assert found == ([] if room else [("batch", 0, text)])


def test_a_lowest_cap_that_is_no_whole_watt_is_ordered_as_the_next_one():
    of = replace(pool("chat", floor=0.0, value=0.001), min_cap_w=200.5)
    made = problem(hourly(2), [site(2)], [inputs(of, 2)])
    plan = solve_problem(made)
    assert plan.pools["chat"].draw_kw == pytest.approx((200.5, 200.5))
    assert plan.pools["chat"].cap_w == (201, 201)
    assert check_plan(made, plan) == ()
    assert told(made, plan, "chat", cap_w=202)


def moved(made, plan, step_w):
    """What is refused for a cap so many watts higher, and every pool and interval for which it is another draw."""
    for item in made.pools:
        of, orders = item.pool, plan.pools[item.pool.id]
        curve = clipped(of.curve, of.min_cap_w, of.max_cap_w)
        for t, cap in enumerate(orders.cap_w):
            other = min(max(cap + step_w, int(of.min_cap_w)), int(of.max_cap_w))
            busy = orders.active_gpus[t] if of.work is Work.BATCH else item.load[t] * of.count
            draws = [draw_at_cap(curve, watts) for watts in (cap, other)]
            if busy * (draws[1] - draws[0]) > 10.0 + draws[1]:
                caps = (*orders.cap_w[:t], other, *orders.cap_w[t + 1 :])
                spoiled = replace(plan, pools={**plan.pools, of.id: replace(orders, cap_w=caps)})
                yield any((found.subject, found.index) == (of.id, t) for found in check_plan(made, spoiled))


@pytest.mark.parametrize("make", [solve_problem, greedy_plan, safe_plan])
def test_higher_caps_are_refused_in_any_pool_of_any_plan(make):
    found = [
        refused for seed in range(12) for made in [random_problem(seed)] for refused in moved(made, make(made), 40)
    ]
    assert len(found) > 10
    assert all(found)
