"""A service is told to stop, at the worst moment too."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Whoever waits for an event takes its lock first, and lets it go once it waits: that is the moment the signal comes.
AT_THE_WORST_MOMENT = """
import os, signal, sys, time
from scheduler.stopsignals import stop_event
stop = stop_event()
with stop._cond:
    os.kill(os.getpid(), int(sys.argv[1]))
    time.sleep(0.2)
assert stop.wait(10)
os.kill(os.getpid(), int(sys.argv[1]))  # and once more, by an operator in a hurry
print("stopped")
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_heard_while_the_main_thread_holds_the_event(number):
    command = [sys.executable, "-c", AT_THE_WORST_MOMENT, str(int(number))]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    assert made.stdout == "stopped\n"


def test_no_service_sets_an_event_in_a_signal_handler():
    """asyncio's `add_signal_handler` calls from its loop; `signal.signal` calls wherever the main thread is."""
    places = [path for folder in ("scheduler", "adapters", "optimizer") for path in (ROOT / folder).rglob("*.py")]
    wrong = [
        path.name
        for path in places
        for line in path.read_text(encoding="utf-8").splitlines()
        if "signal.signal(" in line and ".set()" in line
    ]
    assert not wrong
