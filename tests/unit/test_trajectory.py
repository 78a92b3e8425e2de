"""What a node does alone: the event's cap is kept to its end, wherever in an interval that lies."""

from datetime import timedelta
from itertools import pairwise

import pytest

from adapters.ports import EventTarget
from optimizer.envelope import event_limit_kw
from scheduler.trajectory import trajectory
from tests.support.loops import START, lab, order

MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)


def alone(made, start, end, step_s=5):
    """The site's import if every node followed the published trajectory, (moment, kW) from `start` to `end`."""
    steps, until_s = trajectory(made.ctx, made.state, made.state.plan, start)
    assert steps[0][0] == 0.0
    found, moment, place = [], start, 0
    while moment < min(end, start + timedelta(seconds=until_s)):
        while place + 1 < len(steps) and steps[place + 1][0] <= (moment - start).total_seconds():
            place += 1
        for pool, one in steps[place][1].items():
            made.hall.set_limits(dict.fromkeys(made.hall.gpus_of[pool], float(one.cap_w)))
        found.append((moment, made.ctx.meter.read().import_kw["lab"]))
        made.clock.sleep(step_s)
        moment += timedelta(seconds=step_s)
    return found, until_s


@pytest.mark.parametrize("minutes", [(10, 30), (12, 33), (13, 16)])
def test_the_cap_is_kept_from_the_middle_of_an_event_to_its_end_and_through_its_ramp(tmp_path, minutes):
    begin, end = (START + number * MINUTE for number in minutes)
    with lab(tmp_path, lambda text: text.split("jobs:")[0]) as made:
        made.run(5 * MINUTE, step_s=10)
        made.facade.accept(order(begin, end, ramp_in_s=60.0, ramp_out_s=120.0))
        made.run(begin + 2 * MINUTE - made.clock.now(), step_s=2)
        made.plan()
        (event,) = made.ctx.ledger.active(made.clock.now())
        over = event.end + timedelta(seconds=event.ramp_out_s)
        found, until_s = alone(made, made.clock.now(), over)
        assert found[-1][0] >= over - timedelta(seconds=6)
        assert until_s >= 15 * 60
        for moment, kw in found[1:]:
            assert kw <= event_limit_kw(event, moment) * 1.01, f"{moment - begin} after its start"


def test_it_reaches_three_intervals_without_an_event_and_the_plans_orders_are_kept(tmp_path):
    with lab(tmp_path, lambda text: text.replace("value: 60", "value: 900")) as made:
        made.run(5 * MINUTE, step_s=10)
        made.plan()
        steps, until_s = trajectory(made.ctx, made.state, made.state.plan, made.clock.now())
        assert until_s > 15 * 60, "and then gives back by the site's ramp"
        steps = [(offset_s, orders) for offset_s, orders in steps if offset_s < 15 * 60]
        plan, now = made.state.plan, made.clock.now()
        last = {plan.grid.index(now + timedelta(seconds=offset_s)): orders for offset_s, orders in steps}
        assert {index: orders["train"].cap_w for index, orders in last.items()} == {
            index: plan.pools["train"].cap_w[index] for index in last
        }


def test_the_cap_is_kept_to_the_watt_while_cooling_still_follows_the_heat_of_before(tmp_path):
    def slow(text):
        return text.split("jobs:")[0] + "power: {type: simulated, load_noise: 0.003, cooling_settle: 5m}\n"

    begin, end = START + 12 * MINUTE, START + 33 * MINUTE
    with lab(tmp_path, slow) as made:
        made.run(5 * MINUTE, step_s=10)
        made.facade.accept(order(begin, end, ramp_in_s=60.0, ramp_out_s=120.0))
        made.run(6 * MINUTE, step_s=1)
        made.plan()
        (event,) = made.ctx.ledger.active(made.clock.now())
        found, _ = alone(made, made.clock.now(), event.end, step_s=2)
        held = [kw - event_limit_kw(event, at) for at, kw in found if at > begin + MINUTE]
        assert max(held) <= 0.0
        assert min(held) > -0.06 * event.baseline_kw, "and no deeper than cooling that lags and the margin explain"


def test_the_end_of_a_ramp_is_a_step_of_its_own_although_the_caps_stay(tmp_path):
    """Who commands goes down a ramp by the second. Where he dies on it, nodes learn by that step that it is over."""
    begin = START + 12 * MINUTE
    with lab(tmp_path, lambda text: text.split("jobs:")[0]) as made:
        made.run(5 * MINUTE, step_s=10)
        made.facade.accept(order(begin, begin + 21 * MINUTE, ramp_in_s=60.0, ramp_out_s=120.0))
        made.run(6 * MINUTE, step_s=5)
        made.plan()
        now = made.clock.now()
        steps, _ = trajectory(made.ctx, made.state, made.state.plan, now)
        after = dict(steps)[(begin + MINUTE - now).total_seconds()]
        before = [orders for offset_s, orders in steps if offset_s < (begin + MINUTE - now).total_seconds()][-1]
        assert {pool: one.cap_w for pool, one in after.items()} == {pool: one.cap_w for pool, one in before.items()}


@pytest.mark.parametrize("ramp_out_s", [0.0, 300.0])
@pytest.mark.parametrize(("ramp", "most_kw"), [("up: 2", 2.6), ("up: 9000", 93.0)], ids=["site's ramp", "none"])
def test_after_an_event_the_site_rises_by_its_ramp_and_else_as_cards_are_given_back(
    tmp_path, ramp_out_s, ramp, most_kw
):
    """128 cards at 10 W a second and a PUE of 1.2 are 92 kW a minute. What cards draw beside their curves comes on top
    of the site's 2."""
    with lab(tmp_path, lambda text: text.split("jobs:")[0].replace("up: 10", ramp)) as made:
        made.run(12 * MINUTE, step_s=5)
        end = made.clock.now() + 10 * MINUTE
        made.facade.accept(order(made.clock.now(), end, ramp_in_s=60.0, ramp_out_s=ramp_out_s))
        made.run(5 * MINUTE, step_s=2)
        made.plan()
        made.run(5 * SECOND, step_s=1)
        start = made.clock.now()
        steps, _ = trajectory(made.ctx, made.state, made.state.plan, start)
        assert len(steps) < 60
        found, _ = alone(made, start, start + 15 * MINUTE, step_s=2)
        kw = [drawn for _, drawn in found]
        least = min(kw)
        assert max(b - a for a, b in zip(kw, kw[30:], strict=False)) <= most_kw
        assert max(b - a for a, b in pairwise(kw)) <= max(1.0, most_kw / 29), "and in no step of its own"
        assert kw[-1] > least + 3.0, "it does rise"


def test_an_interval_that_an_event_takes_a_part_of_is_free_in_the_rest(tmp_path):
    """The plan's whole interval keeps the cap of the part that is bound."""
    with lab(tmp_path, lambda text: text.split("jobs:")[0].replace("up: 10", "up: 9000")) as made:
        made.run(11 * MINUTE, step_s=5)
        made.facade.accept(
            order(made.clock.now(), made.clock.now() + MINUTE, ramp_in_s=10.0, ramp_out_s=60.0, rebound_s=0.0)
        )
        made.run(20 * SECOND, step_s=1)
        made.plan()
        now, plan = made.clock.now(), made.state.plan
        (event,) = made.ctx.ledger.active(now)
        over = event.end + timedelta(seconds=event.ramp_out_s)
        assert over + MINUTE < plan.grid.edges[1]
        assert plan.sites["lab"].import_kw[0] < plan.sites["lab"].import_kw[1] - 3.0
        steps, _ = trajectory(made.ctx, made.state, plan, now)
        free = [one for at_s, one in steps if at_s <= (plan.grid.edges[1] - now).total_seconds() - 1.0][-1]
        assert {pool: one.cap_w for pool, one in free.items()} == {
            pool: planned.cap_w[1] for pool, planned in plan.pools.items()
        }


def test_an_event_that_asks_for_nothing_moves_no_work_into_a_dear_interval(tmp_path):
    """Its cap is twice what is planned, for one minute of an interval that a price has made lower."""

    def dear(text):
        prices = {"value: 60": f"hours: {[60] * 15 + [4000] + [60] * 8}, timezone: America/Los_Angeles"}
        text = text.split("jobs:")[0].replace("type: constant, unit: USD/MWh", "type: profile, unit: USD/MWh")
        return text.replace("value: 60", prices["value: 60"]).replace("up: 10, down: 40", "up: 9000, down: 9000")

    with lab(tmp_path, dear) as made:
        made.run(57 * MINUTE, step_s=30)
        rises = START + 60 * MINUTE
        begin, end = rises + MINUTE, rises + 2 * MINUTE
        targets = (EventTarget(begin, end, limit_kw=95.0),)
        made.facade.accept(order(begin, end, targets=targets, ramp_in_s=0.0, ramp_out_s=0.0, rebound_s=0.0))
        made.plan()
        now, plan = made.clock.now(), made.state.plan
        index = plan.grid.index(rises)
        assert plan.sites["lab"].import_kw[index] < plan.sites["lab"].import_kw[index - 1] - 5.0
        steps, _ = trajectory(made.ctx, made.state, plan, now)
        caps = [one["train"].cap_w for at_s, one in steps if rises <= now + at_s * SECOND < rises + 5 * MINUTE]
        assert set(caps) == {plan.pools["train"].cap_w[index]}
