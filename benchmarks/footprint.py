"""What the agent and the daemon cost while nothing happens: memory and shares of a core.

The agent runs on the compiled stand-in of NVIDIA's library with eight capped cards and a connection to a real NATS
server; the daemon on a thousand simulated nodes, of which each tells its state when it is news, with cards at work
whose draw flickers as that of real ones does.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from adapters.bus_settings import BusSettings
from adapters.ports import AdapterError, Lease
from adapters.power.fleet import FleetPower
from benchmarks.support.report import Figures, run, say
from benchmarks.support.twin_fleet import START_S, cpu_s, free_port, process, twin_nodes, wait_for
from tests.support.fake_nvml import FakeGpu, FakeNvml

CARDS = 8
FLICKER = ("--noise", "0.003", "--load-noise", "0.005")
"""A card's sensor by 0.3 %, the load by dips of half a per cent: a steady training run on real cards."""


@dataclass(frozen=True)
class Size:
    """Seconds of each watch, how many, nodes of the daemon's fleet, seconds that it may take to settle."""

    seconds: float = 20.0
    watches: int = 3
    nodes: int = 1000
    settle_s: float = 30.0


FULL = Size()
QUICK = Size(seconds=5.0, watches=1, nodes=200, settle_s=10.0)

CONFIG = """
mode: control
currency: USD
horizon: 6h
state_dir: state
sites:
  - {{id: hall, timezone: Etc/UTC, price: energy, limit_kw: 20000}}
pools:
  - {{id: train, site: hall, gpu_model: A100-400W, count: {cards}, work: training, curve: A100-400W/pt_mpt_7b_fast,
     value_per_gpu_h: 2.0, floor: 0.5, gpus: {{all: true}}}}
signals:
  - {{id: energy, type: constant, unit: USD/MWh, value: 60}}
power: {{type: fleet, servers: ["{url}"]}}
meters: [{{type: nvml}}]
api: {{host: 127.0.0.1, port: {port}}}
"""


def measure(quick: bool, seed: int) -> Figures:
    """The figures, printed on the way. Nothing here is random: the seed plays no part."""
    size = QUICK if quick else FULL
    with tempfile.TemporaryDirectory(prefix="gridpace-footprint-") as name:
        return _agent(size, Path(name) / "agent") | _daemon(size, Path(name) / "daemon")


def _agent(size: Size, folder: Path) -> dict[str, Any]:
    """The agent on eight capped cards; empty where the stand-in of the driver can't be compiled."""
    cards = [FakeGpu(f"GPU-{k:08}-footprint", "A100", 100.0, 400.0, 400.0, 400.0, 55.0, 388.0) for k in range(CARDS)]
    try:
        machine = FakeNvml(folder / "nvml", cards)
    except (pytest.skip.Exception, pytest.fail.Exception) as missing:
        say(f"the agent is not measured: {missing}")
        return {}
    with ExitStack() as stack:
        url = stack.enter_context(twin_nodes(folder / "bus", 1, 1)).url
        options = ["--socket", folder / "a.sock", "--state-dir", folder / "state", "--node", "n1", "--tick-s", "1"]
        command = [sys.executable, "-m", "scheduler.agent.process", *map(str, options), "--fleet", url]
        agent = stack.enter_context(process(command, folder / "agent.log", machine.env()))
        power = FleetPower(BusSettings((url,), "daemon"), nodes=["n1"])
        stack.callback(power.close)
        power.apply(dict.fromkeys(_cards_of(power, "n1"), 300), Lease(1, 1, 3600.0))
        share, resident = _watch(agent.pid, size)
    say(f"the agent with {CARDS} capped cards, a look at each once a second: {resident:.1f} MB, {share:.2%} of a core")
    return {"agent_mb": resident, "agent_core_share": share}


def _daemon(size: Size, folder: Path) -> dict[str, Any]:
    """The daemon on a fleet to which nothing happens, its plans included."""
    with ExitStack() as stack:
        url = stack.enter_context(twin_nodes(folder, size.nodes, CARDS, behaviour=FLICKER)).url
        port = free_port()
        config = folder / "gridpace.yaml"
        config.write_text(CONFIG.format(cards=size.nodes * CARDS, url=url, port=port), encoding="utf-8")
        command = [str(Path(sys.executable).with_name("gridpace")), "run", "--config", str(config)]
        daemon = stack.enter_context(process(command, folder / "daemon.log"))
        wait_for(port)
        time.sleep(size.settle_s)
        share, resident = _watch(daemon.pid, size)
    say(f"the daemon with {size.nodes:,} nodes, {size.nodes * CARDS:,} cards: {resident:.1f} MB, {share:.2%} of a core")
    return {"daemon_mb": resident, f"daemon_core_share_{size.nodes}_nodes": share}


def _cards_of(power: FleetPower, node: str) -> list[str]:
    """The cards of a node, once it answers. RuntimeError after two minutes."""
    ends = time.monotonic() + START_S
    while time.monotonic() < ends:
        try:
            power.discover()
        except AdapterError:
            continue
        state = power.states().get(node)
        if state is not None:
            return list(state.draw_w)
    raise RuntimeError("the agent does not answer; see its log")


def _watch(pid: int, size: Size) -> tuple[float, float]:
    """Share of a core of a process and its children, the median of some watches, and resident memory in MB."""
    shares = []
    for _ in range(size.watches):
        before, started = sum(map(cpu_s, family(pid))), time.monotonic()
        time.sleep(size.seconds)
        shares.append((sum(map(cpu_s, family(pid))) - before) / (time.monotonic() - started))
    pages = sum(int(Path(f"/proc/{one}/statm").read_text(encoding="ascii").split()[1]) for one in family(pid))
    return median(shares), pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def family(pid: int) -> list[int]:
    """A process and all that it started and that live."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text(encoding="ascii").split():
            found += family(int(child))
    return found


def main(argv: list[str] | None = None) -> None:
    """Run from the command line."""
    run("footprint", __doc__.splitlines()[0], measure, argv)


if __name__ == "__main__":
    main()
