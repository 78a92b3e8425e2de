"""Two daemons never share a state directory."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from adapters.ports import AdapterError
from scheduler.lock import AlreadyRunning, DaemonLock

HOLDER = """
import sys, time
from pathlib import Path
from adapters.ports import AdapterError
from scheduler.lock import DaemonLock
lock = DaemonLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_the_second_is_told_who_holds_it_and_may_follow_after_a_kill(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(AlreadyRunning, match=f"process {holder.pid}") as refused:
            DaemonLock(tmp_path)
        assert (refused.value.pid, refused.value.exit_code) == (holder.pid, 3)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with DaemonLock(tmp_path) as lock:
            assert lock.path.read_text() == f"{os.getpid()}\n"


def test_release_lets_the_next_in(tmp_path):
    first = DaemonLock(tmp_path / "new")
    with pytest.raises(AlreadyRunning):
        DaemonLock(tmp_path / "new")
    first.release()
    DaemonLock(tmp_path / "new").release()


def test_a_disk_that_takes_no_writes_still_lets_one_daemon_in_and_not_two(tmp_path, monkeypatch):
    DaemonLock(tmp_path).release()
    true_open = os.open

    def read_only(path, flags, *mode):
        if flags & os.O_RDWR:
            raise OSError(errno.EROFS, "read-only file system")
        return true_open(path, flags, *mode)

    monkeypatch.setattr(os, "open", read_only)
    first = DaemonLock(tmp_path)
    with pytest.raises(AlreadyRunning):
        DaemonLock(tmp_path)
    first.release()
    with pytest.raises(AdapterError, match=r"state_dir: .*read-only"):
        DaemonLock(tmp_path / "never-used")


def test_a_full_disk_costs_only_the_pid_in_the_message(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, "pwrite", full)
    with DaemonLock(tmp_path), pytest.raises(AlreadyRunning, match="another gridpace is running; it holds"):
        DaemonLock(tmp_path)
