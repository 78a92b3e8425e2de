"""Many simulated nodes in one process: real agents on a real bus, with simulated cards. To rehearse, and to measure.

Why real agents: what a fleet does when it is ordered about is their judgement and the bus; only the cards behind them,
and the disk on which they keep the limits found, are simulated here.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import math
import resource
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

from nats.aio.client import Client

from adapters.ports import GpuId, GpuInfo, Lease, Receipt
from adapters.power.receipts import UNKNOWN_GPU
from scheduler.agent.bus import Ear
from scheduler.agent.core import AgentCore, AgentSettings
from scheduler.agent.process import answer
from scheduler.agent.state import AgentFiles, Found, Held

T = TypeVar("T")

MIN_W, MAX_W, FULL_W, IDLE_W = 200.0, 700.0, 640.0, 75.0
DOWN_S, UP_S = 0.05 / 3, 0.4 / 3
"""Time constants of a step in power: 95 % in 50 ms downwards and in 0.4 s upwards, as measured on a V100."""

AT_ONCE = 64
"""Connections that are opened at the same time."""


class TwinCards:
    """`PowerActuator` over simulated cards of one node, each busy at `load` of its full draw."""

    def __init__(self, node: str, gpus: int, load: float = 0.9, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._free_w = IDLE_W + load * (FULL_W - IDLE_W)
        self._limit_w = {f"GPU-{node}-{number}": MAX_W for number in range(gpus)}
        self._step: dict[GpuId, tuple[float, float]] = dict.fromkeys(self._limit_w, (0.0, self._free_w))

    def discover(self) -> Mapping[GpuId, GpuInfo]:
        """Every card, as it is now."""
        return {
            gpu: GpuInfo(gpu, "twin", MIN_W, MAX_W, MAX_W, limit, limit, self.draw_w(gpu))
            for gpu, limit in self._limit_w.items()
        }

    def enforced(self, gpus: Collection[GpuId]) -> Mapping[GpuId, float]:
        """Enforced limits in W of these cards."""
        return {gpu: self._limit_w[gpu] for gpu in gpus if gpu in self._limit_w}

    def draw_w(self, gpu: GpuId) -> float:
        """Draw in W: on its way from where it was at the last step to where the limit lets it be."""
        at, before = self._step[gpu]
        goal = min(self._free_w, self._limit_w[gpu])
        constant = DOWN_S if goal < before else UP_S
        return goal + (before - goal) * math.exp(-(self._clock() - at) / constant)

    def apply(self, caps_w: Mapping[GpuId, int], lease: Lease) -> Receipt:
        """Set these limits."""
        return self._set({gpu: min(MAX_W, max(MIN_W, float(cap))) for gpu, cap in caps_w.items()})

    def release(self, limits_w: Mapping[GpuId, float]) -> Receipt:
        """Give these limits back."""
        return self._set(limits_w)

    def _set(self, limits_w: Mapping[GpuId, float]) -> Receipt:
        now = self._clock()
        known = {gpu: limit for gpu, limit in limits_w.items() if gpu in self._limit_w}
        for gpu, limit in known.items():
            self._step[gpu] = (now, self.draw_w(gpu))
            self._limit_w[gpu] = limit
        return Receipt(known, dict.fromkeys(limits_w.keys() - known.keys(), UNKNOWN_GPU))


class TwinFiles(AgentFiles):
    """What an agent keeps on disk, in memory: thousands of simulated nodes share one real disk."""

    def __init__(self) -> None:
        self.boot = "twin"
        self.kept: tuple[Found, Held] = (Found(), Held())

    def load(self) -> tuple[Found, Held]:
        """What was kept."""
        return self.kept

    def save_found(self, found: Found) -> None:
        """Keep it."""
        self.kept = (found, self.kept[1])

    def save_lease(self, held: Held) -> None:
        """Keep it."""
        self.kept = (self.kept[0], held)


async def serve(names: list[str], gpus: int, connect: Mapping[str, Any], settings: AgentSettings) -> None:
    """Run these nodes until cancelled; says "ready" on stdout when all are connected."""
    turns = asyncio.Semaphore(AT_ONCE)
    cores = [AgentCore(TwinCards(name, gpus), TwinFiles(), settings) for name in names]
    clients = await asyncio.gather(
        *(_one(core, name, connect, turns, settings) for core, name in zip(cores, names, strict=True))
    )
    # Thousands of nodes share what would be thousands of small heaps; their collector's pauses are nobody's in a fleet.
    gc.collect()
    gc.freeze()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    try:
        while True:
            await asyncio.sleep(settings.tick_s)
            for core in cores:
                core.tick()
    finally:
        await asyncio.gather(*(client.close() for client in clients))


async def _one(
    core: AgentCore, name: str, connect: Mapping[str, Any], turns: asyncio.Semaphore, settings: AgentSettings
) -> Client:
    """Connect one node."""
    client = Client()
    async with turns:
        await client.connect(name=name, inbox_prefix=f"_INBOX_{name}".encode(), max_reconnect_attempts=-1, **connect)
        await Ear(core, name, answer, settings.state_s, _at_once).begin(client)
    return client


async def _at_once(work: Callable[[], T]) -> T:
    """Simulated cards never block."""
    return work()


def main(arguments: list[str] | None = None) -> int:
    """`python -m scheduler.fleet.twin`: nodes without keys, for a server without users; ends with SIGTERM."""
    parser = argparse.ArgumentParser(description="Many simulated nodes in one process.")
    parser.add_argument("--fleet", action="append", required=True, metavar="URL", help="a NATS server (repeatable)")
    parser.add_argument("--prefix", default="twin", help="names are PREFIX-0, PREFIX-1, ...")
    parser.add_argument("--count", type=int, default=100, help="how many nodes")
    parser.add_argument("--gpus", type=int, default=8, help="cards of each")
    parser.add_argument("--tick-s", type=float, default=1.0, help="seconds between two checks of the leases")
    parser.add_argument("--state-s", type=float, default=1.0, help="seconds between two tellings of a node's state")
    parser.add_argument("--ca", type=Path, help="certificate authority of the servers")
    options = parser.parse_args(arguments)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else max(soft, 65536), hard))
    connect: dict[str, Any] = {"servers": options.fleet, "connect_timeout": 30, "ping_interval": 60}
    if options.ca is not None:
        import ssl

        connect["tls"] = ssl.create_default_context(cafile=str(options.ca))
    names = [f"{options.prefix}-{number}" for number in range(options.count)]
    settings = AgentSettings(tick_s=options.tick_s, state_s=options.state_s)
    try:
        asyncio.run(serve(names, options.gpus, connect, settings))
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
