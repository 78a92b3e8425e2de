"""From an accepted event to the last limit written and read back, and to the measured reduction.

Real time where software is timed (NVML's calls go through the real binding into a compiled stand-in whose cards take 30
ms to be set; thousands of real agents with simulated cards answer over a real NATS server), virtual time where physics
is: the simulated cards follow the step responses of real ones.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest

from benchmarks.support.fleet_events import live_fleet
from benchmarks.support.node import Node, node
from benchmarks.support.report import Figures, run, say, spread
from benchmarks.support.slips import slips
from benchmarks.support.twin_fleet import OWN, SLOW, Rates
from scheduler.clock import VirtualClock, WallClock
from tests.support.fake_nvml import STATE, FakeGpu, FakeNvml

CALL_MS = 30
CARDS = 8
PARTS = ("cards", "measured", "users", "nodes1000", "nodes10000")
TIMES = ("whole_s", "before_s", "bus_s", "measured_s")
SHARE = 0.7
"""What is left of the power before: the event asks for 30 % less."""


@dataclass(frozen=True)
class Size:
    """Events on the node of eight cards; simulated cards, and events at different moments between two ticks; moments
    at which users begin to wait; fleets: nodes, events, the nodes' own rates; seconds in which these are left alone."""

    events: int = 21
    simulated: int = 512
    phases: int = 10
    slips: int = 21
    fleets: tuple[tuple[int, int, Rates], ...] = ((1000, 40, OWN), (10000, 10, SLOW))
    idle_s: float = 20.0


FULL = Size()
QUICK = Size(events=5, simulated=64, phases=3, slips=5, fleets=((1000, 3, OWN),), idle_s=3.0)


def measure(
    quick: bool, seed: int, parts: Sequence[str] = (), tick_s: float | None = None, state_s: float | None = None
) -> Figures:
    """The figures of these parts (none named: of all), printed on the way; `tick_s` and `state_s`: other rates of the
    fleets' nodes. Nothing here is random: the seed plays no part."""
    size, figures = QUICK if quick else FULL, dict[str, Any]()
    with tempfile.TemporaryDirectory(prefix="gridpace-reaction-") as name:
        if not parts or "cards" in parts:
            figures |= _eight_cards(size, Path(name))
        if not parts or "measured" in parts:
            figures |= _measured(size, Path(name))
        if not parts or "users" in parts:
            figures |= _users(size, Path(name))
        for nodes, events, own in size.fleets:
            rates = Rates(tick_s or own.tick_s, state_s or own.state_s)
            if not parts or f"nodes{nodes}" in parts:
                figures |= _fleet(nodes, events, size.idle_s, rates, Path(name) / f"fleet-{nodes}")
    return figures


def _eight_cards(size: Size, folder: Path) -> dict[str, Any]:
    """Orders for eight cards through NVML; empty where the stand-in of the driver can't be compiled."""
    cards = [FakeGpu(f"GPU-{k:08}-benchmark", "A100", 100.0, 400.0, 400.0, 400.0, 55.0, 388.0) for k in range(CARDS)]
    try:
        machine = FakeNvml(folder / "nvml", cards)
    except (pytest.skip.Exception, pytest.fail.Exception) as missing:
        say(f"gpus8_ms is not measured: {missing}")
        return {}
    machine.set_all(latency_ms=CALL_MS)
    machine.preload()
    os.environ[STATE] = str(machine.path)
    times = [_one_event(machine, folder / f"event-{number}") for number in range(size.events)]
    dispatch, whole, over = ([row[column] for row in times] for column in range(3))
    say(f"{size.events} events, {CARDS} cards through NVML, {CALL_MS} ms to set one; milliseconds")
    say(f"  from the dispatcher's order to the last read-back  {spread(dispatch, '.1f')}")
    say(f"  of that not the card's own {CALL_MS} ms               {spread(over, '.1f')}")
    say(f"  from the message, books and meter included         {spread(whole, '.1f')}")
    return {"gpus8_ms": median(dispatch), "gpus8_own_ms": median(over), "gpus8_from_message_ms": median(whole)}


def _one_event(machine: FakeNvml, folder: Path) -> tuple[float, float, float]:
    """Milliseconds of one event on fresh books: the dispatcher's turn, all from the message on, the turn less the
    card's own time. RuntimeError when a card's limit did not follow."""
    with node(folder, WallClock(), "nvml", CARDS) as site:
        aim_kw = SHARE * site.import_kw()
        site.dispatcher.turns_s.clear()
        started = time.perf_counter()
        site.accept("now", aim_kw)
        site.tick()
        whole_ms = (time.perf_counter() - started) * 1000.0
        limits = machine.limits_w()
    if max(limits.values()) >= 390.0 or len(site.dispatcher.turns_s) != 1:
        raise RuntimeError(f"the order did not reach every card: {limits}")
    machine.set_all(limit_w=400.0)
    dispatch_ms = site.dispatcher.turns_s[0] * 1000.0
    return dispatch_ms, whole_ms, dispatch_ms - CALL_MS


def _measured(size: Size, folder: Path) -> dict[str, Any]:
    """Seconds until the meter shows 30 % less on simulated cards, for events anywhere between two ticks."""
    times = [_until_measured(size, folder / f"phase-{k}", (k + 0.5) / size.phases) for k in range(size.phases)]
    say(f"{size.phases} events at different moments between two ticks, {size.simulated} simulated cards; seconds")
    say(f"  from the message to 30 % less on the meter         {spread(times)}")
    return {"measured_30pct_s": median(times), "measured_30pct_worst_s": max(times)}


def _until_measured(size: Size, folder: Path, phase: float) -> float:
    """Virtual seconds that pass, and the real ones that the software takes; RuntimeError after a minute."""
    clock = VirtualClock(datetime(2022, 9, 6, 21, tzinfo=UTC))
    with node(folder, clock, "simulated", size.simulated) as site:
        clock.sleep(phase)
        aim_kw = SHARE * site.import_kw()
        started = clock.now()
        own_s = _took(lambda: site.accept("now", aim_kw))
        clock.sleep(1.0 - phase)
        for _ in range(60):
            own_s += _took(site.tick)
            if _reached(site, clock, aim_kw):
                return (clock.now() - started).total_seconds() + own_s
    raise RuntimeError(f"the meter never showed {aim_kw:.1f} kW")


def _reached(site: Node, clock: VirtualClock, aim_kw: float) -> bool:
    """Look at the meter every hundredth of a second until the next tick; whether it came down to `aim_kw`."""
    for _ in range(100):
        if site.import_kw() <= aim_kw:
            return True
        clock.sleep(0.01)
    return False


def _users(size: Size, folder: Path) -> dict[str, Any]:
    """Seconds from the moment at which a server's metrics show that its users wait too long to full power."""
    times = slips(folder / "users", size.slips)
    say(f"{size.slips} slips at different moments, readings every 0.5 s, ticks every second; seconds")
    say(f"  from a server's metrics to full power             {spread(times)}")
    return {"users_s": median(times), "users_worst_s": max(times)}


def _fleet(nodes: int, events: int, idle_s: float, rates: Rates, folder: Path) -> dict[str, Any]:
    """Events at a site of so many nodes, each for 30 % less. RuntimeError when a card did not follow."""
    with live_fleet(folder, nodes, rates) as fleet:
        shares, messages = fleet.idle(idle_s)
        before = fleet.cpu_s()
        seen = [fleet.event(SHARE) for _ in range(events)]
        spent = {part: (cpu_s - before[part]) / events for part, cpu_s in fleet.cpu_s().items()}
        wire_s = fleet.round_trip_s()
    whole, before_s, bus_s, measured = ([getattr(one, part) for one in seen] for part in TIMES)
    own_s = [one.whole_s - one.before_s - one.bus_s for one in seen]
    say(f"{events} events at {nodes:,} nodes of {CARDS} cards, one NATS server, all on this machine; {rates}; seconds")
    say(f"  from the accepted event to the last read-back      {spread(whole, '.2f')}")
    say(f"  of that until the order goes to the dispatcher     {spread(before_s, '.2f')}")
    say(f"  on the bus and in the nodes                        {spread(bus_s, '.2f')}")
    say(f"  in the dispatcher and the books                    {spread(own_s, '.2f')}")
    say(f"  until the cards' sensors, as told, show 30 % less  {spread(measured, '.2f')}")
    say(f"  processor time of an event and its withdrawal      {_parts(spent)}")
    say(f"  shares of a core while nothing happens             {_parts(shares)}; {messages:.0f} messages a second")
    say(f"  a message's way to the server and back             {wire_s:.4f}")
    figures: dict[str, Any] = {"p99_s": _p99(whole), "median_s": median(whole), "before_s": median(before_s),
                               "bus_s": median(bus_s), "measured_p99_s": _p99(measured), "messages_per_s": messages,
                               "wire_s": wire_s, "tick_s": rates.tick_s, "state_s": rates.state_s}  # fmt: skip
    figures |= {f"{part}_cpu_s": cpu_s for part, cpu_s in spent.items()}
    figures |= {f"{part}_idle_core_share": share for part, share in shares.items()}
    return {f"nodes{nodes}_{name}": value for name, value in figures.items()}


def _p99(times: Sequence[float]) -> float:
    return float(np.quantile(times, 0.99, method="higher"))


def _parts(spent: dict[str, float]) -> str:
    return ", ".join(f"{part} {cpu_s:.2f}" for part, cpu_s in spent.items())


def _took(call: Any) -> float:
    """Wall seconds of a call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def main(argv: list[str] | None = None) -> None:
    """Run from the command line; `--part NAME`, as often as one likes, for a part of it; `--tick-s` and `--state-s` for
    the nodes' rates, by default the product's, of ten thousand a tenth of them."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--part", action="append", default=[], choices=PARTS)
    options.add_argument("--tick-s", type=float)
    options.add_argument("--state-s", type=float)
    asked, others = options.parse_known_args(argv)
    timed = partial(measure, parts=asked.part, tick_s=asked.tick_s, state_s=asked.state_s)
    run("reaction", __doc__.splitlines()[0], timed, others)


if __name__ == "__main__":
    main()
