"""One small site, wired as the daemon wires it, for timing its fast loop: on NVML's cards or on simulated ones.

Why through the wiring: what is timed must be what runs. The books lie on disk and are flushed at every order.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from pathlib import Path

from adapters.ports import Clock, EventMessage, EventTarget
from scheduler.config import load_config
from scheduler.control import run_tick
from scheduler.cycle import run_cycle
from scheduler.dispatch import Dispatcher
from scheduler.dispatch_notes import Dispatched
from scheduler.orders import PoolOrder
from scheduler.planner import InlinePlanner
from scheduler.store.store import Store
from scheduler.wiring import Parts, build

CONFIG = """
mode: control
currency: USD
horizon: 6h
state_dir: state
sites:
  - {{id: lab, timezone: Etc/UTC, price: energy, limit_kw: 10000}}
pools:
  - {{id: train, site: lab, gpu_model: A100-400W, count: {count}, work: training, curve: A100-400W/pt_mpt_7b_fast,
     value_per_gpu_h: 1.0, floor: 0.5}}
signals:
  - {{id: energy, type: constant, unit: USD/MWh, value: 60}}
power: {{type: {kind}}}
meters: [{{type: {kind}}}]
"""


@dataclass
class TimedDispatcher(Dispatcher):
    """The dispatcher, with the seconds of each of its turns that wrote something."""

    turns_s: list[float] = field(default_factory=list)

    def apply(self, orders: Mapping[str, PoolOrder], lease_s: float, now: datetime) -> Dispatched:
        """See Dispatcher."""
        started = time.perf_counter()
        done = super().apply(orders, lease_s, now)
        if done.pools:
            self.turns_s.append(time.perf_counter() - started)
        return done


@dataclass
class Node:
    """The running parts; whoever holds them moves the clock."""

    parts: Parts
    dispatcher: TimedDispatcher

    def tick(self) -> None:
        """One turn of the fast loop."""
        run_tick(self.parts.ctx, self.parts.state)

    def import_kw(self) -> float:
        """What the meter says now."""
        reading = self.parts.ctx.meter.read()
        return reading.import_kw.get("lab", sum(reading.pool_kw.values()))

    def accept(self, name: str, limit_kw: float) -> None:
        """Accept an event that begins now, without a ramp."""
        now = self.parts.ctx.clock.now()
        end = now + timedelta(hours=1)
        targets = (EventTarget(now, end, limit_kw=limit_kw),)
        self.parts.facade.accept(EventMessage(name, 1, "lab", now, end, targets, ramp_in_s=0.0, ramp_out_s=0.0))


@contextmanager
def node(folder: Path, clock: Clock, kind: str, count: int) -> Iterator[Node]:
    """A site of `count` GPUs of that kind ("nvml", "simulated"), planned once and with its free orders in force."""
    folder.mkdir(parents=True)
    path = folder / "gridpace.yaml"
    path.write_text(CONFIG.format(kind=kind, count=count), encoding="utf-8")
    config = load_config(path)
    store = Store.open(folder / "books.sqlite")
    parts = build(config, clock, store, InlinePlanner())
    try:
        plain = parts.ctx.dispatcher
        timed = TimedDispatcher(**{part.name: getattr(plain, part.name) for part in fields(plain) if part.init})
        parts.ctx = replace(parts.ctx, dispatcher=timed)
        parts.facade.ctx = parts.utility.ctx = parts.ctx
        run_cycle(parts.ctx, parts.state)
        made = Node(parts, timed)
        made.tick()
        yield made
    finally:
        parts.close()
