"""A small site on simulated GPUs under a virtual clock, wired exactly like the daemon: for tests of the loops."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from adapters.ports import Clock, EventMessage, EventTarget
from scheduler.clock import VirtualClock
from scheduler.config import load_config
from scheduler.control import run_tick
from scheduler.cycle import run_cycle
from scheduler.planner import InlinePlanner
from scheduler.status import Tick
from scheduler.store.store import Store
from scheduler.takeover import reconcile
from scheduler.wiring import Parts, build

START = datetime(2022, 9, 6, 21, tzinfo=UTC)

SITE = """
mode: control
currency: USD
interval: 5m
horizon: 12h
state_dir: state
sites:
  - {id: lab, timezone: America/Los_Angeles, price: energy, limit_kw: 100, pue: {base: 1.2}, other_it_kw: 2,
     ramp_kw_per_min: {up: 10, down: 40}}
pools:
  - {id: chat, site: lab, gpu_model: A100-400W, count: 64, work: interactive, curve: A100-400W/infer_llama_8b,
     value_per_gpu_h: 5, floor: 0.9, load: 0.95, tokens_per_gpu_h: 3.0e+6}
  - {id: train, site: lab, gpu_model: A100-400W, count: 32, work: training, curve: A100-400W/pt_mpt_7b_fast,
     value_per_gpu_h: 0.8, floor: 0.6}
  - {id: tune, site: lab, gpu_model: A100-400W, count: 32, work: batch, curve: A100-400W/ft_llama_8b_dolly}
signals:
  - {id: energy, type: constant, unit: USD/MWh, value: 60}
programs:
  - {id: elrp, site: lab, channel: {type: webhook, secret: "file:secret"}, baseline: {type: meter_before, minutes: 15}}
jobs:
  initial:
    - {id: soft, pool: tune, work_gpu_h: 60, max_gpus: 16, deadline: "2022-09-07T06:00:00Z", value_per_gpu_h: 1}
    - {id: fixed, pool: tune, work_gpu_h: 24, max_gpus: 12, deadline: "2022-09-07T00:00:00Z", value_per_gpu_h: 2,
       preemptible: false}
"""


class Lab:
    """The running parts with a clock that the test moves."""

    def __init__(self, parts: Parts, clock: Clock) -> None:
        self.parts, self.clock = parts, clock
        self.ctx, self.state, self.facade = parts.ctx, parts.state, parts.facade
        assert parts.hardware.hall is not None
        self.hall = parts.hardware.hall

    def plan(self) -> None:
        """One turn of the slow loop."""
        run_cycle(self.ctx, self.state)

    def tick(self) -> Tick:
        """One turn of the fast loop, and the ledger's own."""
        tick = run_tick(self.ctx, self.state)
        self.ctx.ledger.advance(tick.at)
        return tick

    def run(self, duration: timedelta, step_s: float = 1.0, watch: Callable[[Tick], None] | None = None) -> list[Tick]:
        """Both loops for `duration`, a tick every `step_s`, a plan at every interval and after every event."""
        end, ticks = self.clock.now() + duration, []
        due = self.clock.now()
        while self.clock.now() < end:
            if self.clock.now() >= due:
                self.plan()
                due += self.ctx.timing.interval
            ticks.append(self.tick())
            if watch is not None:
                watch(ticks[-1])
            self.clock.sleep(step_s)
        return ticks


@contextmanager
def lab(
    folder: Path,
    change: Callable[[str], str] = lambda text: text,
    store: Store | None = None,
    clock: Clock | None = None,
) -> Iterator[Lab]:
    """A lab on the config above, as changed by `change`; `clock` where the time must be the machine's."""
    (folder / "secret").write_text("a-secret-for-tests-only")
    (folder / "gridpace.yaml").write_text(change(SITE))
    clock = clock or VirtualClock(START)
    parts = build(load_config(folder / "gridpace.yaml"), clock, store or Store.in_memory(), InlinePlanner(10.0))
    try:
        reconcile(parts)
        yield Lab(parts, clock)
    finally:
        parts.close()


def order(start: datetime, end: datetime, **changes: object) -> EventMessage:
    """An event that asks the lab for a quarter less."""
    fields: dict[str, object] = {
        "id": "e1", "version": 1, "site": "lab", "start": start, "end": end, "program": "elrp", "source": "test",
        "targets": (EventTarget(start, end, reduce_percent=25.0),),
    }  # fmt: skip
    return EventMessage(**(fields | changes))  # type: ignore[arg-type]
