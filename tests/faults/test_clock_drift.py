"""Another program that sets locked clocks free: locked again, told of, and left to it when it insists."""

import time
from datetime import timedelta

import pytest

from adapters.hall_state import MAX_MHZ
from adapters.ports import AdapterError, Lease
from optimizer.reasons import Reason, Severity
from scheduler.agent.core import AgentCore, AgentSettings
from scheduler.agent.state import AgentFiles
from scheduler.capwatch import DriftRules
from scheduler.clock_hand import ASSERT_S, ClockHand
from scheduler.clockwatch import SETTLE_S, ClockWatch
from scheduler.levers import Clocked, Levers
from scheduler.service import OperatorOrder
from scheduler.store.store import Store
from tests.faults.test_clocks import clocks, light_lab, limit
from tests.support.loops import START
from tests.support.power_worlds import power_world, wait_until
from tests.unit.test_agent_core import Node

RULES = DriftRules(reassert=3, quiet_s=300.0)
LOCK = 1200


class Clock:
    """Seconds that the test turns on."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


class Daemon:
    """The daemon's hand on the clocks of eight fake cards, in one pool."""

    def __init__(self, world):
        self.world, self.clock, self.said, self.number = world, Clock(), [], 0
        levers = Levers({"chat": (210, MAX_MHZ)}, {"chat": Clocked(210, MAX_MHZ, 300.0)})
        gpus = {"chat": tuple(world.gpus)}
        self.hand = ClockHand(Store.in_memory(), world.actuator, gpus, levers, self.lease, self.clock.monotonic)
        self.hand.watch = ClockWatch(RULES)
        self.turn()

    def lease(self, seconds):
        self.number += 1
        return Lease(1, self.number, seconds)

    def turn(self, seconds=2.0, wanted=LOCK):
        self.clock.now += seconds
        notes = self.hand.apply({"chat": wanted} if wanted else {}, 3600.0, START)
        self.said.extend(notes)
        return {note.code for note in notes}

    def locked(self):
        return [self.world.fake.state(k)["locked_mhz"] for k in range(8)]

    def free(self, card=0, mhz=0):
        """What `nvidia-smi -rgc` does, or `-lgc` of somebody else."""
        self.world.fake.set(card, locked_mhz=mhz)


@pytest.fixture
def daemon(tmp_path, monkeypatch):
    with power_world("nvml", tmp_path, monkeypatch) as world:
        world.actuator.discover()
        yield Daemon(world)


def test_a_clock_that_somebody_freed_is_locked_again_within_a_tick_and_told(daemon):
    assert daemon.locked() == [LOCK] * 8
    daemon.free(2)
    assert daemon.turn(SETTLE_S / 2) == set(), "just ordered: a card may be on its way"
    assert daemon.turn() == {Reason.CAP_DRIFT}
    assert daemon.locked() == [LOCK] * 8
    assert "at 1980 MHz, locked to 1200 MHz" in daemon.said[-1].text
    daemon.free(3, LOCK - 300)
    assert daemon.turn() == set(), "a lower clock is never fought, and can't be told from an idle card's"


def test_a_card_that_does_not_take_its_lock_again_is_an_alert_and_is_tried_with_the_next_assertion(daemon):
    daemon.free(2)
    daemon.free(4)
    daemon.world.fake.set(2, no_permission=1)
    assert daemon.turn() == {Reason.CAP_DRIFT, Reason.CLOCK_REFUSED}
    drifted, refused = daemon.said
    assert drifted.text.startswith("1 GPUs ran above"), "the other one"
    assert refused.severity is Severity.ALERT
    assert refused.text.startswith("1 of 2 GPUs did not take")
    assert daemon.world.gpus[2] in refused.text
    assert daemon.locked() == [LOCK, LOCK, 0, *[LOCK] * 5]
    daemon.world.fake.set(2, no_permission=0)
    assert daemon.turn(ASSERT_S) == set()
    assert daemon.locked() == [LOCK] * 8


def test_who_insists_gets_the_clock_and_is_an_alert_and_has_it_still_when_we_leave(daemon):
    for _ in range(3):
        daemon.free(0, 1700)
        assert daemon.turn() == {Reason.CAP_DRIFT}
        assert daemon.locked()[0] == LOCK
    daemon.free(0, 1700)
    assert daemon.turn() == {Reason.CAP_YIELDED}
    assert daemon.said[-1].severity is Severity.ALERT
    for _ in range(40):  # through more than one time of asserting all locks anew
        assert daemon.turn() == {Reason.CAP_YIELDED}
    assert daemon.locked() == [1700, *[LOCK] * 7]
    daemon.turn(wanted=1000)
    assert daemon.locked() == [1700, *[1000] * 7]
    assert daemon.hand.release(START) == ()
    assert daemon.locked() == [1700, *[0] * 7], "the lock that is there is not ours"
    assert not daemon.hand.records.all("locked_clocks")["chat"]["mhz"]


def test_a_clock_that_was_left_alone_comes_back_after_the_quiet_time_and_by_an_operators_word_at_once(daemon):
    for _ in range(4):
        daemon.free(0)
        daemon.turn()
    assert daemon.locked()[0] == 0
    daemon.turn(RULES.quiet_s)
    assert daemon.locked()[0] == LOCK
    daemon.free(0)
    assert daemon.turn() == {Reason.CAP_YIELDED}, "on probation"
    daemon.hand.take_back()
    daemon.turn()
    assert daemon.locked()[0] == LOCK


def test_a_yielded_card_on_which_nothing_runs_above_our_lock_is_let_go_like_the_others(daemon):
    for _ in range(4):
        daemon.free(0, 1700)
        daemon.turn()
    daemon.free(0, LOCK)  # ours may still be there
    assert daemon.hand.release(START) == ()
    assert daemon.locked() == [0] * 8


@pytest.mark.parametrize("through", ["agent", "fleet"])
def test_agents_see_to_it_themselves_and_tell_the_daemon(tmp_path, monkeypatch, through):
    with power_world(through, tmp_path, monkeypatch) as world:
        world.actuator.discover()
        daemon = Daemon(world)
        assert daemon.locked() == [LOCK] * 8
        for _ in range(3 * AgentSettings().drift.reassert):  # one may fall between a look and the lock that follows it
            if not _told(world):
                time.sleep(1.2 * SETTLE_S)  # a fresh order is not judged
                daemon.free(5)
                wait_until(lambda: daemon.locked()[5] == LOCK or _told(world))
        wait_until(lambda: set(world.actuator.contested().yielded_mhz) == {world.gpus[5]})
        assert daemon.hand._lock({"chat": LOCK}, 60.0, START) == (), "an agent that yields has not refused"
        assert daemon.turn() == {Reason.CAP_YIELDED}
        assert daemon.turn(60.0) == {Reason.CAP_YIELDED}
        assert daemon.locked() == [LOCK] * 5 + [0] + [LOCK] * 2
        assert world.actuator.contested().reasserted == AgentSettings().drift.reassert
        daemon.hand.take_back()
        wait_until(lambda: daemon.turn() == set() and daemon.locked()[5] == LOCK)
        assert daemon.hand.release(START) == ()
        assert daemon.locked() == [0] * 8


def _told(world):
    return bool(world.actuator.contested().yielded_mhz)


class ClockNode(Node):
    def restart(self):
        settings = AgentSettings(tick_s=1.0, drift=RULES)
        self.core = AgentCore(self.power, AgentFiles(self.folder), settings, self.clock.monotonic)

    def clocks(self):
        return {round(share * MAX_MHZ) for share in self.hall._gpus.clock.tolist()}


def test_a_site_keeps_its_limit_and_says_whose_clocks_are_not_its_own(tmp_path):
    with light_lab(tmp_path) as made:
        made.run(timedelta(seconds=60), step_s=2)
        limit(made, 24.0)
        made.run(timedelta(seconds=30))
        theirs = made.hall.gpus_of["chat"][:4]
        kw = []
        for _ in range(20):
            made.hall.set_clocks(dict.fromkeys(theirs, MAX_MHZ))
            tick = made.run(timedelta(seconds=1))[-1]
            kw.append(tick.import_kw["lab"])
        assert max(kw[10:]) <= 24.0 * 1.005, "the others make up for it"
        assert tick.yielded_gpus == {"chat": 4}
        assert any(note.code is Reason.CAP_YIELDED and "clocks of 4 GPUs" in note.text for note in tick.notes)
        assert "clocks of 4 of its GPUs are left to another writer" in made.facade.explain("chat")
        made.facade.order(OperatorOrder("resume", by="me"))
        made.run(timedelta(seconds=3))
        assert made.state.tick.yielded_gpus == {}
        assert clocks(made) == {round(made.state.tick.clock_mhz["chat"] / MAX_MHZ, 4)}


def test_an_agent_ramps_free_what_is_its_own_and_ends_with_what_is_not(tmp_path):
    node = ClockNode(tmp_path)
    node.restart()
    node.core.lock(dict.fromkeys(node.gpus, LOCK), Lease(1, 1, 30.0))
    for _ in range(5):
        node.live(2)
        node.power.unlock(node.gpus[:1])
    node.live(2)
    assert set(node.core.status()["yielded_mhz"]) == {node.gpus[0]}
    node.live(60)
    assert node.clocks() == {MAX_MHZ}
    assert node.core.status()["phase"] == "free"
    assert not node.core.outstanding


def test_clocks_that_were_left_to_another_writer_stay_so_when_the_agent_restarts(tmp_path):
    node = ClockNode(tmp_path)
    node.restart()
    node.core.lock(dict.fromkeys(node.gpus, LOCK), Lease(1, 1, 600.0))
    for _ in range(5):
        node.live(2)
        node.power.unlock(node.gpus[:1])
    node.live(2)
    left = node.core.status()["yielded_mhz"]
    assert left.keys() == {node.gpus[0]}
    node.restart()
    assert node.core.status()["yielded_mhz"] == left
    node.live(20)
    assert node.clocks() == {LOCK, MAX_MHZ}, "nobody locks it again"
    node.live(300)
    assert node.clocks() == {LOCK}, "but after the quiet time"
    node.restart()
    assert node.core.status()["yielded_mhz"] == {}


@pytest.mark.parametrize("way", ["ramp", "unlock"])
def test_an_agent_that_restarts_takes_away_no_lock_of_another_writer(tmp_path, way):
    node, theirs = ClockNode(tmp_path), 1600
    node.restart()
    node.core.lock(dict.fromkeys(node.gpus, LOCK), Lease(1, 1, 60.0))
    for _ in range(5):
        node.live(2)
        node.hall.set_clocks({node.gpus[0]: theirs})
    node.live(2)
    assert set(node.core.status()["yielded_mhz"]) == {node.gpus[0]}
    if way == "ramp":
        node.clock.sleep(100)
    node.restart()
    if way == "unlock":
        node.core.unlock(node.gpus, 1)
    node.live(100)
    assert node.clocks() == {theirs, MAX_MHZ}
    assert not node.core.outstanding


def test_who_speaks_again_in_the_middle_of_a_ramp_finds_no_other_writer(tmp_path):
    node = ClockNode(tmp_path)
    node.restart()
    node.core.lock(dict.fromkeys(node.gpus, LOCK), Lease(1, 1, 3.0))
    node.live(8)
    (risen,) = node.clocks()
    assert LOCK + 60 < risen < MAX_MHZ
    node.core.apply({}, Lease(1, 2, 30.0))
    node.live(5)
    assert node.clocks() == {risen}
    assert node.core.status()["reasserted"] == 0


def test_an_agent_that_was_killed_looks_after_the_locks_that_it_finds(tmp_path):
    node = ClockNode(tmp_path)
    node.restart()
    node.core.lock(dict.fromkeys(node.gpus, LOCK), Lease(1, 1, 300.0))
    node.restart()
    node.live(3)
    node.power.unlock(node.gpus[:1])
    node.live(1)
    assert node.clocks() == {LOCK}


def test_a_card_that_idles_or_is_away_proves_nothing_and_a_range_is_no_drift():
    clocks = {"idle": 345, "busy": 1215, "low": 510}

    class Reader:
        def clocks(self, gpus):
            return {gpu: clocks[gpu] for gpu in gpus if gpu in clocks}

    watch = ClockWatch(RULES)
    watch.bounds({"low": 510})
    watch.order({"idle": 1200, "busy": 1200, "low": 400, "away": 1200}, 0.0)
    judged = watch.look(Reader(), 10.0)
    assert not judged.again
    assert not judged.yielded
    clocks["idle"] = 1980
    assert set(watch.look(Reader(), 11.0).again) == {"idle"}, "it works again, and its lock is gone"
    assert watch.look(object(), 12.0).again == {}, "hardware that tells no clocks is not judged"


def test_a_reader_that_fails_is_the_callers_to_tell(daemon, monkeypatch):
    def gone(_):
        raise AdapterError("the driver does not answer")

    monkeypatch.setattr(daemon.world.actuator, "clocks", gone)
    assert daemon.turn() == {Reason.CLOCK_REFUSED}
