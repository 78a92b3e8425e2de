"""Locked clocks, the second lever: through the real `pynvml`, the agent and the fleet; and the loops on light work."""

import signal
import time
from contextlib import contextmanager
from datetime import timedelta

import pytest

from adapters.hall_state import MAX_MHZ
from adapters.ports import Lease
from optimizer.reasons import Reason, Severity
from scheduler.agent.core import AgentCore, AgentSettings
from scheduler.agent.state import AgentFiles
from scheduler.service import OperatorOrder
from scheduler.takeover import reconcile
from tests.faults.test_agent_process import Service
from tests.support.loops import lab
from tests.support.power_worlds import power_world, wait_until
from tests.unit.test_agent_core import Node

LEASE = Lease(1, 1, 60.0)


# ---------------------------------------------------------------- the port
@pytest.fixture(params=["simulated", "nvml", "agent", "fleet"])
def world(request, tmp_path, monkeypatch):
    with power_world(request.param, tmp_path, monkeypatch) as made:
        made.actuator.discover()
        yield made


def test_a_clock_is_locked_read_back_and_let_go_and_draw_follows(world):
    before = world.actuator.discover()[world.gpus[0]]
    assert (before.min_clock_mhz, before.max_clock_mhz) == (210, 1980)
    receipt = world.actuator.lock({world.gpus[0]: 1200, world.gpus[1]: 9000}, LEASE)
    assert receipt.clock_mhz == {world.gpus[0]: 1200, world.gpus[1]: 1980}
    assert receipt.failures == {}
    if world.fake is None:
        world.actuator.hall.clock.sleep(1)
    wait_until(lambda: world.actuator.discover()[world.gpus[0]].draw_w < 0.75 * before.draw_w)
    assert world.actuator.unlock(world.gpus[:2]).clock_mhz == dict.fromkeys(world.gpus[:2], 1980)
    if world.fake is None:
        world.actuator.hall.clock.sleep(1)
    wait_until(lambda: world.actuator.discover()[world.gpus[0]].draw_w > 0.99 * before.draw_w)


def test_a_card_that_refuses_is_named_and_never_stops_the_others(world):
    world.fail(world.gpus[2], Reason.NO_PERMISSION)
    receipt = world.actuator.lock(dict.fromkeys(world.gpus, 1200), LEASE)
    assert receipt.failures == {world.gpus[2]: Reason.NO_PERMISSION}
    assert len(receipt.clock_mhz) == 7


def test_a_card_without_lockable_clocks_says_so(tmp_path, monkeypatch):
    with power_world("nvml", tmp_path, monkeypatch) as made:
        made.fake.set(0, no_clocks=1)
        infos = made.actuator.discover()
        assert infos[made.gpus[0]].max_clock_mhz == 0
        assert infos[made.gpus[1]].max_clock_mhz == 1980


# ---------------------------------------------------------------- the agent
class ClockNode(Node):
    def lock(self, mhz, sequence=1, seconds=5.0):
        return self.core.lock(dict.fromkeys(self.gpus, mhz), Lease(1, sequence, seconds))

    def share(self):
        return float(self.hall._gpus.clock[0])


def test_an_agent_ramps_clocks_free_when_nobody_renews_and_after_a_kill(tmp_path):
    node = ClockNode(tmp_path)
    node.lock(1200)
    node.live(4)
    assert node.share() == pytest.approx(1200 / MAX_MHZ)
    node.kill_and_restart()
    assert node.core.outstanding
    node.live(3)
    assert 1200 / MAX_MHZ < node.share() < 0.75, "by a ramp"
    node.live(30)
    assert node.share() == 1.0
    assert node.core.status()["phase"] == "free"


def test_an_agent_sets_locks_again_after_a_driver_reload(tmp_path):
    node = ClockNode(tmp_path)
    node.lock(1200, seconds=100.0)
    for gpu in node.gpus:
        node.hall.reset_limit(gpu)
    assert node.share() == 1.0
    node.live(11)
    assert node.share() == pytest.approx(1200 / MAX_MHZ)
    node.core.unlock(node.gpus, epoch=node.core.status()["epoch"])
    assert node.share() == 1.0
    assert not node.core.outstanding


def test_nothing_is_locked_when_it_cannot_be_written_down(tmp_path, monkeypatch):
    node = ClockNode(tmp_path)
    files = AgentFiles(tmp_path / "other")
    node.core = AgentCore(node.power, files, AgentSettings(), node.clock.monotonic)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("scheduler.agent.state.os.fsync", full)
    with pytest.raises(Exception, match="No space left"):
        node.lock(1200)
    assert node.share() == 1.0


def test_clocks_locked_by_an_agent_that_was_killed_are_let_go_by_the_next_one(tmp_path):
    service = Service(tmp_path)
    power = service.start()
    power.discover()
    power.lock(dict.fromkeys(service.gpus, 1500), Lease(1, 1, 0.2))
    service.end(signal.SIGKILL)
    power.close()
    assert {service.fake.state(k)["locked_mhz"] for k in range(8)} == {1500}
    time.sleep(0.3)
    service.start().close()
    wait_until(lambda: {service.fake.state(k)["locked_mhz"] for k in range(8)} == {0}, 40)
    assert service.end(signal.SIGTERM) == 0


# ---------------------------------------------------------------- the loops
LIGHT = """
power: {type: simulated, true_curves: {chat: decode}}
curves:
  - id: decode
    idle_w: 55
    points: [{cap_w: 200, draw_w: 150, throughput: 1.0}, {cap_w: 400, draw_w: 152, throughput: 1.0}]
"""


@contextmanager
def light_lab(folder, allowed=True, floor="0.6"):
    """The lab whose chat pool decodes: 150 W a busy GPU, below the lowest limit of 200 W."""

    def change(text):
        chat = f"floor: {floor}, load: 0.95, min_cap_w: 200, lock_clocks: {str(allowed).lower()}"
        return text.replace("floor: 0.9, load: 0.95", chat) + LIGHT

    with lab(folder, change) as made:
        yield made


def limit(made, kw):
    made.facade.order(OperatorOrder("limit", site="lab", limit_kw=kw, by="me"))


def clocks(made):
    part = made.hall._pools[0].part
    return {round(share, 4) for share in made.hall._gpus.clock[part].tolist()}


def test_light_work_is_moved_by_clocks_where_that_is_allowed_and_a_limit_is_kept(tmp_path):
    with light_lab(tmp_path) as made:
        made.run(timedelta(minutes=2), step_s=2)
        assert clocks(made) == {1.0}
        limit(made, 24.0)
        tick = made.run(timedelta(minutes=2))[-1]
        assert set(tick.clock_mhz) == {"chat"}
        assert tick.import_kw["lab"] <= 24.0 + 0.05
        assert max(clocks(made)) < 1.0
        assert min(clocks(made)) >= 0.6, "its floor, and throughput falls no faster than the clock"
        caps = {made.hall.infos()[gpu].limit_w for gpu in made.hall.gpus_of["chat"]}
        assert caps == {400.0}, "its limits are left as they were"
        made.plan()
        chat = next(pool for pool in made.state.report.pools if pool.id == "chat")
        assert chat.clock_mhz == tick.clock_mhz["chat"]
        assert "its SM clocks do" in made.facade.explain("chat")
        limit(made, None)
        tick = made.run(timedelta(minutes=5))[-1]
        assert tick.clock_mhz == {}
        assert clocks(made) == {1.0}
        assert not any(kept.get("mhz") for kept in made.ctx.store.all("locked_clocks").values())


def test_without_leave_no_clock_is_touched(tmp_path):
    with light_lab(tmp_path, allowed=False) as made:
        made.run(timedelta(minutes=2), step_s=2)
        limit(made, 24.0)
        made.run(timedelta(minutes=1))
        assert made.ctx.clocks is None
        assert clocks(made) == {1.0}


def test_a_cap_that_is_accepted_and_moves_nothing_is_an_alert_only_then(tmp_path):
    """300 W a busy GPU under whatever limit: its sensor is wrong, or its work answers to no limit."""
    stuck = LIGHT.replace("draw_w: 150", "draw_w: 298").replace("draw_w: 152", "draw_w: 300")

    def change(text):
        return text.replace("floor: 0.9, load: 0.95", "floor: 0.5, load: 0.95, learn_curves: false") + stuck

    with lab(tmp_path, change) as made:
        free = made.run(timedelta(seconds=40))
        assert not [note for tick in free for note in tick.notes if note.code is Reason.CAP_UNMOVED]
        limit(made, 24.0)
        tick = made.run(timedelta(seconds=40))[-1]
        assert tick.cap_w["chat"] < 270
        (note,) = [note for note in tick.notes if note.code is Reason.CAP_UNMOVED]
        assert (note.subject, note.severity) == ("chat", Severity.ALERT)
        assert f"enforce {tick.cap_w['chat']} W and draw" in note.text


def test_a_pause_lets_clocks_go_and_a_killed_daemons_locks_are_known_to_the_next(tmp_path):
    with light_lab(tmp_path) as made:
        made.run(timedelta(minutes=2), step_s=2)
        limit(made, 24.0)
        locked = made.run(timedelta(minutes=1))[-1].clock_mhz["chat"]
        made.ctx.clocks.locked_mhz.clear()
        made.ctx.clocks.levers.clocked.clear()
        reconcile(made.parts)
        assert made.ctx.clocks.levers.clocked.keys() == {"chat"}
        tick = made.run(timedelta(seconds=3))[-1]
        assert tick.clock_mhz["chat"] == pytest.approx(locked, rel=0.05)
        made.facade.order(OperatorOrder("pause", by="me"))
        assert clocks(made) == {1.0}
        assert made.state.tick is not None
        made.tick()
        assert made.state.tick.clock_mhz == {}
