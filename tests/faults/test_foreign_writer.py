"""Another program writes limits too: put right when it was an accident, left to it when it insists; nothing is lost.

Over every kind of hardware: the real `pynvml` against the fake library (the daemon alone, over the agent, and over the
fleet's bus), AMD SMI, zeusd and management controllers; and the loops on the simulated hall.
"""

import time
from datetime import UTC, datetime, timedelta

import pytest

from adapters.power.agent import AgentPower
from adapters.power.fleet import FleetPower
from optimizer.reasons import Reason, Severity
from scheduler.agent.core import AgentCore
from scheduler.capwatch import CapWatch, DriftRules
from scheduler.dispatch import Dispatcher
from scheduler.orders import PoolOrder
from scheduler.safety import floor_cap_w
from scheduler.service import OperatorOrder
from scheduler.store.store import Store
from tests.support.loops import lab
from tests.support.power_worlds import power_world, wait_until

NOW = datetime(2022, 9, 6, 21, tzinfo=UTC)
RULES = DriftRules(reassert=3, quiet_s=600.0)
ORDERS = {"chat": PoolOrder(300, 8)}


class Site:
    """A dispatcher over eight cards, all found at 650 W, what it said, and another program that `insists` on limits."""

    def __init__(self, world):
        self.world, self.gpus, self.books = world, list(world.gpus), Store.in_memory()
        self.insists = {}
        for gpu in self.gpus:
            world.write(gpu, 650.0)
        self.hand = Dispatcher(
            self.books,
            world.actuator,
            {"chat": tuple(self.gpus)},
            writes=True,
            epoch=1,
            lease_s=60.0,
            watch=CapWatch(RULES),
        )
        self.said = []
        self.turn()
        assert set(world.truth().values()) == {300.0}

    def turn(self, orders=None):
        """One tick: look, then order; the notes of it."""
        for gpu, watts in self.insists.items():
            self.world.write(gpu, watts)
        notes = self.hand.look(NOW) + self.hand.apply(orders or ORDERS, 60.0, NOW).notes
        self.said.extend(notes)
        return notes

    def until(self, true):
        """Turns until something holds."""
        wait_until(lambda: self.turn() is not None and true())

    def codes(self):
        return {note.code for note in self.said}


@pytest.fixture(params=["simulated", "nvml", "agent", "fleet", "amdsmi", "zeusd", "redfish"])
def made(request, tmp_path, monkeypatch):
    with power_world(request.param, tmp_path, monkeypatch, drift=RULES) as world:
        yield Site(world)


def test_a_writer_that_writes_once_is_put_right_and_told_of(made):
    made.turn()
    made.world.write(made.gpus[2], 700.0)
    made.until(lambda: made.world.truth()[made.gpus[2]] == 300.0 and Reason.CAP_DRIFT in made.codes())
    assert made.hand.yielded() == {}
    assert Reason.CAP_YIELDED not in made.codes()
    assert made.turn() == (), "and then it is quiet"


@pytest.mark.parametrize("made", ["simulated", "nvml", "amdsmi", "zeusd", "redfish"], indirect=True)
def test_a_daemon_that_drives_cards_itself_sees_it_in_the_next_tick(made):
    made.turn()
    time.sleep(0.6)  # longer than any reading here is kept
    made.world.write(made.gpus[2], 700.0)
    note, *_ = made.turn()
    assert note.code is Reason.CAP_DRIFT
    assert f"({made.gpus[2]} is at 700 W); written again" in note.text
    assert set(made.world.truth().values()) == {300.0}


def reload_driver(made):
    """Every card comes up at its own limit."""
    if made.world.fake is not None:
        made.world.fake.reload_driver()
    else:
        for gpu in made.gpus:
            made.world.write(gpu, 700.0)


def after_the_next_tick(made, monkeypatch, happens):
    """The limits when something happened right before one tick of whoever watches the cards: the agent, if there is
    one, else the daemon, which tells of it."""
    if not isinstance(made.world.actuator, AgentPower | FleetPower):
        time.sleep(0.6)  # longer than any reading here is kept
        happens(made)
        assert Reason.CAP_DRIFT in {note.code for note in made.turn()}
        return made.world.truth()
    seen, tick = [], AgentCore.tick

    def watched(core):
        if seen:
            return tick(core)
        happens(made)
        said = tick(core)
        seen.append(made.world.truth())
        return said

    monkeypatch.setattr(AgentCore, "tick", watched)
    wait_until(lambda: seen)
    return seen[0]


def test_a_driver_reload_costs_one_tick_and_no_restore_value(made, monkeypatch):
    made.turn()
    assert set(after_the_next_tick(made, monkeypatch, reload_driver).values()) == {300.0}
    made.turn()
    assert made.hand.yielded() == {}
    assert made.books.first_limits() == dict.fromkeys(made.gpus, 650.0)
    assert made.hand.release(NOW) == ()
    assert set(made.world.truth().values()) == {650.0}


def test_a_writer_that_insists_gets_the_gpu_and_is_an_alert(made):
    bad = made.gpus[5]
    made.insists[bad] = 700.0
    made.until(made.hand.yielded)
    assert made.hand.yielded() == {"chat": {bad: 700.0}}
    (alert,) = [note for note in made.turn() if note.code is Reason.CAP_YIELDED]
    assert (alert.subject, alert.severity) == ("chat", Severity.ALERT)
    assert bad in alert.text
    writes = made.world.writes(bad)
    assert writes in {0, 1 + RULES.reassert}, "0: the simulated hall counts none"
    for cap in (310, 290, 305):
        made.turn({"chat": PoolOrder(cap, 8)})
        time.sleep(0.05)
    assert made.world.writes(bad) == writes, "left alone, whatever is ordered"
    assert made.world.truth()[bad] == 700.0
    assert {watts for gpu, watts in made.world.truth().items() if gpu != bad} == {305.0}
    assert made.books.first_limits()[bad] == 650.0, "its way back is kept"


def test_a_yielded_gpu_is_given_back_once_and_never_raised(made):
    high, low = made.gpus[0], made.gpus[1]
    made.insists |= {high: 700.0, low: 700.0}
    made.until(lambda: len(made.hand.yielded().get("chat", ())) == 2)
    made.world.write(low, 420.0)
    time.sleep(0.12)  # the controller's last reading is old by then
    assert made.hand.release(NOW) == ()
    limits = made.world.truth()
    assert limits[high] == 650.0, "lowered to what was found"
    assert limits[low] == 420.0, "not raised over its owner"
    assert made.books.first_limits() == {}


def test_a_yielded_gpu_that_could_not_be_given_back_is_not_raised_over_its_owner_later(made, monkeypatch):
    low, actuator = made.gpus[1], made.world.actuator
    made.insists[low] = 420.0
    made.until(made.hand.yielded)
    release = actuator.release
    monkeypatch.setattr(
        actuator, "release", lambda limits: release({gpu: watts for gpu, watts in limits.items() if gpu != low})
    )
    time.sleep(0.12)  # the controller's last reading is old by then
    assert [note.severity for note in made.hand.release(NOW)] == [Severity.ALERT]
    assert set(made.books.first_limits()) == {low}
    monkeypatch.undo()
    made.insists.clear()
    for _ in range(3):  # the operator resumes
        made.turn()
    assert made.world.truth()[low] == 420.0
    time.sleep(0.12)
    assert made.hand.release(NOW) == ()
    assert made.world.truth()[low] == 420.0


def test_an_operator_takes_a_gpu_back(made):
    bad = made.gpus[3]
    made.insists[bad] = 700.0
    made.until(made.hand.yielded)
    made.insists.clear()
    made.hand.take_back()
    made.until(lambda: made.world.truth()[bad] == 300.0 and not made.hand.yielded())


# ---------------------------------------------------------------- the loops, on the simulated hall
def insist(made, gpus):
    """A program that sets these GPUs to 400 W before every tick."""
    return lambda _tick: made.hall.set_limits(dict.fromkeys(gpus, 400.0))


def test_the_site_keeps_its_limit_though_some_gpus_belong_to_somebody_else(tmp_path):
    with lab(tmp_path) as made:
        made.run(timedelta(minutes=2), step_s=2)
        made.facade.order(OperatorOrder("limit", site="lab", limit_kw=36.0, by="me"))
        made.run(timedelta(seconds=30))
        before = made.state.orders["train"].cap_w
        assert before < 300
        theirs = made.hall.gpus_of["train"][:8]
        ticks = made.run(timedelta(minutes=4), watch=insist(made, theirs))
        assert ticks[-1].yielded_gpus == {"train": 8}
        assert max(tick.import_kw["lab"] for tick in ticks[20:]) <= 36.0 + 0.05, "counted as what they draw"
        assert made.state.orders["train"].cap_w <= before or made.state.orders["chat"].cap_w < 400
        for name in ("chat", "train"):
            assert made.state.orders[name].cap_w >= floor_cap_w(made.ctx.pools.configured[name].pool)
        alert = next(note for note in ticks[-1].notes if note.code is Reason.CAP_YIELDED)
        assert "8 GPUs of train" in alert.text
        made.plan()
        pool = next(pool for pool in made.state.report.pools if pool.id == "train")
        assert pool.yielded == 8
        assert any(note.code is Reason.CAP_YIELDED for note in made.state.report.notes)
        assert "have another writer" in made.facade.explain("train")


def test_when_the_other_program_ends_resume_takes_its_gpus_back(tmp_path):
    with lab(tmp_path) as made:
        made.run(timedelta(minutes=2), step_s=2)
        made.facade.order(OperatorOrder("limit", site="lab", limit_kw=36.0, by="me"))
        theirs = made.hall.gpus_of["train"][:4]
        made.run(timedelta(minutes=1), watch=insist(made, theirs))
        assert made.state.tick.yielded_gpus == {"train": 4}
        made.facade.order(OperatorOrder("resume", by="me"))
        ticks = made.run(timedelta(seconds=5))
        assert ticks[-1].yielded_gpus == {}
        caps = {made.hall.infos()[gpu].limit_w for gpu in made.hall.gpus_of["train"]}
        assert caps == {made.state.orders["train"].cap_w}


def test_left_alone_they_come_back_by_themselves(tmp_path):
    with lab(tmp_path, lambda text: text + "drift: {quiet: 2m}\n") as made:
        made.run(timedelta(minutes=2), step_s=2)
        made.facade.order(OperatorOrder("limit", site="lab", limit_kw=36.0, by="me"))
        theirs = made.hall.gpus_of["train"][:4]
        made.run(timedelta(minutes=1), watch=insist(made, theirs))
        assert made.state.tick.yielded_gpus == {"train": 4}
        made.run(timedelta(seconds=40))
        assert made.state.tick.yielded_gpus == {"train": 4}, "not before the quiet time is over"
        ticks = made.run(timedelta(seconds=60))
        assert ticks[-1].yielded_gpus == {}
        assert {made.hall.infos()[gpu].limit_w for gpu in theirs} == {made.state.orders["train"].cap_w}
