"""What a job system may offer beside its port (`JobSystem` in ports.py), each a Protocol that the loops ask for.

Why apart: these are for batch systems outside of Gridpace, in which other people's jobs wait and run.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol, runtime_checkable

from optimizer.reasons import Note


@runtime_checkable
class WorkKeeper(Protocol):
    """A job system outside of Gridpace, in which jobs can be held: it tells what is wrong, and lets them go."""

    def notes(self) -> tuple[Note, ...]:
        """What a person should know about it and its jobs now."""
        ...

    def release(self) -> tuple[Note, ...]:
        """Let everything go that we hold there, before we leave; what did not work."""
        ...

    def close(self) -> None:
        """End the threads; what is held stays held, and in the books."""
        ...


@runtime_checkable
class Drainable(Protocol):
    """A job system that can stop everything at once, leave of the owners or not, where its config allows it."""

    def emergency(self, on: bool) -> None:
        """Whether an emergency that may go below floors is in force now; told every tick, so it must return at once."""
        ...


@runtime_checkable
class StartTeller(Protocol):
    """A job system outside that shows its people when a job that waits is expected to start."""

    def expect(self, starts: Mapping[str, datetime]) -> None:
        """When the plan lets each job start, of those that it lets start at all; told with each plan. Returns at
        once."""
        ...


@runtime_checkable
class Quietable(Protocol):
    """A job system outside in which nothing is stopped or started while Gridpace only looks."""

    def quiet(self, on: bool) -> None:
        """Whether no order may be written now (`observe`, `advise`, paused): what is held is let go, and nothing else
        is done. Told every tick before `apply`, so it must return at once."""
        ...


@runtime_checkable
class EndTeller(Protocol):
    """A job system outside that tells how a job ended which is in no snapshot any more. Nobody tells it the progress
    of jobs: that is how long they ran."""

    def ended(self, job: str) -> tuple[bool, datetime] | None:
        """Whether it was done (else it failed or was cancelled), and when it ended; None: nobody knows. Returns at
        once."""
        ...
