"""A fleet of simulated nodes for timing: a real NATS server, real agents in a few processes, the daemon's dispatcher.

Everything shares this machine, so what is measured is an upper bound of what the daemon alone would take: processor
time is told apart by process.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from urllib.request import urlopen

from adapters.bus_settings import BusSettings
from adapters.power.fleet import FleetPower
from scheduler.agent.settings import AgentSettings
from scheduler.daemon import settle
from scheduler.dispatch import Dispatcher
from scheduler.orders import PoolOrder
from scheduler.store.store import Store

SERVER = Path(sys.executable).with_name("nats-server")
START_S = 120.0
NODES_A_PROCESS = 2500


@dataclass(frozen=True)
class Rates:
    """Seconds between two looks of a simulated node at its lease and limits, and at whether its state is news; by
    default those of the product's agents."""

    tick_s: float = AgentSettings().tick_s
    state_s: float = AgentSettings().state_s

    def __str__(self) -> str:
        return f"a node looks at its limits every {self.tick_s:g} s and for news of itself every {self.state_s:g} s"

    @property
    def options(self) -> tuple[str, ...]:
        """As `scheduler.fleet.twin` takes them."""
        return "--tick-s", str(self.tick_s), "--state-s", str(self.state_s)


OWN = Rates()
SLOW = Rates(5.0, 10.0)
"""A tenth of the product's, so that thousands of nodes leave this machine's cores to what is timed: at its own rates,
ten thousand take more than there are while nothing happens."""


@dataclass
class TwinFleet:
    """The running parts. `order` is one event's work for the dispatcher."""

    power: FleetPower
    dispatcher: Dispatcher
    cards: int
    processes: dict[str, tuple[int, ...]]

    def order(self, cap_w: int) -> tuple[float, int]:
        """Seconds from the order to the last cap read back, books included, and how many cards did not follow."""
        started = time.perf_counter()
        done = self.dispatcher.apply({"all": PoolOrder(cap_w, self.cards)}, 900.0, datetime.now(UTC))
        return time.perf_counter() - started, sum(1 for note in done.notes if note.severity != "info")

    def round_trip_s(self) -> float:
        """Median seconds of a message to the server and back."""
        return round_trip_s(self.power)

    def cpu_s(self) -> dict[str, float]:
        """Seconds of processor time so far: of the server, of the nodes, and of this process."""
        spent = {part: sum(cpu_s(pid) for pid in pids) for part, pids in self.processes.items()}
        return spent | {"daemon": time.process_time()}


def round_trip_s(power: FleetPower) -> float:
    """Median seconds of a message to the server and back."""
    client = power.bus.client
    return median(_took(lambda: power.bus.call(client.flush(5), 6.0)) for _ in range(21))


def messages(monitor: str) -> int:
    """Messages that a server has taken in so far."""
    with urlopen(f"{monitor}/varz", timeout=10) as answer:
        return int(json.load(answer)["in_msgs"])


@dataclass(frozen=True)
class Nodes:
    """The URLs of a server and of what it tells of itself, the processes by part, and the nodes' names."""

    url: str
    monitor: str
    processes: dict[str, tuple[int, ...]]
    names: list[str]


@contextmanager
def twin_nodes(
    folder: Path, nodes: int, gpus: int, rates: Rates = OWN, behaviour: tuple[str, ...] = ()
) -> Iterator[Nodes]:
    """A NATS server and `nodes` simulated nodes; `behaviour`: more options of `scheduler.fleet.twin`."""
    folder.mkdir(parents=True)
    with ExitStack() as stack:
        port, monitor = free_port(), free_port()
        url = f"nats://127.0.0.1:{port}"
        command = [str(SERVER), "-a", "127.0.0.1", "-p", str(port), "-m", str(monitor)]
        command += ["-js", "-sd", str(folder / "streams")]
        server = stack.enter_context(process(command, folder / "server.log"))
        wait_for(port)
        twins = [
            stack.enter_context(_twins(folder, url, *part, gpus, (*rates.options, *behaviour)))
            for part in _parts(nodes)
        ]
        for twin in twins:
            _wait_until_ready(twin)
        processes = {"server": (server.pid,), "nodes": tuple(twin.pid for twin in twins)}
        names = [f"t{number}-{node}" for number, count in _parts(nodes) for node in range(count)]
        yield Nodes(url, f"http://127.0.0.1:{monitor}", processes, names)


@contextmanager
def twin_fleet(
    folder: Path, nodes: int, gpus: int = 8, deadline_s: float = 60.0, rates: Rates = SLOW
) -> Iterator[TwinFleet]:
    """`nodes` simulated nodes with `gpus` cards each, all answering. RuntimeError where they don't in two minutes."""
    with ExitStack() as stack:
        made = stack.enter_context(twin_nodes(folder, nodes, gpus, rates))
        power = FleetPower(BusSettings((made.url,), "daemon"), deadline_s, replicas=1)
        stack.callback(power.close)
        store = Store.open(folder / "books.sqlite")
        stack.callback(store.close)
        cards = _all_cards(power, nodes * gpus)
        dispatcher = Dispatcher(store, power, {"all": cards}, writes=True, epoch=1)
        settle()  # as the daemon does once it is built
        yield TwinFleet(power, dispatcher, len(cards), made.processes)


def _parts(nodes: int) -> list[tuple[int, int]]:
    """Number and size of each process of nodes: two at least, so that both cores work, but none without nodes."""
    processes = min(nodes, max(2, -(-nodes // NODES_A_PROCESS)))
    share, rest = divmod(nodes, processes)
    return [(number, share + (number < rest)) for number in range(processes)]


@contextmanager
def _twins(
    folder: Path, url: str, number: int, count: int, gpus: int, options: tuple[str, ...]
) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "scheduler.fleet.twin", "--fleet", url, "--prefix", f"t{number}"]
    command += ["--count", str(count), "--gpus", str(gpus), *options]
    with process(command, folder / f"twins-{number}.log") as twin:
        yield twin


@contextmanager
def process(command: list[str], log: Path, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A child process that is ended, its errors in a file."""
    with log.open("wb") as errors:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=env)
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait(20)
        if child.stdout is not None:
            child.stdout.close()


def _wait_until_ready(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    if process.stdout.readline().strip() != b"ready":
        raise RuntimeError("a process of simulated nodes ended before they were connected; see its log")


def _all_cards(power: FleetPower, count: int) -> tuple[str, ...]:
    """Every card, once all have answered."""
    ends = time.monotonic() + START_S
    found: dict[str, object] = {}
    while time.monotonic() < ends:
        found |= power.discover()
        if len(found) >= count:
            return tuple(sorted(found))
    raise RuntimeError(f"{len(found)} of {count} cards answered within {START_S:g} s")


def wait_for(port: int) -> None:
    """Until somebody listens there. RuntimeError after two minutes."""
    ends = time.monotonic() + START_S
    while time.monotonic() < ends:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"nobody listens on port {port}")


def free_port() -> int:
    """A port on loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _took(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def cpu_s(pid: int) -> float:
    """Processor time of a process with all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
