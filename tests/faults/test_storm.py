"""A short storm of random events and faults through the real loops, and a judge that is no friend of the loops.

The long one is `make storm`; what a failing case printed there is replayed by its seed and number, and becomes a test.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from adapters.ports import EventMessage, EventTarget
from benchmarks.storm import Size, hush, storm
from benchmarks.support.storm_judge import GRACE, Judge, lowest_cap_w
from benchmarks.support.storm_play import Player
from benchmarks.support.storm_script import FULL_KW, Deed, script
from benchmarks.support.storm_world import World
from scheduler import control

SEED = 7


@pytest.fixture(autouse=True)
def _quiet():
    hush()


@pytest.fixture
def world(tmp_path):
    calm = replace(script(SEED, 0, FULL_KW, 0, 0), odd_limits=False, load_noise=0.0)
    made = World(tmp_path, calm)
    yield made
    made.close()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("case", [0, 1])
def test_nothing_suffers_in_a_storm(case):
    ((played, found),) = storm(SEED, [case], Size(1, events=10, faults=5))
    told = "\n".join([str(played), *found.lines])
    assert found.bad == 0, told
    assert found.bound > 600, "there was something to keep"
    assert found.excused + found.unreachable < 0.5 * found.bound, "and it could mostly be kept"


@pytest.mark.timeout(300)
def test_the_judge_sees_a_loop_that_does_not_make_up_for_a_node_that_is_cut_off(monkeypatch, world):
    monkeypatch.setattr(control, "count_unreached", lambda *_: False)
    monkeypatch.setattr(control, "see_unreached", lambda *_: None)
    judge = Judge(world)
    for _ in range(60):
        world.second()
        judge.second()
    world.wires.cut.update({"n3", "n4"})
    judge.broke()
    world.operator_limit(18.0)
    for _ in range(20):
        world.second()
        judge.second()
    assert judge.found.above_limit > 5, judge.found


def test_the_judge_sees_broken_floors_caps_without_a_lease_and_limits_that_are_kept(world):
    judge = Judge(world)
    chat = world.hall.gpus_of["chat"][0]
    pool = world.models["chat"].pool
    world.hall.set_limits({chat: lowest_cap_w(pool, floored=True) - 10})
    world.view.touched()
    judge.second()
    assert judge.found.floors == 1
    assert judge.found.past_lease == 1
    judge.restored()
    assert judge.found.not_restored == 1


def test_the_judge_asks_that_a_limit_out_of_reach_is_told(world, monkeypatch):
    found = []
    for silent in (False, True):
        if silent:
            monkeypatch.setattr(control, "shortfalls", lambda *_: ())
        judge = Judge(world)
        world.operator_limit(5.0)
        for _ in range(60):
            world.second()
            judge.second()
        assert judge.found.unreachable > 20
        found.append(judge.found)
    assert [one.untold > 0 for one in found] == [False, True]
    assert found[1].bad == found[1].untold


def under_event(world, limit_kw, seconds):
    """An event that has been kept for a minute when the daemon is killed, and what its site draws then."""
    begin = world.clock.now() + timedelta(seconds=5)
    end = begin + timedelta(seconds=seconds)
    event = EventMessage("e1", 1, "lab", begin, end, (EventTarget(begin, end, limit_kw=limit_kw),), program="grid",
                         source="test", ramp_in_s=0.0, ramp_out_s=0.0, rebound_s=0.0)  # fmt: skip
    assert world.tell(event) == "in"
    for _ in range(65):
        world.second()
    world.kill()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("broken", [False, True])
def test_the_judge_sees_nodes_that_give_everything_back_at_once_over_a_dead_daemon(monkeypatch, world, broken):
    if broken:
        at_once = lambda _ctx, _state, _site, spans, _events: ((span[0], orders) for span, orders in spans)  # noqa: E731
        monkeypatch.setattr("scheduler.trajectory.climbed", at_once)
    judge = Judge(world)
    under_event(world, 13.0, 120)
    drawn_kw = world.hall.reading().import_kw["lab"]
    found = more(world, judge, "too_fast", 300)
    assert world.hall.reading().import_kw["lab"] > drawn_kw + 4.0, "there was something to give back"
    assert (found > 10) if broken else (found == 0)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("broken", [False, True])
def test_what_nodes_give_back_where_no_event_ends_comes_by_the_ramp_of_their_site(monkeypatch, world, broken):
    """Their agents know of no site, and give ten watts a second back, each card. (After a day; here after minutes.)"""
    monkeypatch.setattr("scheduler.standing.HOLD", timedelta(minutes=15))
    if broken:
        monkeypatch.setattr("scheduler.trajectory.ramped", lambda _ctx: False)
    judge = Judge(world)
    world.operator_limit(13.0)
    assert more(world, judge, "too_fast", 60) == 0
    judge.remember()
    world.kill()
    held_kw = world.hall.reading().import_kw["lab"]
    found = more(world, judge, "too_fast", 960)
    assert world.hall.reading().import_kw["lab"] > held_kw + 4.0, "there was something to give back"
    assert {node.core.status()["phase"] for node in world.nodes} == {"free"}
    assert (found > 5) if broken else (found == 0)


@pytest.mark.timeout(300)
def test_the_judge_asks_of_no_ramp_what_load_does_and_of_no_daemon_to_wait_with_a_floor(world):
    judge = Judge(world)
    infos = world.view.infos()
    idle = {gpu: replace(info, utilisation=0.0, limit_w=200.0) for gpu, info in infos.items()}
    ramp = judge._ramp
    ramp.see(10.0, idle)
    assert ramp.risen_kw(20.0, {gpu: replace(info, limit_w=200.0) for gpu, info in infos.items()}, set()) == 0.0
    busy = {gpu: replace(info, utilisation=1.0, limit_w=400.0) for gpu, info in infos.items()}
    over_kw = ramp.risen_kw(30.0, busy, set())
    assert over_kw > 1.0
    assert ramp.risen_kw(30.0, busy, set(infos)) == 0.0, "others write to these"
    chat = set(world.hall.gpus_of["chat"])
    floor_w = lowest_cap_w(world.models["chat"].pool, floored=True)
    assert floor_w > 200.0
    low = {gpu: replace(info, limit_w=floor_w if gpu in chat else 200.0) for gpu, info in busy.items()}
    assert ramp.risen_kw(30.0, low, set()) == 0.0
    ramp.see(10.0, {})
    assert ramp.risen_kw(30.0, busy, set()) == 0.0, "these were away"


@pytest.mark.timeout(300)
def test_the_judge_counts_no_rise_from_a_second_in_which_something_broke_but_from_those_before(world):
    judge, ramp = Judge(world), Judge(world)._ramp
    busy = {gpu: replace(info, utilisation=1.0) for gpu, info in world.view.infos().items()}
    low, high = ({gpu: replace(info, limit_w=watts) for gpu, info in busy.items()} for watts in (200.0, 400.0))
    ramp.see(10.0, low, broken=True)
    assert ramp.risen_kw(20.0, high, judge.foreign) == 0.0
    ramp.see(10.0, low)
    ramp.see(10.0, low, broken=True)
    assert ramp.risen_kw(20.0, high, judge.foreign) > 5.0


def test_an_event_that_is_withdrawn_later_may_not_be_lost_before(world):
    judge, now = Judge(world), world.clock.now()
    end = now + timedelta(seconds=300)
    event = EventMessage("e1", 1, "lab", now, end, (EventTarget(now, end, limit_kw=15.0),), program="grid",
                         source="test", ramp_in_s=0.0, ramp_out_s=0.0, rebound_s=0.0)  # fmt: skip
    withdrawal = replace(event, cancelled=True, targets=())
    world.script = replace(world.script, deeds=(Deed(200, "withdraw", message=withdrawal),))
    judge.acknowledged(event, "in")
    assert judge.found.lost == 1, "it is in no book, and nobody has withdrawn it yet"
    judge.acknowledged(withdrawal, "out")
    judge.acknowledged(event, "in")
    assert judge.found.lost == 1


def more(world, judge, figure, seconds):
    """By how much a figure of the judge's rises in so many seconds."""
    before = getattr(judge.found, figure)
    for _ in range(seconds):
        world.second()
        judge.second()
    return getattr(judge.found, figure) - before


@pytest.mark.timeout(300)
def test_the_judge_lets_a_node_go_below_its_floor_that_did_not_hear_of_the_end_of_an_emergency(world):
    """And no other node, and that one no longer than the emergency was to last when it heard of it last."""
    judge = Judge(world)

    def live(seconds):
        return more(world, judge, "floors", seconds)

    def lower(node):
        world.hall.set_limits({world.nodes[node].cards.gpus[0]: lowest_cap_w(train, floored=True) - 20})
        world.view.touched()

    train = world.models["train"].pool
    begin, end, later = (world.clock.now() + timedelta(seconds=seconds) for seconds in (0, 30, 60))
    first = EventMessage("e1", 1, "lab", begin, later, (EventTarget(begin, later, limit_kw=11.0),), emergency=True,
                         program="emergency", source="test", ramp_in_s=0.0, ramp_out_s=0.0, rebound_s=0.0)  # fmt: skip
    shorter = replace(first, version=2, end=end, targets=(replace(first.targets[0], end=end),))
    assert world.tell(first) == "in"
    live(5)
    assert world.tell(shorter) == "in"
    live(5)
    deep = {gpu for gpu, info in world.view.infos().items() if info.limit_w < lowest_cap_w(train, floored=True) - 2}
    assert deep >= {*world.nodes[3].cards.gpus, *world.nodes[4].cards.gpus}, "the emergency goes below floors"
    world.wires.cut.add("n3")
    live(2)
    world.tell(replace(shorter, version=3, emergency=False))
    world.second()
    others = world.nodes[4].cards.gpus[0]
    limit_w = world.view.infos()[others].limit_w
    lower(4)
    judge.second()
    assert judge.found.floors == 1, "who is heard knows in the very second that it is none any more"
    judge.found.floors = 0
    world.hall.set_limits({others: limit_w})
    world.view.touched()
    world.tell(replace(shorter, version=4, cancelled=True, targets=()))
    assert live(10) == 0, "n3 can't know"
    assert world.view.infos()[world.nodes[3].cards.gpus[0]].limit_w < lowest_cap_w(train, floored=True) - 2
    lower(4)
    judge.second()
    assert judge.found.floors == 1, "n4 does"
    live(15)
    before = judge.found.floors
    lower(3)
    judge.second()
    assert judge.found.floors == before + 1, "it would be over by now, by all that n3 has heard"


def emergency(world, seconds):
    """An order that allows to go below floors, for so long from now."""
    begin, end = world.clock.now(), world.clock.now() + timedelta(seconds=seconds)
    target = EventTarget(begin, end, limit_kw=11.0)
    message = EventMessage("e1", 1, "lab", begin, end, (target,), emergency=True, program="emergency", source="test",
                           ramp_in_s=0.0, ramp_out_s=0.0, rebound_s=0.0)  # fmt: skip
    assert world.tell(message) == "in"


@pytest.mark.timeout(300)
def test_the_judge_asks_no_card_to_be_raised_while_its_agent_is_dead(world):
    judge, train = Judge(world), world.models["train"].pool
    emergency(world, 20)
    more(world, judge, "floors", 10)
    world.nodes[3].kill()
    assert more(world, judge, "floors", 40) == 0
    floor_w = lowest_cap_w(train, floored=True)
    assert world.view.infos()[world.nodes[3].cards.gpus[0]].limit_w < floor_w - 2, "as it was when its agent died"
    world.hall.set_limits({world.nodes[4].cards.gpus[0]: floor_w - 20})
    world.view.touched()
    judge.second()
    assert judge.found.floors == 1, "n4 has an agent"
    world.nodes[3].start()
    judge.found.floors = 0
    more(world, judge, "floors", 10)
    world.hall.set_limits({world.nodes[3].cards.gpus[0]: floor_w - 20})
    world.view.touched()
    judge.second()
    assert judge.found.floors >= 1, "n3 has one again"


@pytest.mark.timeout(300)
def test_the_judge_lets_a_node_that_just_came_back_do_what_is_allowed_now(world):
    judge, train = Judge(world), world.models["train"].pool
    world.nodes[3].kill()
    more(world, judge, "floors", 5)
    emergency(world, 60)
    more(world, judge, "floors", 10)
    world.nodes[3].start()
    world.hall.set_limits({world.nodes[3].cards.gpus[0]: lowest_cap_w(train, floored=True) - 20})
    world.view.touched()
    judge.second()
    assert judge.found.floors == 0, "the emergency began while its agent was dead"


@pytest.mark.timeout(300)
def test_the_judge_asks_for_all_that_can_be_shed_where_a_limit_is_out_of_reach(world):
    judge = Judge(world)
    world.operator_limit(3.0)
    assert more(world, judge, "above_limit", 30) == 0
    assert judge.found.unreachable > 20, "nobody could keep it"
    world.hall.set_limits({world.hall.gpus_of["train"][0]: 400.0})
    world.view.touched()
    assert more(world, judge, "above_limit", 1) == 1, "one card that could draw less"


@pytest.mark.timeout(300)
def test_power_that_comes_back_to_a_dead_daemon_excuses_no_more_than_itself_and_no_longer_than_a_lease(world):
    """A machine boots while nobody is there; the others hold what was ordered, and one of them then goes beyond it."""
    judge = Judge(world)

    def live(seconds):
        return more(world, judge, "above_limit", seconds)

    world.operator_limit(14.5)
    live(60)
    node = world.nodes[3]
    node.crash()
    judge.broke()
    live(10)
    judge.remember()
    world.kill()
    node.boot()
    judge.returned(node.cards.gpus)
    judge.broke()
    world.view.touched()
    assert live(10) == 0, "the cards that came back draw more than the site has left, and nobody could know"
    assert judge.found.excused > 5
    lasting, judge._leases_end_at = judge._leases_end_at, world.clock.now() - GRACE
    assert live(2) > 0, "once the leases are over the others should have made room"
    judge._leases_end_at = lasting
    raised = [gpu for pool in ("chat", "train") for gpu in world.hall.gpus_of[pool] if gpu not in node.cards.gpus]
    world.hall.set_limits(dict.fromkeys(raised, 400.0))
    world.view.touched()
    assert live(5) > 0, "that is more than they draw"


@pytest.mark.timeout(300)
def test_a_board_that_lifts_its_limit_over_a_dead_daemon_excuses_what_its_cards_draw_more_and_nothing_else(world):
    played = Player(world, Judge(world))
    judge, lower = played.judge, Deed(0, "lower", 0, 60)

    def live(seconds):
        return more(world, judge, "above_limit", seconds)

    played.do(lower)
    world.operator_limit(14.5)
    live(60)
    played.do_kill_daemon(lower)
    live(1)
    played.mend(lower)
    assert live(8) == 0, "three cards draw more than when the last orders were given, and nobody could know"
    assert judge.found.excused > 5
    world.hall.set_limits(dict.fromkeys(world.hall.gpus_of["train"][:3], 400.0))
    world.view.touched()
    assert live(1) == 1, "that is more than they draw more"


@pytest.mark.timeout(300)
def test_a_node_that_is_away_costs_the_site_no_power_beyond_its_own(tmp_path):
    """Its cards count with the pool's cap where that rises, in the same second and not in the next: else the cap goes
    up and down, and the site stays three points below its limit."""
    world = World(tmp_path, replace(script(SEED, 0, FULL_KW, 0, 0), odd_limits=False, load_noise=0.003))
    try:
        for _ in range(10):
            world.second()
        world.operator_limit(15.5)
        for _ in range(60):
            world.second()
        world.wires.cut.add("n3")
        for _ in range(60):
            world.second()
        before = world.hall.counters().import_kwh["lab"]
        for _ in range(200):
            world.second()
        mean_kw = (world.hall.counters().import_kwh["lab"] - before) * 3600.0 / 200.0
        assert 0.98 * 15.5 < mean_kw < 15.5
    finally:
        world.close()
