"""One thing that fails keeps no other from being done: a full disk, a driver without clocks, a lost second."""

import errno
import io
import json
import os
import resource
from contextlib import contextmanager

import pytest

from adapters.ports import AdapterError, ClockReceipt, Lease
from optimizer.reasons import Reason
from scheduler.agent.core import Fenced
from scheduler.agent.ending import only_one
from scheduler.agent.process import _tick
from scheduler.agent.state import AgentFiles, Found
from tests.support.agent_node import SETTINGS, Node


@pytest.fixture
def node(tmp_path):
    return Node(tmp_path)


@pytest.fixture
def full(monkeypatch):
    """A disk that can be filled and emptied."""

    def sync(*_):
        raise OSError(28, "No space left on device")

    class Disk:
        def fill(self):
            monkeypatch.setattr("scheduler.agent.state.os.fsync", sync)

        def empty(self):
            monkeypatch.undo()

    return Disk()


def live(node, seconds):
    """Let time pass whatever a tick says; returns what went wrong."""
    said = set()
    for _ in range(seconds):
        node.clock.sleep(1)
        try:
            node.core.tick()
        except AdapterError as error:
            said.add(str(error))
    return said


def lock(node, mhz=900, seconds=5.0, sequence=2):
    return node.core.lock(dict.fromkeys(node.gpus, mhz), Lease(1, sequence, seconds))


# ---------------------------------------------------------------- a full disk
def test_a_full_disk_keeps_no_limit_from_being_given_back_and_is_called_one(node, full, monkeypatch):
    node.cap(400, seconds=5.0)
    lock(node, 1900)
    told = []
    full.fill()
    live(node, 60)
    assert node.limits() == {700}
    monkeypatch.setattr("scheduler.agent.process.notify", told.append)
    _tick(node.core)
    assert "STATUS=the agent's own files can't be written: " in told[-1]
    assert "No space left on device" in told[-1]


@pytest.mark.parametrize("epoch", [1, 2])
def test_on_a_full_disk_caps_that_are_there_follow_their_orders_and_no_other_card_is_capped(node, full, epoch):
    """Of a daemon that was restarted too; else its caps would end with the lease of the one before."""
    few, rest = node.gpus[:2], node.gpus[2:]
    node.core.apply(dict.fromkeys(few, 400), Lease(1, 1, 5.0))
    full.fill()
    done = node.core.apply(dict.fromkeys(node.gpus, 300), Lease(epoch, 2, 60.0))
    assert done.failures == dict.fromkeys(rest, Reason.CAP_REFUSED)
    assert any("No space left" in line for line in live(node, 30))
    enforced = {gpu: info.enforced_w for gpu, info in node.core.discover().items()}
    assert enforced == dict.fromkeys(few, 300) | dict.fromkeys(rest, 700)
    with pytest.raises(AdapterError, match="No space left"):
        node.core.apply(dict.fromkeys(rest, 300), Lease(epoch, 3, 60.0))
    with pytest.raises(Fenced):
        node.core.apply({}, Lease(epoch - 1, 9, 60.0))
    full.empty()
    live(node, 1)
    written = json.loads((node.folder / "found.json").read_text())
    assert (written["epoch"], written["limits_w"]) == (epoch, dict.fromkeys(few, 700.0))
    assert node.core.apply(dict.fromkeys(node.gpus, 300), Lease(epoch, 4, 60.0)).failures == {}


def test_on_a_full_disk_locks_that_are_there_follow_their_orders(node, full):
    lock(node, 1500, seconds=60.0)
    full.fill()
    lock(node, 900, seconds=60.0, sequence=3)
    assert set(node.power.clocks(node.gpus).values()) == {900}
    full.empty()
    live(node, 1)
    written = json.loads((node.folder / "found.json").read_text())
    assert written["clocks_mhz"] == dict.fromkeys(node.gpus, 900)


def test_what_a_full_disk_did_not_take_is_written_when_it_has_room_again(node, full):
    """Else a restart would bring a limit of weeks ago back over what an operator set since."""
    node.cap(400, seconds=3.0)
    full.fill()
    live(node, 60)
    full.empty()
    assert node.core.status()["phase"] == "free"
    live(node, 1)
    assert json.loads((node.folder / "found.json").read_text())["limits_w"] == {}
    node.power.release(dict.fromkeys(node.gpus, 500.0))
    node.kill_and_restart()
    live(node, 40)
    assert node.limits() == {500}


def test_a_stop_on_a_full_disk_gives_back_and_says_what_it_could_not_write(node, full, monkeypatch):
    node.cap(400, seconds=3.0)
    node.live(6)
    full.fill()
    monkeypatch.setattr("scheduler.agent.core.sleep", node.clock.sleep)
    line = node.core.stop()
    assert node.limits() == {700}
    assert line.startswith("everything is given back; ")
    assert "No space left on device" in line


def test_a_file_that_could_not_be_replaced_is_the_old_one_whole(tmp_path, full):
    files = AgentFiles(tmp_path)
    files.save_found(Found({"GPU-a": 613.0}))
    full.fill()
    with pytest.raises(AdapterError, match="No space left"):
        files.save_found(Found({"GPU-a": 613.0, "GPU-b": 587.0}))
    full.empty()
    assert files.load()[0].limits_w == {"GPU-a": 613.0}


@contextmanager
def no_room():
    """Nothing that is written to a file is taken."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def read_only():
    """Files can be opened, but not to be written, as where the kernel found an error on the disk."""
    real = {os: os.open, io: io.open}

    def refusing(where, writes):
        def opened(path, how="r", *more, **named):
            if writes(how):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
            return real[where](path, how, *more, **named)

        return opened

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", refusing(os, lambda flags: flags & (os.O_RDWR | os.O_WRONLY)))
        patch.setattr(io, "open", refusing(io, lambda mode: mode != "r"))
        yield


@pytest.mark.parametrize("disk", [no_room, read_only])
def test_an_agent_begins_on_a_disk_that_takes_nothing_and_is_still_the_only_one(tmp_path, disk):
    """Else a restart then would leave every limit as it is, again and again."""
    with only_one(tmp_path):
        pass
    with disk(), only_one(tmp_path), pytest.raises(AdapterError, match="another agent"), only_one(tmp_path):
        pass
    with only_one(tmp_path):
        assert (tmp_path / "agent.lock").read_text() == f"{os.getpid()}\n"


def test_a_lock_that_is_not_there_can_t_be_held_on_a_disk_that_may_only_be_read(tmp_path):
    with read_only(), pytest.raises(AdapterError, match=r"agent\.lock"), only_one(tmp_path):
        pass


# ---------------------------------------------------------------- clocks
@pytest.mark.parametrize("followed", [True, False])
def test_clocks_that_can_t_be_locked_keep_no_limit_from_its_trajectory_or_its_way_back(node, monkeypatch, followed):
    node.cap(400, seconds=5.0)
    lock(node)
    if followed:
        node.core.hold(((0.0, dict.fromkeys(node.gpus, 300)),), 500.0, Lease(1, 3, 5.0))

    def broken(*_):
        raise AdapterError("the driver has no such call any more")

    for call in ("lock", "clocks"):
        monkeypatch.setattr(node.power, call, broken)
    assert live(node, 60) == {"the driver has no such call any more"}
    assert node.limits() == {300 if followed else 700}


def test_a_lock_that_could_not_be_undone_is_not_forgotten(node, monkeypatch):
    node.cap(400, seconds=60.0)
    lock(node)
    receipt = ClockReceipt(dict.fromkeys(node.gpus, 900), {node.gpus[0]: Reason.CALL_TIMEOUT})
    monkeypatch.setattr(node.power, "unlock", lambda gpus: receipt)
    node.core.unlock(node.gpus, epoch=1)
    assert node.core.status()["clocks_mhz"] == {node.gpus[0]: 900}
    node.kill_and_restart()
    assert node.core.status()["clocks_mhz"] == {node.gpus[0]: 900}


def test_a_release_of_all_limits_does_not_end_the_lease_of_clocks(node):
    node.cap(400, seconds=60.0)
    lock(node, seconds=60.0)
    node.core.hold(((10.0, dict.fromkeys(node.gpus, 300)),), 100.0, Lease(1, 3, 60.0))
    node.core.release(dict.fromkeys(node.gpus, 700.0), epoch=1)
    assert (node.core.status()["phase"], node.core.status()["lease_left_s"]) == ("leased", 60.0)
    node.live(59)
    assert set(node.core.status()["clocks_mhz"].values()) == {900}
    assert node.limits() == {700}, "the trajectory is over"
    node.live(60)
    assert node.core.status()["clocks_mhz"] == {}


# ---------------------------------------------------------------- time, and who commands
def test_time_that_was_lost_is_not_made_up_for_in_one_step(node):
    node.cap(300, seconds=5.0)
    node.live(6)
    before = node.limit()
    node.clock.sleep(600.0)
    node.core.tick()
    assert before < node.limit() <= before + 4 * SETTINGS.tick_s * SETTINGS.release_w_per_s


def test_a_replaced_daemon_neither_locks_nor_unlocks_nor_takes_back(node):
    node.cap(300, epoch=7)
    node.core.lock({node.gpus[0]: 900}, Lease(7, 2, 60.0))
    for refused in (
        lambda: node.core.lock({node.gpus[1]: 900}, Lease(6, 99, 60.0)),
        lambda: node.core.unlock(node.gpus, epoch=6),
        lambda: node.core.take_back(epoch=6),
    ):
        with pytest.raises(Fenced, match="replaced by 7"):
            refused()
    assert node.core.status()["clocks_mhz"] == {node.gpus[0]: 900}
