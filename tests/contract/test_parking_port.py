"""Every hook that parks GPUs: what was ordered is what it says, the last order counts, a failure is said."""

import sys
import time

import pytest

from adapters.context import AdapterContext
from adapters.hall import SimulatedHall
from adapters.parking.command import CommandConfig, CommandParking
from adapters.parking.simulated import SimulatedParking
from adapters.ports import AdapterError
from optimizer.assets import Parking
from optimizer.domain import Work
from scheduler.clock import VirtualClock
from tests.support.problems import START, pool

SCRIPT = """
import sys
path, gpus = sys.argv[1], int(sys.argv[2])
open(path, "a").write(f"{gpus}\\n")
print("parked")
print(min(gpus, 6))
"""


def command(tmp_path, *words, timeout_s=20.0):
    config = CommandConfig(type="command", command=words, timeout_s=timeout_s)
    return CommandParking(config, AdapterContext(VirtualClock(START), tmp_path))


@pytest.fixture(params=["simulated", "command"])
def hook(request, tmp_path):
    if request.param == "simulated":
        lot = pool("batch", Work.BATCH, 8, parking=Parking(10.0, 60.0))
        made = SimulatedParking(SimulatedHall([lot], VirtualClock(START)), "batch")
    else:
        made = command(tmp_path, sys.executable, "-c", SCRIPT, str(tmp_path / "log"), "{gpus}")
    yield made
    made.close()


def settled(hook, gpus):
    """What the hook says once it has done it."""
    end = time.monotonic() + 20
    while hook.read() != gpus and time.monotonic() < end:
        time.sleep(0.02)
    return hook.read()


def test_it_does_what_was_ordered_last(hook):
    assert hook.read() == 0
    for gpus in (4, 6, 2, 0):
        hook.apply(gpus)
    assert settled(hook, 0) == 0
    hook.apply(4)
    hook.apply(4)
    assert settled(hook, 4) == 4


def test_a_command_is_not_repeated_and_what_it_prints_counts(tmp_path):
    hook = command(tmp_path, sys.executable, "-c", SCRIPT, str(tmp_path / "log"), "{gpus}")
    for _ in range(5):
        hook.apply(8)
        hook.close()
    assert hook.read() == 6, "two of the eight could not be parked"
    assert (tmp_path / "log").read_text().split() == ["8"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((sys.executable, "-c", "import sys; sys.exit('no such node')"), "ended with 1: no such node"),
        (("/no/such/program",), "/no/such/program: No such file or directory"),
        ((sys.executable, "-c", "import time; time.sleep(30)"), "was killed after 1 s"),
    ],
)
def test_a_command_that_fails_is_said_and_tried_again_later(tmp_path, words, said):
    hook = command(tmp_path, *words, timeout_s=1.0)
    hook.apply(4)
    hook.close()
    with pytest.raises(AdapterError, match=said):
        hook.read()
    hook.apply(4)
    assert not hook._running, "not at once"
    hook._clock.sleep(31.0)
    hook.apply(4)
    assert hook._running
    hook.close()
