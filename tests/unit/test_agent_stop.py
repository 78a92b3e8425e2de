"""An agent that is stopped: what is asked for stays for its successor, the rest is given back."""

import json
import threading
import time
from dataclasses import replace
from itertools import pairwise

import pytest

from adapters.ports import AdapterError, Lease
from optimizer.reasons import Reason
from scheduler.agent import process
from scheduler.agent.core import AgentCore
from scheduler.agent.ending import forget_alone, only_one, release_alone
from scheduler.agent.state import AgentFiles, Found, Held
from scheduler.boottime import boottime
from tests.support.agent_node import SETTINGS, Node


@pytest.fixture
def node(tmp_path):
    return Node(tmp_path)


@pytest.mark.parametrize("phase", ["leased", "holding"])
def test_a_stop_leaves_what_a_lease_or_a_trajectory_asks_for_to_a_successor(node, phase):
    node.cap(250, seconds=30.0)
    node.core.hold([(0.0, dict.fromkeys(node.gpus, 300))], 600.0, Lease(1, 2, 30.0))
    if phase == "holding":
        node.live(40)
    kept, status = node.limits(), node.core.status()
    assert status["phase"] == phase
    assert "for the next agent" in node.core.stop()
    with pytest.raises(AdapterError, match="stopping"):
        node.cap(300, sequence=9)
    assert node.limits() == kept
    node.kill_and_restart()
    assert node.core.status() == {**status, "caps_w": node.core.status()["caps_w"]}
    assert set(node.live(2)) == kept
    node.live(700)
    assert node.limits() == {700}


def test_a_stop_restores_everything_where_nobody_asks_for_it_any_more(node, monkeypatch):
    monkeypatch.setattr("scheduler.agent.core.sleep", node.clock.sleep)
    node.cap(250, seconds=1.0)
    node.live(2)
    assert node.core.status()["phase"] == "releasing"
    assert "given back" in node.core.stop()
    assert node.limits() == {700}
    assert not node.core.outstanding


@pytest.mark.parametrize("restarted", [True, False])
def test_a_release_ends_lease_and_trajectory_and_takes_the_whole_ramp(node, monkeypatch, restarted):
    """As `gridpace agent --release` does it: in a process that has written nothing itself."""
    seen = watched(node, monkeypatch)
    node.cap(250)
    node.core.hold([(0.0, dict.fromkeys(node.gpus, 300))], 600.0, Lease(1, 2, 30.0))
    if restarted:
        node.kill_and_restart()
    node.core.give_back(hurry=False)
    assert (node.limits(), node.core.outstanding) == ({700}, False)
    assert max(after - before for before, after in pairwise([250, *seen, 700])) <= SETTINGS.release_w_per_s
    node.kill_and_restart()
    assert node.core.status()["phase"] == "free"
    assert set(node.live(5)) == {700}


def watched(node, monkeypatch):
    """The first card's limit whenever the agent sleeps."""
    seen = []

    def sleep(seconds):
        seen.append(node.limit())
        node.clock.sleep(seconds)

    monkeypatch.setattr("scheduler.agent.core.sleep", sleep)
    return seen


def test_a_restarted_agent_that_is_stopped_while_it_releases_hurries_and_does_not_jump(node, monkeypatch):
    seen = watched(node, monkeypatch)
    node.cap(250, seconds=1.0)
    node.live(2)
    node.kill_and_restart()
    assert "given back" in node.core.stop()
    steps = [after - before for before, after in pairwise([*seen, 700])]
    assert len(steps) <= SETTINGS.stop_s + 1
    assert max(steps) <= 1.1 * 450 / (SETTINGS.stop_s / 2), "450 W within half of what a stop may take"


def test_a_release_that_is_broken_off_stays_one(node, monkeypatch):
    def killed(_seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr("scheduler.agent.core.sleep", killed)
    node.cap(250, seconds=300.0)
    node.core.hold([(0.0, dict.fromkeys(node.gpus, 300))], 600.0, Lease(1, 2, 300.0))
    with pytest.raises(KeyboardInterrupt):
        node.core.give_back(hurry=False)
    node.kill_and_restart()
    assert node.core.status()["phase"] == "releasing"
    assert node.live(60)[-1] == 700


def test_a_folder_that_is_not_there_is_no_agents(node, tmp_path):
    with pytest.raises(AdapterError, match="no such folder; name the one of the agent"):
        release_alone(node.power, tmp_path / "mistyped", SETTINGS)
    assert not (tmp_path / "mistyped").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(AdapterError, match="Not a directory"), only_one(tmp_path / "file" / "state"):
        pass


@pytest.mark.parametrize("older", [True, False])
def test_times_of_an_agent_whose_clock_stands_still_in_a_suspension_are_read_as_it_would(tmp_path, monkeypatch, older):
    files = AgentFiles(tmp_path)
    files.save_found(Found({"GPU-a": 700.0}, steps=[(50.0, {"GPU-a": 300}), (0.0, {})], hold_until=90.0))
    files.save_lease(Held(boot=files.boot, expires_at=40.0, heard_at=-1.0))
    for name in ("found.json", "lease.json") if older else ():
        body = json.loads((tmp_path / name).read_text())
        assert body.pop("clock") == "boottime"
        (tmp_path / name).write_text(json.dumps(body))
    monkeypatch.setattr("scheduler.agent.state.boottime", lambda: time.monotonic() + 600.0)
    found, held = AgentFiles(tmp_path).load()
    late_s = 600.0 if older else 0.0
    assert found.more == {}
    assert [at for at, _ in found.steps] == pytest.approx([50.0 + late_s, 0.0], abs=1.0)
    assert found.hold_until == pytest.approx(90.0 + late_s, abs=1.0)
    assert (held.expires_at, held.heard_at) == (pytest.approx(40.0 + late_s, abs=1.0), -1.0)


def test_leases_are_counted_by_a_clock_that_runs_through_a_suspension(node, tmp_path):
    core = AgentCore(node.power, AgentFiles(tmp_path), SETTINGS)
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= core._clock() <= time.clock_gettime(time.CLOCK_BOOTTIME)
    assert boottime is core._clock


@pytest.fixture
def dead(node, monkeypatch):
    """The last card died for good under a cap and a lock; the agent has been stopped."""
    monkeypatch.setattr("scheduler.agent.core.sleep", node.clock.sleep)
    node.cap(300, seconds=5.0)
    assert not node.core.lock({node.gpus[-1]: 900, node.gpus[1]: 900}, Lease(1, 2, 5.0)).failures
    node.hall.fail(node.gpus[-1], Reason.GPU_LOST)
    node.live(200)
    node.core.stop()
    assert list(node.core.status()["found_w"]) == [node.gpus[-1]]
    return node.gpus[-1]


def test_a_card_that_died_for_good_is_forgotten_when_an_operator_says_so(node, dead, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(process, "_power", lambda options: node.power)
    monkeypatch.setattr(process, "stop_event", threading.Event)
    assert process.main(["--state-dir", str(tmp_path), "--forget", dead]) == 0
    assert f"{dead} is forgotten; it had 700 W before Gridpace" in caplog.text
    node.kill_and_restart()
    assert node.core.tick() == "free: no GPU is capped by Gridpace"
    assert not node.core.outstanding
    node.hall.fail(dead, None)
    node.cap(400, sequence=3)
    assert node.core.status()["found_w"][dead] == 300, "it came back as it was, and is found like that"


def test_a_card_is_not_forgotten_that_answers_or_is_owed_nothing_or_belongs_to_an_agent_at_work(node, dead, tmp_path):
    before = (tmp_path / "found.json").read_bytes()
    with pytest.raises(AdapterError, match=f"--forget GPU-x: owed nothing here; owed are: {dead}"):
        forget_alone(node.power, tmp_path, [dead, "GPU-x"])
    with only_one(tmp_path), pytest.raises(AdapterError, match="another agent"):
        forget_alone(node.power, tmp_path, [dead])
    node.hall.fail(dead, None)
    with pytest.raises(AdapterError, match=f"--forget {dead}: it answers; --release gives it back"):
        forget_alone(node.power, tmp_path, [dead])
    with pytest.raises(AdapterError, match="no such folder"):
        forget_alone(node.power, tmp_path / "mistyped", [dead])
    assert (tmp_path / "found.json").read_bytes() == before
    with pytest.raises(SystemExit):
        process.main(["--release", "--forget", dead])


def test_where_no_card_answers_at_all_an_operators_word_alone_can_forget_one(node, dead, tmp_path, monkeypatch):
    """The only card of a node died, or the driver isn't loaded: nothing tells the two apart."""
    before, seen = (tmp_path / "found.json").read_bytes(), node.power.discover

    def none():
        raise AdapterError("no driver")

    monkeypatch.setattr(node.power, "discover", none)
    with pytest.raises(AdapterError, match=rf"--forget {dead}: no GPU answers here.*\(no driver\).*add --unseen"):
        forget_alone(node.power, tmp_path, [dead])
    assert (tmp_path / "found.json").read_bytes() == before
    with pytest.raises(AdapterError, match="owed nothing"):
        forget_alone(node.power, tmp_path, [dead, "GPU-x"], unseen=True)
    node.hall.fail(dead, None)
    monkeypatch.setattr(node.power, "discover", seen)
    with pytest.raises(AdapterError, match="it answers"):
        forget_alone(node.power, tmp_path, [dead], unseen=True)
    monkeypatch.setattr(node.power, "discover", none)
    monkeypatch.setattr(process, "_power", lambda options: node.power)
    monkeypatch.setattr(process, "stop_event", threading.Event)
    with pytest.raises(SystemExit):
        process.main(["--state-dir", str(tmp_path), "--unseen"])
    assert process.main(["--state-dir", str(tmp_path), "--forget", dead, "--unseen"]) == 0
    node.kill_and_restart()
    assert not node.core.outstanding


def test_of_several_dead_cards_the_others_stay_owed_and_a_release_names_them(node, tmp_path, caplog):
    quick = replace(SETTINGS, stop_s=0.1, tick_s=0.01, release_w_per_s=1e6)
    node.cap(300)
    for gpu in node.gpus[:3]:
        node.hall.fail(gpu, Reason.GPU_LOST)
    forget_alone(node.power, tmp_path, node.gpus[:2])
    node.kill_and_restart()
    assert node.core.status()["found_w"] == dict.fromkeys(node.gpus[2:], 700.0)
    assert release_alone(node.power, tmp_path, quick) == 1
    assert f"still written down: {node.gpus[2]}; try again" in caplog.text


def test_what_is_ordered_for_a_card_that_is_not_there_is_not_written_down(node, tmp_path):
    receipt = node.core.lock({"GPU-x": 900, node.gpus[0]: 900}, Lease(1, 1, 30.0))
    assert (receipt.failures, receipt.clock_mhz) == ({"GPU-x": Reason.GPU_LOST}, {node.gpus[0]: 900})
    assert node.cap(300, sequence=2, gpus=["GPU-y"]).failures == {"GPU-y": Reason.GPU_LOST}
    kept = json.loads((tmp_path / "found.json").read_text())
    assert (kept["clocks_mhz"], kept["limits_w"]) == ({node.gpus[0]: 900}, {})
    assert set(node.core.status()["clocks_mhz"]) == {node.gpus[0]}
    node.live(200)
    assert node.core.status()["phase"] == "free"
