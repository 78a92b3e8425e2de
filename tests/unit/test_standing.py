"""A limit that binds outlives the daemon: at a stop, past the reach of a trajectory, and with clocks that stay."""

import json
from dataclasses import replace
from datetime import timedelta
from unittest.mock import Mock

import pytest

from adapters.ports import EventTarget
from optimizer.curves import draw_at_cap
from scheduler import stopping
from scheduler.agent.settings import AgentSettings
from scheduler.clocked import limits_of
from scheduler.letting_go import LEFT, left_at_stop, let_all_go
from scheduler.service import OperatorOrder
from scheduler.standing import HOLD, standing
from scheduler.stopping import end_in_order
from scheduler.takeover import reconcile
from scheduler.trajectory import LONGEST_RELEASE, trajectory
from tests.faults.test_clocks import clocks, light_lab
from tests.support.loops import lab, order
from tests.unit.test_stopping import Keeper, caps
from tests.unit.test_stopping import alone as with_agents
from tests.unit.test_trajectory import alone

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
LIMIT_KW = 36.0
WITHOUT_RAMP = ",\n     ramp_kw_per_min: {up: 10, down: 40}"


def hard(text):
    return text.replace("limit_kw: 100", f"limit_kw: {LIMIT_KW:g}")


def told(made, limit_kw=LIMIT_KW, until=None):
    made.facade.order(OperatorOrder("limit", site="lab", limit_kw=limit_kw, until=until, by="me"))


def limited(made, whose):
    """Under a limit that binds, in force for some minutes."""
    if whose == "operator":
        told(made)
    made.run(8 * MINUTE, step_s=5)
    assert made.hall.reading().import_kw["lab"] == pytest.approx(LIMIT_KW, rel=0.01)


def by(whose):
    return hard if whose == "site" else lambda text: text


@pytest.mark.parametrize("whose", ["site", "operator"])
@pytest.mark.parametrize("ramp", [True, False])
def test_nodes_alone_keep_a_limit_that_binds_for_a_day(tmp_path, whose, ramp):
    def change(text):
        return by(whose)(text if ramp else text.replace(WITHOUT_RAMP, ""))

    with lab(tmp_path, change) as made:
        limited(made, whose)
        now = made.clock.now()
        steps, until_s = trajectory(made.ctx, made.state, made.state.plan, now)
        assert HOLD.total_seconds() <= until_s <= (HOLD + HOUR).total_seconds()
        assert (HOLD + LONGEST_RELEASE).total_seconds() <= AgentSettings().longest_hold_s, "agents take it whole"
        assert len(steps) < 60
        caps_of_a_node = [[at, {f"GPU-{k:036}": orders["chat"].cap_w for k in range(8)}] for at, orders in steps]
        assert len(json.dumps(caps_of_a_node)) < 40_000
        found, _ = alone(made, now, now + 40 * MINUTE, step_s=20)
        assert max(kw for _, kw in found) <= LIMIT_KW
        ((_, last),) = [one for one in steps if 15 * 60 <= one[0] < HOLD.total_seconds()]
        full_kw = made.ctx.sites["lab"].other_it_kw
        for pool, one in last.items():
            model = made.ctx.pools[pool].pool
            full_kw += model.count * draw_at_cap(model.curve, one.cap_w) / 1000.0
        assert 0.9 * LIMIT_KW < 1.2 * full_kw <= LIMIT_KW, "though users come and every job may start"


def test_a_limit_above_all_that_the_site_can_draw_changes_nothing(tmp_path):
    """128 cards of 400 W and 2 kW beside them, at a PUE of 1.2, are 64 kW."""
    with lab(tmp_path, lambda text: text.replace("limit_kw: 100", "limit_kw: 66")) as made:
        made.run(6 * MINUTE, step_s=10)
        plan, now = made.state.plan, made.clock.now()
        steps, until_s = trajectory(made.ctx, made.state, plan, now)
        assert standing(made.ctx, made.state, "lab", now).limits == ()
        assert until_s < 30 * 60
        told(made, 1000.0)
        assert trajectory(made.ctx, made.state, plan, now) == (steps, until_s)


def test_an_operators_order_is_kept_to_its_own_end(tmp_path):
    with lab(tmp_path, lambda text: text.split("jobs:")[0]) as made:
        told(made, until=made.clock.now() + 3 * HOUR)
        made.run(6 * MINUTE, step_s=10)
        now = made.clock.now()
        steps, until_s = trajectory(made.ctx, made.state, made.state.plan, now)
        assert (3 * HOUR - 6 * MINUTE).total_seconds() <= until_s <= (3 * HOUR + 10 * MINUTE).total_seconds()
        assert {order.cap_w for order in steps[-1][1].values()} == {400}, "by the site's ramp"


@pytest.mark.parametrize("whose", ["site", "operator"])
def test_a_stop_leaves_a_limit_that_binds_to_the_agents_and_the_next_daemon_goes_on(tmp_path, whose):
    with lab(tmp_path, by(whose)) as made:
        agents, first = with_agents(made)
        limited(made, whose)
        ending = end_in_order(made.parts)
        assert "stopped under the limit of lab (36 kW): its agents keep the limit" in ending.left
        assert "`gridpace release` gives everything back at once" in ending.left
        made.clock.sleep(3)
        assert made.hall.reading().import_kw["lab"] <= LIMIT_KW
        _, until_s, lease = agents.told[-1]
        assert until_s >= HOLD.total_seconds()
        assert lease.expires_in_s < 0.1, "followed from now on"
        assert left_at_stop(made.ctx.store)
        assert made.ctx.store.all(LEFT)["stop"]["limits"] == ["lab"]
        made.ctx.dispatcher.writes = True
        reconcile(made.parts)
        assert not left_at_stop(made.ctx.store)
        ticks = made.run(3 * MINUTE)
        assert max(tick.import_kw["lab"] for tick in ticks) <= LIMIT_KW * 1.002, "without a jump"
        assert let_all_go(made.parts) == (), "which is what `gridpace release` does"
        assert caps(made) == first


@pytest.mark.parametrize(("cards", "kept"), [(32, True), (12, False)])
def test_held_jobs_are_let_go_under_a_limit_only_where_the_caps_alone_keep_it(tmp_path, cards, kept):
    """Of 32 cards of the batch pool some have no work now, of 12 none."""

    def change(text):
        return text.replace("count: 32, work: batch", f"count: {cards}, work: batch").replace("gpus: 16", "gpus: 12")

    with lab(tmp_path, change) as made:
        with_agents(made)
        parts = replace(made.parts, ctx=replace(made.ctx, jobs=Keeper(made.ctx.jobs, made.ctx.store)))
        told(made)
        made.run(8 * MINUTE, step_s=5)
        text = end_in_order(parts).left
        assert "under the limit of lab" in text
        assert ("jobs (1) stay held" in text) is kept
        assert bool(made.ctx.store.all("held_jobs")["slurm"]["jobs"]) is kept


def test_who_sets_limits_by_himself_gives_them_back_and_names_the_site(tmp_path, monkeypatch):
    with lab(tmp_path, hard) as made:
        first = caps(made)
        limited(made, "site")
        said = Mock()
        monkeypatch.setattr(stopping, "log", said)
        assert end_in_order(made.parts).left == ""
        assert caps(made) == first
        (text,), fields = said.warning.call_args
        assert text == "stopped under a limit: its site is free to rise above it"
        assert fields["site"] == "lab"


def light(made):
    """Chat on its clocks, an event in some minutes."""
    made.run(3 * MINUTE, step_s=2)
    assert made.ctx.clocks.levers.clocked
    begin = made.clock.now() + 6 * MINUTE
    target = EventTarget(begin, begin + 30 * MINUTE, limit_kw=24.0)
    made.facade.accept(order(begin, begin + 30 * MINUTE, targets=(target,), ramp_in_s=0.0, ramp_out_s=60.0))
    return begin


def follow(made, steps, start, at):
    """Nodes alone at a moment of what they were told, once power has settled."""
    (orders,) = [orders for offset_s, orders in steps if offset_s <= (at - start).total_seconds()][-1:]
    for pool, one in limits_of(made.ctx.pools, orders).items():
        made.hall.set_limits(dict.fromkeys(made.hall.gpus_of[pool], float(one.cap_w)))
    made.clock.sleep((at - made.clock.now()).total_seconds())
    return made.hall.reading().import_kw["lab"]


def test_others_make_up_for_a_pool_whose_clocks_nobody_moves_any_more(tmp_path):
    with light_lab(tmp_path) as made:
        begin = light(made)
        made.run(MINUTE)
        now = made.clock.now()
        steps, _ = trajectory(made.ctx, made.state, made.state.plan, now)
        assert clocks(made) == {1.0}
        assert follow(made, steps, now, begin + 5 * MINUTE) <= 24.0


def test_the_last_word_counts_on_clocks_that_are_locked(tmp_path):
    with light_lab(tmp_path) as made:
        begin = light(made)
        with_agents(made)
        made.run(begin + 3 * MINUTE - made.clock.now(), step_s=2)
        assert max(clocks(made)) < 1.0
        free, _ = trajectory(made.ctx, made.state, made.state.plan, made.clock.now())
        last, _ = trajectory(made.ctx, made.state, made.state.plan, made.clock.now(), last=True)
        assert (
            sum(one.cap_w for one in last[0][1].values())
            > sum(one.cap_w for pool, one in free[0][1].items() if pool != "chat") + last[0][1]["chat"].cap_w
        ), "so that others give no more than they must"
        before = made.hall.reading().import_kw["lab"]
        assert "in the middle of e1" in end_in_order(made.parts).left
        assert max(clocks(made)) < 1.0
        assert follow(made, last, made.clock.now(), made.clock.now() + 2 * MINUTE) <= 24.0
        assert before <= 24.05
