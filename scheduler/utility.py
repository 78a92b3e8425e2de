"""Events of the past, delivered again: what a simulated clock and the backtests get instead of a phone call.

They take the very same way as a utility's message, from the ledger on; only their signature is missing, because they
come from the operator's own config and never under the wall clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from adapters.ports import EventMessage, EventTarget
from optimizer.timegrid import require_utc
from scheduler.clock import WallClock
from scheduler.config import Config, ProgramConfig
from scheduler.config.program import RecordedEventConfig
from scheduler.engine import Context
from scheduler.facade import Facade
from scheduler.service import EventAnswer


@dataclass
class Utility:
    """Hands each recorded event over once, `notice` before its start."""

    config: Config
    facade: Facade
    ctx: Context
    _told: set[str] = field(default_factory=set)

    def poll(self, now: datetime) -> tuple[EventAnswer, ...]:
        """Deliver what is due at `now`; empty under the wall clock."""
        if isinstance(self.ctx.clock, WallClock):
            return ()
        answers = []
        for program in self.config.programs:
            for event in program.recorded:
                if event.id not in self._told and now >= event.start - event.notice:
                    self._told.add(event.id)
                    answers.append(self.facade.accept(recorded_message(program, event)))
        return tuple(answers)


def recorded_message(program: ProgramConfig, event: RecordedEventConfig) -> EventMessage:
    """A recorded event as the message that it was."""
    start, end = require_utc(event.start), require_utc(event.end)
    target = EventTarget(start, end, event.limit_kw, event.reduce_kw, event.reduce_percent)
    return EventMessage(
        id=event.id,
        version=1,
        site=program.site,
        start=start,
        end=end,
        targets=(target,),
        priority=event.priority,
        emergency=event.emergency,
        program=program.id,
        source="recorded",
        name=event.id,
    )
