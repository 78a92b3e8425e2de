"""Both loops of the daemon under a virtual clock, the fast one every second: what a benchmark drives and watches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from scheduler.clock import VirtualClock
from scheduler.control import run_tick
from scheduler.cycle import expire_notes, run_cycle
from scheduler.status import Tick
from scheduler.timing import next_boundary
from scheduler.wiring import Parts

Deed = tuple[datetime, Callable[[], object]]
"""A moment, and what happens then."""


def turns(
    parts: Parts, clock: VirtualClock, end: datetime, deeds: Sequence[Deed] = (), plans: bool = True
) -> Iterator[Tick]:
    """Every tick until `end`, its second not yet passed; a plan at every interval and whenever the ledger or a message
    asks for one. `plans` False: the fast loop alone."""
    woken: list[bool] = []
    parts.wake.listeners.append(lambda: woken.append(True))
    due, left = clock.now(), sorted(deeds, key=lambda deed: deed[0])
    while clock.now() <= end:
        now = clock.now()
        while left and now >= left[0][0]:
            left.pop(0)[1]()
        if plans and (now >= due or woken):
            woken.clear()
            expire_notes(parts.state, run_cycle(parts.ctx, parts.state))
            due = next_boundary(now, parts.ctx.timing.interval)
        tick = run_tick(parts.ctx, parts.state)
        if parts.ctx.ledger.advance(tick.at):
            woken.append(True)
        yield tick
        clock.sleep(1.0)
