"""A price about the mark moves no cap back and forth; a clear one does, and limits and events are followed at once."""

from optimizer.domain import DemandCharge, Work
from optimizer.reasons import Reason
from optimizer.solve import solve_problem
from scheduler.calm import calmed
from scheduler.engine import Decision, State
from scheduler.orders import PoolOrder, whole_order
from tests.support.problems import START, event, hourly, inputs, pool, problem, site

POOLS = [inputs(pool("chat", value=5.0), 1), inputs(pool("train", Work.TRAINING, value=1.0), 1)]


def plan(state, price, target=900.0, **more):
    """What is planned and then ordered for training, whose watts are worth 2 $ a kWh above 300 W and 3 $ below."""
    made = problem(hourly(1), [site(1, price=price, **more)], POOLS, events=[event("e", (0, 1), target, 900.0)])
    state.decision = Decision(solve_problem(made), made)
    pools = [item.pool for item in POOLS]
    wish = {one.id: whole_order(state.plan, one, (), START) for one in pools}
    return wish["train"].cap_w, calmed(state, pools, wish, 1.0, START)["train"].cap_w


def test_a_price_about_the_mark_moves_no_cap_and_a_clear_one_does():
    state = State()
    seen = [plan(state, price) for price in (1990.0, 2010.0, 1990.0, 2050.0, 2150.0, 2010.0, 1990.0, 1950.0, 1850.0)]
    assert [wished for wished, _ in seen] == [400, 300, 400, 300, 300, 300, 400, 400, 400]
    assert [ordered for _, ordered in seen] == [400, 400, 400, 400, 300, 300, 300, 300, 400]


def test_an_event_is_followed_to_the_watt_and_the_price_begins_anew_after_it():
    state = State()
    assert plan(state, 1990.0) == (400, 400)
    wished, ordered = plan(state, 1990.0, target=650.0)
    assert state.plan.pools["train"].reasons == (Reason.DR_EVENT,)
    assert wished == ordered < 400
    assert plan(state, 2010.0) == (300, 300), "what was before the event is no reason"


def test_nobody_draws_more_than_planned_for_calm_while_a_peak_is_paid_for():
    """The plan stays below the month's peak so far for the price's sake: its reason tells nothing of the peak."""
    for active, ordered in ((True, [400, 300, 300, 400]), (False, [400, 400, 400, 400])):
        state, charge = State(), DemandCharge("month", 18.0, 5000.0, (active,))
        seen = [plan(state, price, demand_charges=(charge,)) for price in (1990.0, 2010.0, 1990.0, 1850.0)]
        assert [wished for wished, _ in seen] == [400, 300, 400, 400]
        assert [given for _, given in seen] == ordered


def test_without_a_plan_everything_is_as_it_was():
    assert calmed(State(), [POOLS[1].pool], {"train": PoolOrder(400, 1000)}, 1.0, START)["train"].cap_w == 400
