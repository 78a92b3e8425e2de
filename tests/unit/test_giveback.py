"""What a ceiling does not need is given back: up to the ceiling, only where it is what holds, only where it pays."""

from dataclasses import replace
from datetime import timedelta

import pytest

import scheduler.trim
from adapters.hall_noise import Flicker
from optimizer.domain import Work
from optimizer.reasons import Reason
from optimizer.solve import solve_problem
from scheduler.engine import Decision, State
from scheduler.giveback import held_pools, most_w
from scheduler.granting import granted
from scheduler.service import OperatorOrder
from tests.support.loops import START as LAB_START
from tests.support.loops import lab, order
from tests.support.problems import START, event, hourly, inputs, pool, problem, site

RESTLESS = "\npower: {type: simulated, load_noise: 0.03, seed: 3}\n"
EVENT = (LAB_START + timedelta(minutes=6), LAB_START + timedelta(minutes=26))


def delivered(folder):
    """Import over the event's target at every tick at the target, loads being lower than the plan believes."""
    folder.mkdir()
    with lab(folder, lambda text: text + RESTLESS) as made:
        made.run(timedelta(minutes=4), step_s=4)
        answer = made.facade.accept(order(*EVENT))
        ticks = made.run(timedelta(minutes=21), step_s=1)
        inside = [tick for tick in ticks if EVENT[0] + timedelta(minutes=6) <= tick.at < EVENT[1]]
        assert inside
        return [tick.import_kw["lab"] / answer.target_kw for tick in inside]


def test_a_site_is_held_to_its_ceiling_and_no_lower(tmp_path, monkeypatch):
    shares = delivered(tmp_path / "with")
    monkeypatch.setattr(scheduler.trim, "give_back", lambda _ctx, _state, _pools, wish, *_more: dict(wish))
    without = delivered(tmp_path / "without")
    lost, lost_without = (1.0 - sum(row) / len(row) for row in (shares, without))
    assert 0.0 < lost < 0.013, lost_without
    assert lost < 0.6 * lost_without, "what the plan took too much of is given back"
    assert max(shares) < 1.001, "a load that comes back is caught within the second"


def planned(price=60.0, target=700.0, limit=float("inf")):
    """Users and training under an event, planned, as the fast loop finds it."""
    pools = [inputs(pool("chat", value=5.0), 1), inputs(pool("train", Work.TRAINING, value=1.0), 1)]
    made = problem(hourly(1), [site(1, price=price, limit=limit)], pools, events=[event("e", (0, 1), target, 800.0)])
    return State(decision=Decision(solve_problem(made), made)), [item.pool for item in pools]


def test_only_pools_that_a_ceiling_holds_get_anything():
    state, pools = planned()
    assert [of.id for of in held_pools(state.plan, pools, START)] == ["train"], "users are at full power"
    state, pools = planned(target=900.0, limit=750.0)
    assert [of.id for of in held_pools(state.plan, pools, START)] == ["train"]
    dear, pools = planned(price=2500.0, target=900.0)
    assert dear.plan.pools["train"].reasons == (Reason.HIGH_PRICE,)
    assert held_pools(dear.plan, pools, START) == []
    assert held_pools(None, pools, START) == []


def test_pools_at_their_floors_get_back_what_worse_curves_took():
    """By the plan's reckoning the floors leave no more; a site that draws less than reckoned has room all the same."""
    state, pools = planned(target=300.0)
    assert {state.plan.pools[of.id].reasons[0] for of in pools} == {Reason.SERVICE_FLOOR}
    assert held_pools(state.plan, pools, START) == pools


def test_power_that_a_ceiling_leaves_makes_jobs_faster_and_takes_no_gpu_from_them(tmp_path):
    """A job that can't wait, beside users of whom there are now and then fewer than the plan believes."""
    soon = """
jobs:
  initial:
    - {id: soon, pool: tune, work_gpu_h: 150, max_gpus: 32, deadline: "2022-09-07T02:00:00Z", value_per_gpu_h: 9}
"""
    caps, gpus = [], []
    with lab(tmp_path, lambda text: text.split("jobs:")[0] + soon + RESTLESS.replace("0.03", "0.1")) as made:
        made.run(timedelta(minutes=2), step_s=2)
        made.facade.order(OperatorOrder("limit", site="lab", limit_kw=40.0, by="me"))

        def watch(tick):
            caps.append(tick.cap_w["tune"])
            gpus.append(granted(made.state, "tune"))

        made.run(timedelta(minutes=3), step_s=1, watch=watch)
        orders = made.state.plan.pools["tune"]
    assert orders.reasons[0] is Reason.SITE_LIMIT
    assert max(caps[60:]) >= orders.cap_w[0] + 10
    assert len(set(gpus[60:])) == 1, "as many as in the plan, however fast they are"


@pytest.mark.parametrize(("price", "pue", "cap"), [(60.0, 1.0, 400), (2500.0, 1.0, 300), (2500.0, 1.25, 200)])
def test_no_watt_is_given_back_that_costs_more_than_it_is_worth(price, pue, cap):
    """Training's watts are worth 3 $ a kWh up to 300 W and 2 $ above."""
    state, pools = planned(price)
    assert most_w(state, pools[1], pue, START) == cap
    assert most_w(State(), pools[1], pue, START) == 400, "no price is known"


def test_a_flickering_load_is_the_same_for_the_same_seed_and_never_above_its_level():
    moments = [START + timedelta(seconds=second) for second in range(600)]
    loads = [Flicker(lambda _at: 0.9, 0.05, seed, "chat") for seed in (1, 1, 2)]
    rows = [[load(at) for at in moments] for load in loads]
    assert rows[0] == rows[1] != rows[2]
    assert rows[0] != [replace(loads[0], name="train")(at) for at in moments]
    assert max(rows[0]) <= 0.9
    assert 0.01 < 0.9 - sum(rows[0]) / 600 < 0.05
