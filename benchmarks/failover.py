"""From the death of the leading daemon to the first set-point of the one that stood by, real processes, cards faked.

Two daemons, a NATS server and an agent with eight fake cards in the middle of an event. The leader gets SIGKILL; the
end is when the agent has obeyed an order of a higher epoch. The lease is most of it: `beyond_lease_s` is the worst
without it.
"""

from __future__ import annotations

import socket
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from adapters.power import wire
from benchmarks.support.report import Figures, run, say
from tests.support.pair import Pair

LONGEST_S = 120.0


@dataclass(frozen=True)
class Size:
    """How often the leader dies, and the length of the lease in seconds."""

    deaths: int = 5
    lease_s: int = 3


FULL, QUICK = Size(), Size(deaths=1)


def measure(quick: bool, seed: int) -> Figures:
    """Kill the leader again and again; the one before comes back and stands by."""
    size = QUICK if quick else FULL
    took = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        make: Any = Pair
        pair = make(stack, folder, lease_s=size.lease_s)
        pair.start("a", "b")
        lead, _ = pair.leader(LONGEST_S)
        pair.lives[lead].event(id="heat", reduce_percent=40, duration="PT3H")
        for _ in range(size.deaths):
            lead, _ = pair.leader(LONGEST_S)
            before = epoch(folder / "n1.sock")
            began = time.monotonic()
            pair.lives.pop(lead).kill()
            while epoch(folder / "n1.sock") <= before:
                if time.monotonic() - began > LONGEST_S:
                    raise RuntimeError("nobody took over")
                time.sleep(0.01)
            took.append(time.monotonic() - began)
            say(f"{lead} killed; the agent obeys the other after {took[-1]:.2f} s (lease {size.lease_s} s)")
            pair.start(lead)
    worst = max(took)
    return {"failover_s": median(took), "worst_s": worst, "beyond_lease_s": max(0.0, worst - size.lease_s)}


def epoch(path: Path) -> int:
    """The newest epoch that an agent has obeyed, over its local socket."""
    with socket.socket(socket.AF_UNIX) as channel:
        channel.connect(str(path))
        channel.sendall(wire.encode({"op": "status"}))
        with channel.makefile("rb") as answers:
            return int(wire.decode(answers.readline())["result"]["epoch"])


def main(argv: list[str] | None = None) -> None:
    """Run from the command line."""
    run("failover", __doc__.splitlines()[0], measure, argv)


if __name__ == "__main__":
    main()
