"""Two daemons never share a state directory."""

import os
import signal
import subprocess
import sys

import pytest

from scheduler.lock import AlreadyRunning, DaemonLock

HOLDER = """
import sys, time
from pathlib import Path
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
