"""A daemon over a fleet of simulated nodes, both loops under its own timer, for timing events from the moment at which
they are accepted.

What is timed is what runs: the message goes through the door of every channel (`Facade.accept`), the fast loop is woken
as the daemon wakes it, the planner's child plans meanwhile, and trajectories go to every node. All shares this machine.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from pathlib import Path

import structlog

from adapters.ports import EventMessage, EventTarget
from adapters.power.fleet import FleetPower
from benchmarks.support.twin_fleet import Nodes, Rates, cpu_s, messages, round_trip_s, twin_nodes
from scheduler.config import load_config
from scheduler.daemon import settle
from scheduler.dispatch import Dispatcher
from scheduler.dispatch_notes import Dispatched
from scheduler.orders import PoolOrder
from scheduler.running import App
from scheduler.store.store import Store
from scheduler.takeover import reconcile
from scheduler.wiring import build

CONFIG = """
mode: control
currency: USD
horizon: 6h
state_dir: state
sites:
  - {{id: hall, timezone: Etc/UTC, price: energy, limit_kw: 1000000}}
pools:
  - {{id: train, site: hall, gpu_model: A100-400W, count: {cards}, work: training, curve: A100-400W/pt_mpt_7b_fast,
     value_per_gpu_h: 2.0, floor: 0.3, gpus: {{all: true}}}}
signals:
  - {{id: energy, type: constant, unit: USD/MWh, value: 60}}
power: {{type: fleet, servers: ["{url}"], replicas: 1, deadline: 60s, nodes: {names}}}
meters: [{{type: nvml}}]
"""
START_S, EVENT_S, QUIET_S = 240.0, 60.0, 2.0
"""At most so long until all cards answer and the first plan is in force; until an event's order has been obeyed; so
long must nothing have been written, nor a plan be made, before the next event."""


@dataclass(frozen=True)
class Turn:
    """A turn of the dispatcher that wrote: when it began and was over (perf_counter), seconds on the bus, cards that
    did not follow."""

    begun: float
    over: float
    bus_s: float
    failed: int


@dataclass
class WatchedDispatcher(Dispatcher):
    """The dispatcher, with its turns."""

    turns: list[Turn] = field(default_factory=list)
    cap_w: int = 0

    def apply(self, orders: Mapping[str, PoolOrder], lease_s: float, now: datetime) -> Dispatched:
        """See Dispatcher."""
        begun = time.perf_counter()
        done = super().apply(orders, lease_s, now)
        if done.pools:
            self.cap_w = orders["train"].cap_w
            self.turns.append(Turn(begun, time.perf_counter(), done.seconds, sum(map(len, self.unreached().values()))))
        return done


@dataclass(frozen=True)
class Reaction:
    """Seconds from the accepted event to the last limit read back; of that until the order goes to the dispatcher, and
    on the bus and in the nodes; and until the cards' own sensors, as told, show what was asked for."""

    whole_s: float
    before_s: float
    bus_s: float
    measured_s: float


@dataclass
class LiveFleet:
    """The running parts."""

    app: App
    dispatcher: WatchedDispatcher
    power: FleetPower
    nodes: Nodes
    number: int = 0

    def drawn_kw(self) -> float:
        """What all cards draw, as their nodes told it last."""
        return sum(sum(state.draw_w.values()) for state in self.power.states().values()) / 1000.0

    def event(self, share: float) -> Reaction:
        """Ask for `share` of the present power, and withdraw the event once it is measured. RuntimeError when a card
        does not follow."""
        ctx, facade = self.app.parts.ctx, self.app.parts.facade
        aim_kw, now = share * self.drawn_kw(), ctx.clock.now()
        end, self.number = now + timedelta(hours=1), self.number + 1
        targets = (EventTarget(now, end, limit_kw=aim_kw),)
        asked = EventMessage(f"e{self.number}", 1, "hall", now, end, targets, ramp_in_s=0.0, ramp_out_s=0.0,
                             rebound_s=0.0)  # fmt: skip
        self.dispatcher.turns.clear()
        started = time.perf_counter()
        facade.accept(asked)
        _until(lambda: bool(self._since(started)), EVENT_S, "no order went out")
        first = self._since(started)[0]
        _until(lambda: self.drawn_kw() <= aim_kw, EVENT_S, f"the cards never drew {aim_kw:.0f} kW")
        measured_s = time.perf_counter() - started
        if first.failed:
            raise RuntimeError(f"{first.failed} cards did not follow")
        facade.accept(replace(asked, version=2, cancelled=True, targets=()))
        self.rest()
        return Reaction(first.over - started, first.begun - started, first.bus_s, measured_s)

    def _since(self, moment: float) -> list[Turn]:
        """Turns that began after it."""
        return [turn for turn in self.dispatcher.turns if turn.begun > moment]

    def rest(self) -> None:
        """Until nothing is capped, nothing is written any more and no trajectory is on its way. RuntimeError when that
        never comes."""
        state, last, since = self.app.parts.state, (0, 0.0, True), time.monotonic()
        ends = since + EVENT_S
        while time.monotonic() < ends:
            seen = (len(self.dispatcher.turns), self.dispatcher._handed_at, self.dispatcher.handing.busy)
            last, since = (seen, since) if seen == last else (seen, time.monotonic())
            quiet = time.monotonic() - since > QUIET_S and not self.dispatcher.handing.busy
            if quiet and self.dispatcher.cap_w >= 400 and state.followed is state.decision:
                return
            time.sleep(0.05)
        raise RuntimeError("the fleet does not come to rest")

    def cpu_s(self) -> dict[str, float]:
        """Seconds of processor time so far: of the server, of the nodes, and of the daemon (this process)."""
        spent = {part: sum(cpu_s(pid) for pid in pids) for part, pids in self.nodes.processes.items()}
        return spent | {"daemon": time.process_time()}

    def idle(self, seconds: float) -> tuple[dict[str, float], float]:
        """Shares of a core while nothing happens, and messages that the server takes in a second."""
        before, taken, started = self.cpu_s(), messages(self.nodes.monitor), time.monotonic()
        time.sleep(seconds)
        took = time.monotonic() - started
        shares = {part: (spent - before[part]) / took for part, spent in self.cpu_s().items()}
        return shares, (messages(self.nodes.monitor) - taken) / took

    def round_trip_s(self) -> float:
        """Median seconds of a message to the server and back."""
        return round_trip_s(self.power)


@contextmanager
def live_fleet(folder: Path, nodes: int, rates: Rates, gpus: int = 8) -> Iterator[LiveFleet]:
    """The daemon over `nodes` simulated nodes, its first plan in force. RuntimeError where that takes too long."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with ExitStack() as stack:
        made = stack.enter_context(twin_nodes(folder, nodes, gpus, rates))
        path = folder / "gridpace.yaml"
        path.write_text(CONFIG.format(cards=nodes * gpus, url=made.url, names=json.dumps(made.names)), encoding="utf-8")
        parts = build(load_config(path), store=Store.open(folder / "books.sqlite"))
        power = parts.hardware.power
        assert isinstance(power, FleetPower)
        plain = parts.ctx.dispatcher
        watched = WatchedDispatcher(**{part.name: getattr(plain, part.name) for part in fields(plain) if part.init})
        parts.ctx = replace(parts.ctx, dispatcher=watched)
        parts.facade.ctx = parts.utility.ctx = parts.ctx
        reconcile(parts)
        app = App(parts)
        stack.callback(app.parts.close)
        app.timer.start()
        stack.callback(app.timer.stop)
        fleet = LiveFleet(app, watched, power, made)
        _until(lambda: bool(watched.turns), START_S, "no first order went out")
        fleet.rest()
        settle()  # as the daemon does once it is built
        yield fleet


def _until(done: object, seconds: float, otherwise: str) -> None:
    """Look every 2 ms. RuntimeError after so many seconds."""
    assert callable(done)
    ends = time.monotonic() + seconds
    while not done():
        if time.monotonic() > ends:
            raise RuntimeError(otherwise)
        time.sleep(0.002)
