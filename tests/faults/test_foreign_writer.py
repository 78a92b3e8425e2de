"""Another program writes limits too: put right when it was an accident, left to it when it insists; nothing is lost.

Through the real `pynvml` against the fake library: the daemon alone, over the agent, and over the fleet's bus; and the
loops on the simulated hall.
"""

import time
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from adapters.power.nvml import NvmlPower
from optimizer.reasons import Reason, Severity
from scheduler.capwatch import CapWatch, DriftRules
from scheduler.dispatch import Dispatcher
from scheduler.orders import PoolOrder
from scheduler.safety import floor_cap_w
from scheduler.service import OperatorOrder
from scheduler.store.store import Store
from tests.support.loops import lab
from tests.support.power_worlds import DEADLINE_S, fake_machine, running_agent, running_fleet, wait_until

NOW = datetime(2022, 9, 6, 21, tzinfo=UTC)
RULES = DriftRules(reassert=3, quiet_s=600.0)
ORDERS = {"chat": PoolOrder(300, 8)}


class Site:
    """A dispatcher over eight fake cards, all found at 650 W, and what it said."""

    def __init__(self, fake, actuator):
        self.fake, self.gpus, self.books = fake, [gpu.uuid for gpu in fake.gpus], Store.in_memory()
        self.hand = Dispatcher(
            self.books, actuator, {"chat": tuple(self.gpus)}, writes=True, epoch=1, lease_s=60.0, watch=CapWatch(RULES)
        )
        self.said = []
        self.turn()
        assert set(fake.limits_w().values()) == {300.0}

    def turn(self, orders=None):
        """One tick: look, then order; the notes of it."""
        notes = self.hand.look(NOW) + self.hand.apply(orders or ORDERS, 60.0, NOW).notes
        self.said.extend(notes)
        return notes

    def until(self, true):
        """Turns until something holds."""
        wait_until(lambda: self.turn() is not None and true())

    def codes(self):
        return {note.code for note in self.said}


@contextmanager
def site(kind, folder, monkeypatch):
    with ExitStack() as stack:
        fake = fake_machine(folder, monkeypatch)
        for gpu in range(8):
            fake.set(gpu, limit_w=650)
        power = NvmlPower(DEADLINE_S)
        stack.callback(power.close)
        if kind == "agent":
            power = stack.enter_context(running_agent(folder, power, drift=RULES))
        if kind == "fleet":
            power = stack.enter_context(running_fleet(folder, power, drift=RULES))
        yield Site(fake, power)


@pytest.fixture(params=["nvml", "agent", "fleet"])
def made(request, tmp_path, monkeypatch):
    with site(request.param, tmp_path, monkeypatch) as made_:
        yield made_


def test_a_writer_that_writes_once_is_put_right_and_told_of(made):
    made.turn()
    made.fake.set(2, limit_w=700)
    made.until(lambda: made.fake.limits_w()[made.gpus[2]] == 300.0 and Reason.CAP_DRIFT in made.codes())
    assert made.hand.yielded() == {}
    assert Reason.CAP_YIELDED not in made.codes()
    assert made.turn() == (), "and then it is quiet"


def test_a_driver_reload_costs_one_tick_and_no_restore_value(made):
    made.turn()
    made.fake.reload_driver()
    made.until(lambda: set(made.fake.limits_w().values()) == {300.0})
    assert made.hand.yielded() == {}
    assert made.books.first_limits() == dict.fromkeys(made.gpus, 650.0)
    assert made.hand.release(NOW) == ()
    assert set(made.fake.limits_w().values()) == {650.0}


def test_a_writer_that_insists_gets_the_gpu_and_is_an_alert(made):
    bad = made.gpus[5]
    made.fake.set(bad, reset_after_ms=10, limit_w=700)
    made.until(made.hand.yielded)
    assert made.hand.yielded() == {"chat": {bad: 700.0}}
    (alert,) = [note for note in made.turn() if note.code is Reason.CAP_YIELDED]
    assert (alert.subject, alert.severity) == ("chat", Severity.ALERT)
    assert bad in alert.text
    writes = made.fake.state(bad)["set_calls"]
    assert writes == 1 + RULES.reassert
    for cap in (310, 290, 305):
        made.turn({"chat": PoolOrder(cap, 8)})
        time.sleep(0.05)
    assert made.fake.state(bad)["set_calls"] == writes, "left alone, whatever is ordered"
    assert {watts for gpu, watts in made.fake.limits_w().items() if gpu != bad} == {305.0}
    assert made.books.first_limits()[bad] == 650.0, "its way back is kept"


def test_a_yielded_gpu_is_given_back_once_and_never_raised(made):
    high, low = made.gpus[0], made.gpus[1]
    for gpu in (high, low):
        made.fake.set(gpu, reset_after_ms=10, limit_w=700)
    made.until(lambda: len(made.hand.yielded().get("chat", ())) == 2)
    made.fake.set(low, limit_w=420, reset_after_ms=0)
    made.fake.set(high, reset_after_ms=0)
    assert made.hand.release(NOW) == ()
    limits = made.fake.limits_w()
    assert limits[high] == 650.0, "lowered to what was found"
    assert limits[low] == 420.0, "not raised over its owner"
    assert made.books.first_limits() == {}


def test_an_operator_takes_a_gpu_back(made):
    bad = made.gpus[3]
    made.fake.set(bad, reset_after_ms=10, limit_w=700)
    made.until(made.hand.yielded)
    made.fake.set(bad, reset_after_ms=0)
    made.hand.take_back()
    made.until(lambda: made.fake.limits_w()[bad] == 300.0 and not made.hand.yielded())


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
