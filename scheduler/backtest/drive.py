"""Turns the daemon's own two loops through a window of virtual time, and writes down what the meters counted.

Why so short: everything that decides is imported. What differs from the daemon is only who moves the clock, and that a
failure ends the run instead of being logged: a backtest that hides one would be worthless.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime

from adapters.devices.simulated import SimulatedDevice
from adapters.hall import SimulatedHall
from adapters.jobs.queue import JobQueue
from optimizer.domain import GridEvent
from optimizer.timegrid import TimeGrid
from scheduler.backtest.outcome import Outcome, Recorder
from scheduler.clock import VirtualClock
from scheduler.control import run_tick
from scheduler.cycle import expire_notes, run_cycle
from scheduler.supply import offered_kw
from scheduler.timing import next_boundary
from scheduler.wiring import Parts

Progress = Callable[[float], None]
"""Told the share of the window that is done, 0 to 1."""


@dataclass
class Driven:
    """What came out of a drive: readings, events as they were agreed (voluntary ones open, and which of them the site
    took part in), and how the loops fared."""

    recorder: Recorder
    events: dict[str, GridEvent] = field(default_factory=dict)
    took_part: frozenset[str] = frozenset()
    woken: dict[str, int] = field(default_factory=dict)
    cycles: int = 0
    ticks: int = 0
    rungs: Counter[str] = field(default_factory=Counter)
    alerts: Counter[str] = field(default_factory=Counter)
    slowest_cycle_s: float = 0.0

    def outcome(self, grid: TimeGrid) -> Outcome:
        """What was done, on the settlement grid."""
        return replace(self.recorder.outcome(grid), took_part=self.took_part, woken=self.woken)


def drive(
    parts: Parts, clock: VirtualClock, hall: SimulatedHall, queue: JobQueue, end: datetime, progress: Progress
) -> Driven:
    """Run both loops from the clock's present until `end`."""
    start = next_cycle = clock.now()
    devices = {name: device for name, device in parts.ctx.devices.items() if isinstance(device, SimulatedDevice)}
    driven = Driven(Recorder(start, devices=devices))
    woken: list[bool] = []
    parts.wake.listeners.append(lambda: woken.append(True))
    while True:
        now = clock.now()
        driven.recorder.read(hall.counters(), {job.id: job for job in queue.everything()})
        driven.recorder.offer(now, offers_now(parts, now))
        if now >= end:
            break
        parts.utility.poll(now)
        if now >= next_cycle or woken:
            woken.clear()
            _cycle(parts, driven)
            next_cycle = next_boundary(now, parts.ctx.timing.interval)
            progress((now - start) / (end - start))
        _tick(parts, driven, woken)
        clock.sleep(min(parts.ctx.timing.control_period, end - now).total_seconds())
    driven.woken = {pool: count + hall.parking.parked(pool) for pool, count in hall.parking.woken.items()}
    for row in parts.ctx.ledger.voluntary():
        driven.events[row.event.id] = replace(row.event, opted=None)
        if row.opt == "in":
            driven.took_part |= {row.event.id}
    progress(1.0)
    return driven


def offers_now(parts: Parts, now: datetime) -> dict[str, float]:
    """Reserve in kW that the plan in force offers."""
    offers = (offer.id for site in parts.ctx.sites.values() for offer in site.reserves)
    return {name: offered_kw(parts.state.plan, name, now) for name in offers}


def _cycle(parts: Parts, driven: Driven) -> None:
    """One turn of the slow loop."""
    report = run_cycle(parts.ctx, parts.state)
    expire_notes(parts.state, report)
    driven.cycles += 1
    driven.rungs[report.rung] += 1
    driven.slowest_cycle_s = max(driven.slowest_cycle_s, report.duration_s)
    for event in parts.ctx.ledger.active(report.at):
        if not event.voluntary:
            driven.events[event.id] = event


def _tick(parts: Parts, driven: Driven, woken: list[bool]) -> None:
    """One turn of the fast loop; a change of an event's state plans at once."""
    tick = run_tick(parts.ctx, parts.state)
    driven.ticks += 1
    driven.alerts.update(note.code.value for note in tick.notes if note.severity == "alert")
    if parts.ctx.ledger.advance(tick.at) or parts.state.wake.is_set():
        parts.state.wake.clear()
        woken.append(True)
