"""Many simulated nodes in one process: real agents on a real bus, with simulated cards. To rehearse, and to measure.

Why real agents: what a fleet does when it is ordered about is their judgement and the bus; only the cards behind them
(slices of a simulated hall, see `twin_hall`), and the disk on which they keep the limits found, are simulated here.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import resource
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, TypeVar

import uvloop
from nats.aio.client import Client

from adapters.ports import AdapterError
from scheduler.agent.bus import Ear
from scheduler.agent.core import AgentCore, AgentSettings
from scheduler.agent.process import answer
from scheduler.agent.state import AgentFiles, Found, Held
from scheduler.config.load import shipped_curves
from scheduler.fleet.twin_hall import TwinHall, TwinModel
from scheduler.fleet.twin_meter import TwinMeter
from scheduler.fleet.twin_site import TwinSite, site_of, site_options

T = TypeVar("T")

AT_ONCE = 64
"""Connections that are opened at the same time."""

TURNS = 20
"""Parts in which nodes take their ticks: all at once, they would keep orders waiting."""

YOUNG = 100_000
"""So many objects more than after the start make the collector of garbage look: a process that loses some is cleaned,
one that only replaces them is left alone."""

GRAIN_S = 0.05
"""Nodes tell their states at multiples of this: a process that wakes up for each of thousands by itself does little
else, and between two steps of the hall there is nothing new to tell."""

CURVE = "A100-400W/pt_mpt_7b_fast"


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


async def serve(hall: TwinHall, connect: Mapping[str, Any], settings: AgentSettings, each: Callable[[], None]) -> None:
    """Run the nodes of a hall until cancelled, and do `each` twenty times a tick; says "ready" on stdout when all are
    connected."""
    turns, names = asyncio.Semaphore(AT_ONCE), hall.names
    cores = [AgentCore(cards, TwinFiles(), settings) for cards in hall.cards]
    clients = await asyncio.gather(
        *(_one(core, name, connect, turns, settings) for core, name in zip(cores, names, strict=True))
    )
    # Thousands of nodes share what would be thousands of small heaps; their collector's pauses are nobody's in a fleet.
    # What they replace in every second counts as young to it: to look through that was a tenth of their time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG)
    each()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    try:
        while True:
            for turn in range(TURNS):
                await asyncio.sleep(settings.tick_s / TURNS)
                each()
                for core in cores[turn::TURNS]:
                    with suppress(AdapterError):  # its cards can't be read now
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
        await Ear(core, name, answer, settings.state_s, _at_once, grain_s=GRAIN_S).begin(client)
    return client


def _nothing() -> None:
    """Without a meter there is nothing to do beside the nodes."""


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
    _behaviour(parser)
    site_options(parser)
    options = parser.parse_args(arguments)
    if options.count < 1 or options.gpus < 1:
        parser.error("--count and --gpus must be at least 1")
    if options.curve not in shipped_curves():
        parser.error(f"--curve {options.curve}: not one of {', '.join(shipped_curves())}")
    try:
        model = _model(options, site_of(options))
    except ValueError as error:
        parser.error(str(error))
    hall = TwinHall([f"{options.prefix}-{number}" for number in range(options.count)], options.gpus, model)
    try:
        _run(options, hall)
    except AdapterError as error:  # the meter's
        sys.stderr.write(f"{parser.prog}: {error}\n")
        return 1
    return 0


def _run(options: argparse.Namespace, hall: TwinHall) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else max(soft, 65536), hard))
    connect: dict[str, Any] = {"servers": options.fleet, "connect_timeout": 30, "ping_interval": 60}
    if options.ca is not None:
        import ssl

        connect["tls"] = ssl.create_default_context(cafile=str(options.ca))
    settings = AgentSettings(tick_s=options.tick_s, state_s=options.state_s)
    with ExitStack() as stack:
        see = _nothing
        if options.meter_port is not None:
            place = (options.meter_host, options.meter_port)
            see = stack.enter_context(TwinMeter(hall, place, options.meter_adds)).see
        # Thousands of connections in one process: uvloop's cost a fifth less of its time than asyncio's own.
        stack.enter_context(suppress(KeyboardInterrupt))
        runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        runner.run(serve(hall, connect, settings, see))


def _behaviour(parser: argparse.ArgumentParser) -> None:
    """How the simulated cards behave: see `TwinModel`."""
    group = parser.add_argument_group("the cards", "slices of the simulated hall")
    group.add_argument("--curve", default=CURVE, help="a measured curve (default: %(default)s)")
    group.add_argument("--load", type=float, default=0.9, help="share of time that cards work")
    group.add_argument("--seed", type=int, default=0, help="of all that is drawn by chance")
    group.add_argument("--load-noise", type=float, default=0.0, help="dips of the load, a deviation")
    group.add_argument("--bursts", type=float, default=0.0, help="depth of the load's bursts, 0 to 1")
    group.add_argument("--noise", type=float, default=0.0, help="relative noise of a card's sensor")
    group.add_argument("--losses", type=float, default=0.0, help="chance that a node's cards can't be read in a second")
    group.add_argument("--gpu-loss-per-h", type=float, default=0.0, help="cards lost, per card and hour")
    group.add_argument("--cap-reset-per-h", type=float, default=0.0, help="limits put back, per card and hour")


def _model(options: argparse.Namespace, site: TwinSite) -> TwinModel:
    return TwinModel(
        shipped_curves()[options.curve],
        options.load,
        options.seed,
        options.load_noise,
        options.bursts,
        options.noise,
        options.losses,
        options.gpu_loss_per_h,
        options.cap_reset_per_h,
        site,
    )


if __name__ == "__main__":
    sys.exit(main())
